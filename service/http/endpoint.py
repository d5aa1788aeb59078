"""What every endpoint does the same way: answer in JSON, also a failure.

A failure is answered with its status and `{"error": "<one sentence>"}`. A fault of ours is logged
with the request's id, and tells the caller nothing but that id.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import BadInputError, ServiceError
from service.http.compression import asked_coding, compressed
from service.http.exchange import Exchange, current
from service.settings import current_settings
from service.telemetry.logs import logger

Responder = Callable[[Exchange, bytes, Callable[["Reply"], None]], Callable[[], None]]
"""Answers an exchange whose body is this: calls back with the answer, and gives what gives it up.

It may call back before it returns. Once it has, there is nothing to give up; nor is there where it
raises instead.
"""


class Reply(Response):
    """A response with the request's id, made in a fifth of the time that Starlette's takes.

    Args:
        exchange: what it answers.
        body: the whole of it.
        media_type: of the body.
        status: HTTP's.
        headers: more of them; names in lower case.
    """

    def __init__(
        self,
        exchange: Exchange,
        body: bytes,
        media_type: bytes = b"application/json",
        *,
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.lines = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
            media_type,
            len(body),
            exchange.id.encode(),
        )
        """The headers as they are sent."""
        for header in headers:
            self.lines += b"%b: %b\r\n" % header

    def coding(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """In which coding a request with these headers wants it; None where it stays as it is."""
        least = current_settings().compress_from_bytes
        return asked_coding(headers) if 0 < least <= len(self.body) else None

    def take_compressed(self, body: bytes, coding: bytes) -> None:
        """Send `body`, its own in this coding, where that is shorter."""
        if len(body) >= len(self.body):
            return
        more = [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
        length = b"content-length: %d\r\n"
        lines = b"".join(b"%b: %b\r\n" % header for header in more)
        self.lines = self.lines.replace(length % len(self.body), length % len(body) + lines, 1)
        if "raw_headers" in self.__dict__:  # it has been read, and others may have added to it
            kept = [header for header in self.raw_headers if header[0] != b"content-length"]
            self.raw_headers = [*kept, (b"content-length", b"%d" % len(body)), *more]
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, compressed where the request asks for that."""
        coding = self.coding(dict(scope["headers"])) if scope["method"] != "HEAD" else None
        if coding is not None:
            self.take_compressed(await compressed(bytes(self.body), coding), coding)
        await super().__call__(scope, receive, send)

    @functools.cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]  # as an attribute, it can be set
        """The headers, for ASGI: names in lower case."""
        pairs = (line.split(b": ", 1) for line in self.lines.splitlines())
        return [(name, value) for name, value in pairs]


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


def may_hold_booleans(body: bytes | bytearray) -> bool:
    """Whether there may be a `true` or `false` in this JSON, which to Python are 1 and 0.

    Looked for once in the bytes, instead of in every value. Both words end in an e, which digits do
    not have, and the digits mostly come last.
    """
    end = body.rfind(b"e") + 1
    return body.find(b"true", 0, end) >= 0 or body.find(b"false", 0, end) >= 0


def json_response(
    content: object,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = (),
    exchange: Exchange | None = None,
) -> Reply:
    """`content` as JSON, in answer to the current exchange where no other is named."""
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    body = orjson.dumps(content)
    return Reply(exchange or current(), body, status=status, headers=encoded)


def error_response(error: Exception, exchange: Exchange | None = None) -> Reply:
    """The answer to a request that failed: the current one, where no other is named."""
    exchange = exchange or current()
    exchange.reason = error.reason if isinstance(error, ServiceError) else "fault"
    if isinstance(error, ServiceError) and error.status != 500:
        return json_response({"error": str(error)}, error.status, error.headers, exchange)
    identity = exchange.id
    logger.error("request %s failed", identity, exc_info=error, extra={"request_id": identity})
    told = f"{error} " if isinstance(error, ServiceError) else ""
    said = f"{told}The fault is the service's; its log has it as request {identity}."
    return json_response({"error": said}, 500, exchange=exchange)


def in_a_task(respond: Callable[[Exchange, bytes], Awaitable[Reply]]) -> Responder:
    """The responder that awaits `respond`, in a task of its own."""

    def begin(
        exchange: Exchange, body: bytes, reply: Callable[[Reply], None]
    ) -> Callable[[], None]:
        async def answer() -> None:
            try:
                response = await respond(exchange, body)
            except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
                response = error_response(error, exchange)
            reply(response)

        task = asyncio.get_running_loop().create_task(answer())

        def give_up() -> None:
            task.cancel()

        return give_up

    return begin


def typed(method: Callable[..., Awaitable[Any]]) -> Any:
    """Wrap a BentoML API method, so that what it gives is sent as JSON and what it raises too."""

    @functools.wraps(method)
    async def call(service: Any, refusal: Exception | None = None, **fields: Any) -> Reply:
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
