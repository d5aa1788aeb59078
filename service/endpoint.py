"""What every endpoint does the same way: read a bounded body, and answer a failure.

A failure is answered with its status and `{"error": "<one sentence>"}`. A fault of ours is logged
with the request's id, and tells the caller nothing but that id.
"""

import functools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import BadInputError, BodyTooLargeError, ServiceError
from service.logs import logger

_request_id: ContextVar[str] = ContextVar("request_id")


def begin(request: Request) -> None:
    """Take this request's id from its `X-Request-Id`, or make one."""
    given = request.headers.get("x-request-id", "")
    plain = 0 < len(given) <= 100 and given.isascii() and given.isprintable()
    _request_id.set(given if plain else uuid.uuid4().hex)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    Raises:
        BodyTooLargeError: the body is larger, or says that it is.
        BadInputError: the caller went away before its end.
    """
    too_large = BodyTooLargeError(f"The body is larger than {limit:,} bytes; send fewer rows.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise BadInputError("The request ended before its body did.") from error
    return b"".join(chunks)


def parse_json(body: bytes) -> dict[str, Any]:
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
    identity = {"X-Request-Id": _request_id.get("")}
    return Response(
        orjson.dumps(content), status, identity | dict(headers or {}), "application/json"
    )


def error_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    if isinstance(error, ServiceError) and error.status != 500:
        retry = error.retry_after_seconds
        headers = {} if retry is None else {"Retry-After": str(retry)}
        return json_response({"error": str(error)}, error.status, headers)
    identity = _request_id.get("")
    logger.error("request %s failed", identity, exc_info=error)
    told = f"{error} " if isinstance(error, ServiceError) else ""
    return json_response(
        {"error": f"{told}The fault is the service's; its log has it as request {identity}."}, 500
    )


def typed(method: Callable[..., Awaitable[Any]]) -> Any:
    """Wrap a BentoML API method, so that what it gives is sent as JSON and what it raises too."""

    @functools.wraps(method)
    async def call(service: Any, refusal: Exception | None = None, **fields: Any) -> Response:
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
        begin(request)
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            return error_response(error)

    return call
