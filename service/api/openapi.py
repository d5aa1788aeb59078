"""The OpenAPI description of the whole service: typed endpoints, protocol, pages."""

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

from models.card import ModelCard, TensorSpec
from service.api.playground import MEDIA_TYPES
from service.api.rows.dialects import example_of
from service.api.rows.predict import DIALECT as PREDICT
from service.api.rows.routes import DIALECTS, PAGES
from service.api.v2.routes import PREFIX, ROUTES
from service.errors import (
    MethodNotAllowedError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownPathError,
)


def openapi_of(service: Any, name: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI description of every endpoint.

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
            path["post"]["responses"] = {"200": responses["200"], **_failures(ServiceError)}
    schemes = {"bearer": {"type": "http", "scheme": "bearer", "description": "an API key"}}
    specification["components"]["securitySchemes"] = schemes
    specification["security"] = [{}, {"bearer": []}]
    specification["paths"] |= {
        "/": {
            "get": {
                "summary": "The playground.",
                "responses": {"200": {"description": "Success", "content": {"text/html": {}}}},
                "security": [{}],
            }
        },
        "/playground/{file}": {
            "get": {
                "summary": "A file of the playground.",
                "parameters": [_parameter("file", "main.js")],
                "responses": {
                    "200": {"description": "Success", "content": _any_of(MEDIA_TYPES.values())},
                    **_failures(UnknownPathError),
                },
                "security": [{}],
            }
        },
        "/models": {
            "get": _operation(
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
            "get": _operation(
                "The whole card of one model, and how it is served.",
                {},
                _parameter("name", "mnist-cnn"),
            )
        },
        "/models/{name}/report/{file}": {
            "get": {
                "summary": "A picture of a model's report; the card's `files` lists them.",
                "parameters": [
                    _parameter("name", "mnist-cnn"),
                    _parameter("file", "loss-curves.png"),
                ],
                "responses": {
                    "200": {"description": "Success", "content": _any_of(("image/png",))},
                    **_failures(UnknownModelError, UnknownPathError, NotReadyError),
                },
            }
        },
        "/metrics": {
            "get": {
                "summary": "The metrics of all workers in the Prometheus format.",
                "responses": {"200": {"description": "Success", "content": {"text/plain": {}}}},
            }
        },
        **_protocol(),
        **_rows(),
    }
    return specification


def openapi_with_models(
    specification: Mapping[str, Any], cards: Iterable[ModelCard]
) -> dict[str, Any]:
    """Return a description with a path for each model, and an example of its own.

    Args:
        specification: of `openapi_of`.
        cards: of the models that serve.
    """
    paths = dict(specification.get("paths", {}))
    for card in cards:
        operation = _operation(card.summary, PREDICT.response)
        operation["requestBody"] = _json_body(_instances(card))
        operation["responses"] |= _failures(ServiceError)
        paths[f"/models/{card.name}/predict"] = {"post": operation}
    return {**specification, "paths": paths}


def _instances(card: ModelCard) -> dict[str, Any]:
    """Return the schema of a model's rows, with the recorded example if that is not too long."""
    values = {spec.name: _value(spec) for spec in card.inputs}
    row: dict[str, Any] = {"type": "object", "required": list(values), "properties": values}
    if len(values) == 1:
        (row,) = values.values()
    instances = {"type": "array", "minItems": 1, "items": row, "description": "rows"}
    properties = {"instances": instances}
    schema = {"type": "object", "required": ["instances"], "properties": properties}
    if sum(len(tensor.data) for tensor in card.example.inputs.values()) <= _LONGEST_EXAMPLE:
        schema["example"] = example_of(card)
    return schema


def _value(spec: TensorSpec) -> dict[str, Any]:
    """Return the schema of one row of an input."""
    kinds = {"f": "number", "b": "boolean", "O": "string"}
    schema: dict[str, Any] = {"type": kinds.get(spec.dtype.kind, "integer")}
    for size in reversed(spec.row_shape):
        schema = {"type": "array", "items": schema}
        if size != -1:
            schema |= {"minItems": size, "maxItems": size}
    meaning = "" if spec.meaning == "not stated" else f"{spec.meaning}; "
    return {**schema, "description": f"{meaning}{spec.to_text()}"}


def _rows() -> dict[str, Any]:
    """Return the paths of predictions in rows, for any model."""
    paths: dict[str, Any] = {}
    for dialect in DIALECTS.values():
        named = "{model}" in dialect.endpoint
        parameter = _parameter("model", _EXAMPLE_MODEL)
        if not named:
            parameter |= {"name": "X-Model", "in": "header", "required": False}
        operation = _operation(dialect.summary, dialect.response, parameter)
        operation["requestBody"] = _json_body(_INSTANCES)
        operation["responses"] |= _failures(ServiceError)
        paths[dialect.endpoint] = {"post": operation}
    for path, page in PAGES.items():
        parameters = [_parameter("model", _EXAMPLE_MODEL)] if "{model}" in path else []
        operation = _operation(inspect.getdoc(page) or "", {}, *parameters)
        if path == "/ping":
            operation["responses"] |= _failures(NotReadyError)
        paths[path] = {"get": operation}
    return paths


def _json_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _protocol() -> dict[str, Any]:
    """Return the paths of the V2 protocol. `/versions/{version}` may follow the name of a model."""
    paths: dict[str, Any] = {}
    for pattern, (method, handler) in ROUTES.items():
        parameters = [_parameter("model", "curve-tanh")] if "{model}" in pattern else []
        operation = _operation(inspect.getdoc(handler) or "", {}, *parameters)
        if pattern.endswith("/infer"):
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": _INFER}},
            }
            operation["responses"] = {
                "200": _success(_INFER_RESPONSE),
                **_failures(ServiceError),
            }
        elif pattern == "/repository/index":
            operation["requestBody"] = {"content": {"application/json": {"schema": _INDEX}}}
            operation["responses"] |= _failures(ServiceError)
        paths[PREFIX + pattern] = {method.lower(): operation}
    return paths


_EXAMPLE_MODEL = "curve-tanh"
_LONGEST_EXAMPLE = 2_000
"""The most values of an example in the description."""
_INSTANCES = {
    "type": "object",
    "properties": {
        "instances": {
            "type": "array",
            "items": {},
            "description": "rows: each the value of the only input, or an object of the inputs",
        }
    },
    "example": {"instances": [[0], [5], [10.5]]},
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
    "example": {
        "id": "1",
        "parameters": {"timeout": 1_000_000},
        "inputs": [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0, 5, 10.5]}],
        "outputs": [{"name": "y"}],
    },
}
_INFER_RESPONSE = {name: {"type": "string"} for name in ("model_name", "model_version", "id")} | {
    "outputs": {"type": "array", "items": {"type": "object"}}
}


def _operation(
    summary: str, properties: Mapping[str, Any], *parameters: dict[str, Any]
) -> dict[str, Any]:
    failures = _failures(UnknownModelError, NotReadyError) if parameters else {}
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": _success(properties), **failures},
    }


def _success(properties: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties} if properties else {}
    return {"description": "Success", "content": {"application/json": {"schema": schema}}}


def _any_of(media_types: Iterable[str]) -> dict[str, Any]:
    return {media_type.partition(";")[0]: {} for media_type in media_types}


def _parameter(name: str, example: str) -> dict[str, Any]:
    text = {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": text, "example": example}


def _failures(*kinds: type[ServiceError]) -> dict[str, Any]:
    """Return the responses of these kinds of errors and their subclasses."""
    every = {kind for base in kinds for kind in (base, *base.__subclasses__())}
    every -= {UnknownPathError, MethodNotAllowedError} - set(
        kinds
    )  # errors of other paths and methods
    statuses: dict[str, list[str]] = {}
    for kind in sorted(every, key=lambda kind: (kind.status, kind.__name__)):
        summary = (kind.__doc__ or "").splitlines()[0]
        statuses.setdefault(str(kind.status), []).append(summary)
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        status: {
            "description": " Or: ".join(summaries),
            "content": {"application/json": {"schema": schema}},
        }
        for status, summaries in statuses.items()
    }
