"""Parts of an OpenAPI description: operations, bodies, parameters and responses."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.errors import (
    MethodNotAllowedError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownPathError,
)


def json_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request body of JSON."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def operation(
    summary: str, properties: Mapping[str, Any], *parameters: dict[str, Any]
) -> dict[str, Any]:
    """Return an operation, whose response in JSON has these properties."""
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": success(properties),
            **(failures(UnknownModelError, NotReadyError) if parameters else {}),
        },
    }


def success(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response 200 in JSON."""
    schema = {"type": "object", "properties": properties} if properties else {}
    return {"description": "Success", "content": {"application/json": {"schema": schema}}}


def any_of(media_types: Iterable[str]) -> dict[str, Any]:
    """Return a content of any of these media types."""
    return {media_type.partition(";")[0]: {} for media_type in media_types}


def parameter(name: str, example: str) -> dict[str, Any]:
    """Return a parameter in the path."""
    text = {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": text, "example": example}


def failures(*kinds: type[ServiceError]) -> dict[str, Any]:
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
