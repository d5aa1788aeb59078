"""What every endpoint does the same way: answer in JSON, also a failure.

A failure is answered with its status and `{"error": "<one sentence>"}`. A fault of ours is logged
with the request's id, and tells the caller nothing but that id.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.errors import BadInputError, ServiceError
from service.exchange import current
from service.logs import logger

Responder = Callable[[bytes], Awaitable[Response]]
"""Answers the current exchange, whose body is this."""


def parse_json(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        BadInputError: it holds something else.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"The body is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadInputError("The body must be a JSON object.")
    return content


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON, with the request's id."""
    identity = {"X-Request-Id": current().id}
    return Response(
        orjson.dumps(content), status, identity | dict(headers or {}), "application/json"
    )


def error_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    if isinstance(error, ServiceError) and error.status != 500:
        return json_response({"error": str(error)}, error.status, dict(error.headers))
    identity = current().id
    logger.error("request %s failed", identity, exc_info=error)
    told = f"{error} " if isinstance(error, ServiceError) else ""
    return json_response(
        {"error": f"{told}The fault is the service's; its log has it as request {identity}."}, 500
    )


def typed(method: Callable[..., Awaitable[Any]]) -> Any:
    """Wrap a BentoML API method, so that what it gives is sent as JSON and what it raises too."""

    @functools.wraps(method)
    async def call(service: Any, refusal: Exception | None = None, **fields: Any) -> Response:
        current().endpoint = f"/{method.__name__}"
        try:
            if refusal is not None:
                raise refusal
            return json_response(await method(service, **fields))
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            return error_response(error)

    return call


def plain(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a Starlette handler, so that what it raises is answered."""

    @functools.wraps(handler)
    async def call(request: Request) -> Response:
        current().endpoint = getattr(request.scope.get("route"), "path", "other")
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            return error_response(error)

    return call
