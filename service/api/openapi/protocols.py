"""The paths of the protocols, for any model: V2, and each dialect of predictions in rows."""

import inspect
from collections.abc import Mapping
from typing import Any

from models.package.card import ModelCard
from service.api.openapi.models import rows_example, tensors_example
from service.api.openapi.parts import failures, json_body, operation, parameter, success
from service.api.rows.routes import DIALECTS
from service.api.rows.status import HEALTH, MODEL_PAGES, PAGES
from service.api.v2.routes import PREFIX, ROUTES
from service.errors import NotReadyError, ServiceError


def rows_paths(shown: ModelCard | None) -> dict[str, Any]:
    """Return the paths of predictions in rows.

    Args:
        shown: the card of the model in the examples; None if no model serves.
    """
    paths: dict[str, Any] = {}
    for dialect in DIALECTS.values():
        if not dialect.endpoint:
            continue  # Vertex AI knows the path that it sets
        model = _model(shown)
        if "{model}" not in dialect.endpoint:
            model |= {"name": "X-Model", "in": "header", "required": False}
        described = operation(dialect.summary, dialect.response, model)
        example = shown and rows_example(shown)
        described["requestBody"] = json_body(_with_example(_INSTANCES, example))
        described["responses"] |= failures(ServiceError)
        paths[dialect.endpoint] = {"post": described}
    for path, page in PAGES.items():
        paths[path] = {"get": operation(_summary(page), {})}
        if page is PAGES[HEALTH]:
            paths[path]["get"]["responses"] |= failures(NotReadyError)
    for path, model_page in MODEL_PAGES.items():
        paths[path] = {"get": operation(_summary(model_page), {}, _model(shown))}
    return paths


def protocol_paths(shown: ModelCard | None) -> dict[str, Any]:
    """Return the paths of the V2 protocol; `/versions/{version}` may follow the name of a model.

    Args:
        shown: the card of the model in the examples; None if no model serves.
    """
    paths: dict[str, Any] = {}
    for pattern, (method, handler) in ROUTES.items():
        parameters = [_model(shown)] if "{model}" in pattern else []
        described = operation(_summary(handler), {}, *parameters)
        if pattern.endswith("/infer"):
            example = shown and tensors_example(shown)
            described["requestBody"] = json_body(_with_example(_INFER, example))
            described["responses"] = {"200": success(_INFER_RESPONSE), **failures(ServiceError)}
        elif pattern == "/repository/index":
            described["requestBody"] = {"content": {"application/json": {"schema": _INDEX}}}
            described["responses"] |= failures(ServiceError)
        paths[PREFIX + pattern] = {method.lower(): described}
    return paths


def _model(shown: ModelCard | None) -> dict[str, Any]:
    return parameter("model", shown.name if shown else "my-model")


def _summary(handler: object) -> str:
    return inspect.getdoc(handler) or ""


def _with_example(schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    return {**schema, **({"example": example} if example else {})}


_INSTANCES = {
    "type": "object",
    "properties": {
        "instances": {
            "type": "array",
            "items": {},
            "description": "rows: each the value of the only input, or an object of the inputs",
        }
    },
}
_INDEX = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean", "description": "whether to list only models that are ready"}
    },
    "example": {"ready": True},
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "returned with the response"},
        "parameters": {
            "type": "object",
            "description": "`timeout` in microseconds; `binary_data_output` for binary tensors",
        },
        "inputs": {
            "type": "array",
            "items": {"type": "object"},
            "description": "each with name, shape, datatype and data, flat or nested; "
            "GET the model for its names, shapes and datatypes",
        },
        "outputs": {
            "type": "array",
            "items": {"type": "object"},
            "description": "the names of the requested outputs, all by default; "
            "the parameter `classification` is the number of best classes to return",
        },
    },
}
_INFER_RESPONSE = {name: {"type": "string"} for name in ("model_name", "model_version", "id")} | {
    "outputs": {"type": "array", "items": {"type": "object"}}
}
