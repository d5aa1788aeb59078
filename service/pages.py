"""What the service says of itself: the models' cards, the OpenAPI description, the metrics."""

import asyncio
import inspect
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service import metrics
from service.catalog import Catalog, describe
from service.endpoint import json_response, plain
from service.errors import (
    MethodNotAllowedError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownPathError,
)


def create_pages() -> Starlette:
    """The mounted application; its `state.catalog` and `state.openapi` are set at start-up."""
    return Starlette(
        routes=[
            Route("/models", plain(_models)),
            Route("/models/{name}", plain(_model)),
            Route("/docs.json", plain(_docs)),
            Route("/metrics", plain(_metrics)),
        ]
    )


async def _models(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    return json_response(
        {"models": [describe(predictor) for predictor in catalog], "refused": catalog.refused}
    )


async def _model(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    return json_response(describe(catalog[request.path_params["name"]]))


async def _docs(request: Request) -> Response:
    return json_response(request.app.state.openapi)


async def _metrics(request: Request) -> Response:
    content = await asyncio.to_thread(metrics.exposition)
    return Response(content, media_type=metrics.CONTENT_TYPE)


def openapi_of(service: Any, name: str, version: str) -> dict[str, Any]:
    """The OpenAPI description of every endpoint.

    Args:
        service: BentoML's service, which describes the typed endpoints.
        name: what the page calls it.
        version: of the release.
    """
    # Through JSON, because BentoML keys its responses by numbers.
    specification: dict[str, Any] = json.loads(json.dumps(service.openapi_spec.asdict()))
    specification["info"] = {
        "title": name,
        "version": version,
        "description": inspect.getdoc(service.inner),
    }
    schemas = specification["components"]["schemas"]
    for unused in ("TaskStatusResponse", "InvalidArgument", "NotFound", "InternalServerError"):
        schemas.pop(unused, None)
    schemas["Error"] = {
        "type": "object",
        "properties": {"error": {"type": "string", "description": "what to change"}},
        "required": ["error"],
    }
    for path in specification["paths"].values():
        if "x-bentoml-name" in path.get("post", {}):
            answers = path["post"]["responses"]
            path["post"]["responses"] = {"200": answers["200"], **_failures(ServiceError)}
    specification["paths"]["/models"] = _get(
        "The cards of all models that serve, and why others were refused.",
        {
            "type": "object",
            "properties": {
                "models": {"type": "array", "items": {"type": "object"}},
                "refused": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
    )
    specification["paths"]["/models/{name}"] = _get(
        "The card of one model, and how it is served.",
        {"type": "object"},
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"},
         "example": "mnist-cnn"},
    )  # fmt: skip
    return specification


def _get(summary: str, schema: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": "Success", "content": {"application/json": {"schema": schema}}}
    failures = _failures(UnknownModelError, NotReadyError) if parameters else {}
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": {"200": answer, **failures},
        }
    }


def _failures(*kinds: type[ServiceError]) -> dict[str, Any]:
    """The answers to failures of these kinds, and of the kinds below them."""
    every = {kind for base in kinds for kind in (base, *base.__subclasses__())}
    every -= {UnknownPathError, MethodNotAllowedError}  # those are of other paths and methods
    statuses: dict[str, list[str]] = {}
    for kind in sorted(every, key=lambda kind: (kind.status, kind.__name__)):
        told = (kind.__doc__ or "").splitlines()[0]
        statuses.setdefault(str(kind.status), []).append(told)
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        status: {
            "description": " Or: ".join(told),
            "content": {"application/json": {"schema": schema}},
        }
        for status, told in statuses.items()
    }
