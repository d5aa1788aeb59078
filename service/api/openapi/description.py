"""The OpenAPI description of the whole service: models, typed endpoints, protocols, pages."""

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

from models.package.card import ModelCard
from service.api.openapi.models import model_path
from service.api.openapi.parts import any_of, failures, operation, parameter
from service.api.openapi.protocols import protocol_paths, rows_paths
from service.api.static_pages import MEDIA_TYPES, STATIC_PAGES
from service.errors import NotReadyError, ServiceError, UnknownModelError, UnknownPathError

TAGS: Mapping[str, str] = {
    "Models": "Every model that is served, in its own terms.",
    "Shipped networks": "Digits, curves and points.",
    "Other protocols": "The same rows as other servers write them.",
    "Open Inference Protocol": "KServe V2: tensors, for every model.",
    "Health and metrics": "For orchestrators and Prometheus.",
    "Pages": "For people.",
}


def openapi_of(service: Any, name: str, version: str) -> dict[str, Any]:
    """Return the part of the OpenAPI description that no model changes.

    Args:
        service: BentoML's service, which describes the typed endpoints.
        name: the title.
        version: of the release.
    """
    # Through JSON, as BentoML's responses have numbers as keys.
    specification: dict[str, Any] = json.loads(json.dumps(service.openapi_spec.asdict()))
    specification["info"] = {
        "title": name,
        "version": version,
        "description": inspect.getdoc(service.inner),
    }
    specification["tags"] = [
        {"name": tag, "description": description} for tag, description in TAGS.items()
    ]
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
            responses = path["post"]["responses"]
            path["post"]["responses"] = {"200": responses["200"], **failures(ServiceError)}
    schemes = {"bearer": {"type": "http", "scheme": "bearer", "description": "an API key"}}
    specification["components"]["securitySchemes"] = schemes
    specification["security"] = [{}, {"bearer": []}]
    specification["paths"] |= _static_paths()
    specification["paths"]["/metrics"] = {
        "get": {
            "summary": "The metrics of all workers in the Prometheus format.",
            "responses": {"200": {"description": "Success", "content": {"text/plain": {}}}},
        }
    }
    return specification


def openapi_with_models(
    specification: Mapping[str, Any], cards: Iterable[ModelCard]
) -> dict[str, Any]:
    """Return the whole description: a path for each model, and examples of models that serve.

    Args:
        specification: of `openapi_of`.
        cards: of the models that serve.
    """
    cards = list(cards)
    # The shortest example is the easiest to read.
    shown = min(cards, key=lambda card: len(card.example.model_dump_json()), default=None)
    paths = {f"/models/{card.name}/predict": model_path(card) for card in cards}
    paths |= _card_paths(shown)
    paths |= specification.get("paths", {})
    paths |= rows_paths(shown) | protocol_paths(shown)
    tagged = {
        path: {
            method: {**described, "tags": [_tag(path, described)]}
            for method, described in methods.items()
        }
        for path, methods in paths.items()
    }
    return {**specification, "paths": tagged}


def _tag(path: str, described: Mapping[str, Any]) -> str:
    """Return the group in which an operation is shown."""
    if "x-bentoml-name" in described:
        return "Shipped networks"
    if path in ("/livez", "/readyz", "/healthz", "/ping", "/health", "/metrics"):
        return "Health and metrics"
    for start, tag in (
        ("/models", "Models"),
        ("/v2", "Open Inference Protocol"),
        ("/v1", "Other protocols"),
        ("/invocations", "Other protocols"),
    ):
        if path.startswith(start):
            return tag
    return "Pages"


def _static_paths() -> dict[str, Any]:
    """Return the paths of the playground and of the page of the API."""
    paths: dict[str, Any] = {}
    for page in STATIC_PAGES:
        paths[page.path] = {
            "get": {
                "summary": page.summary,
                "responses": {"200": {"description": "Success", "content": {"text/html": {}}}},
                "security": [{}],
            }
        }
        paths[page.files_path] = {
            "get": {
                "summary": f"{page.summary.removesuffix('.')}: a file of the page.",
                "parameters": [parameter("file", "main.js")],
                "responses": {
                    "200": {"description": "Success", "content": any_of(MEDIA_TYPES.values())},
                    **failures(UnknownPathError),
                },
                "security": [{}],
            }
        }
    return paths


def _card_paths(shown: ModelCard | None) -> dict[str, Any]:
    """Return the paths of the cards and their pictures."""
    name = parameter("name", shown.name if shown else "my-model")
    return {
        "/models": {
            "get": operation(
                "Summaries of all models that serve, and why others do not; `serving.notice` "
                "reports an older version than before.",
                {
                    "models": {"type": "array", "items": {"type": "object"}},
                    "refused": {"type": "object", "additionalProperties": {"type": "string"}},
                    "loading": {"type": "array", "items": {"type": "string"}},
                },
            )
        },
        "/models/{name}": {
            "get": operation("The whole card of one model, and how it is served.", {}, name)
        },
        "/models/{name}/report/{file}": {
            "get": {
                "summary": "A picture of a model's report; the card's `files` lists them.",
                "parameters": [name, parameter("file", "loss-curves.png")],
                "responses": {
                    "200": {"description": "Success", "content": any_of(("image/png",))},
                    **failures(UnknownModelError, UnknownPathError, NotReadyError),
                },
            }
        },
    }
