"""What the service says of itself: the models' cards, and the OpenAPI description."""

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.catalog import Catalog, describe
from service.endpoint import json_response, plain


def create_pages() -> Starlette:
    """The mounted application; its `state.catalog` and `state.openapi` are set at start-up."""
    return Starlette(
        routes=[
            Route("/models", plain(_models)),
            Route("/models/{name}", plain(_model)),
            Route("/docs.json", plain(_docs)),
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


def openapi_of(service: Any) -> dict[str, Any]:
    """BentoML's OpenAPI description of `service`, and the endpoints that it does not know of."""
    specification: dict[str, Any] = service.openapi_spec.asdict()

    def get(summary: str, schema: dict[str, Any], parameters: list[Any]) -> dict[str, Any]:
        answer = {
            "description": "Successful Response",
            "content": {"application/json": {"schema": schema}},
        }
        return {"get": {"summary": summary, "parameters": parameters, "responses": {"200": answer}}}

    name = {
        "name": "name", "in": "path", "required": True, "schema": {"type": "string"},
        "example": "mnist-cnn",
    }  # fmt: skip
    models = {
        "type": "object",
        "properties": {
            "models": {"type": "array", "items": {"type": "object"}},
            "refused": {"type": "object"},
        },
    }
    return {
        **specification,
        "paths": {
            **specification["paths"],
            "/models": get("The cards of all models, and what was refused.", models, []),
            "/models/{name}": get("The card of one model.", {"type": "object"}, [name]),
        },
    }
