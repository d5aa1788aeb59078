"""Responses of all endpoints: JSON, also for failures.

A failure is sent with its status and `{"error": "<one sentence>"}`. A fault of the service is
logged with the request's ID; the caller gets only the ID.
"""

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.concurrency import Cancellable
from service.errors import ServiceError
from service.http.compression import compressed, preferred_coding
from service.json_body import Body
from service.settings import SCOPE_KEY
from service.telemetry.logs import logger
from service.telemetry.request_context import RequestContext, current_request

Responder = Callable[[RequestContext, Body, Callable[["Reply"], None]], Cancellable]
"""Answers the request of a context and body; calls back with the reply, and returns a handle.

The callback may run before the handle is returned. The callback does not run if the handle is
cancelled before, or if the responder raises a `ServiceError`.
"""


class Reply(Response):
    """A response with the request's ID; its construction takes a fifth of the time of Starlette's.

    Args:
        context: of the request.
        body: the whole body.
        media_type: of the body.
        status: of HTTP.
        headers: further headers, names in lower case.
    """

    body: Body  # type: ignore[assignment]  # Starlette's own has no bytearray

    def __init__(
        self,
        context: RequestContext,
        body: Body,
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
            context.id.encode(),
        )
        """The encoded headers."""
        for header in headers:
            self.lines += b"%b: %b\r\n" % header

    def take_compressed(self, body: bytes, coding: bytes) -> None:
        """Replace the body by the compressed `body`, if that is shorter."""
        if len(body) >= len(self.body):
            return
        added = [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
        length = b"content-length: %d\r\n"
        lines = b"".join(b"%b: %b\r\n" % header for header in added)
        self.lines = self.lines.replace(length % len(self.body), length % len(body) + lines, 1)
        if "raw_headers" in self.__dict__:  # it was read, and middleware may have added headers
            others = [header for header in self.raw_headers if header[0] != b"content-length"]
            self.raw_headers = [*others, (b"content-length", b"%d" % len(body)), *added]
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, compressed if the request and the settings in the scope ask for it."""
        settings = scope.get(SCOPE_KEY)
        min_bytes = (settings and settings.compress_from_bytes) or math.inf
        coding = None
        if len(self.body) >= min_bytes and scope["method"] != "HEAD":
            coding = preferred_coding(dict(scope["headers"]))
        if coding is not None:
            self.take_compressed(await compressed(bytes(self.body), coding), coding)
        await super().__call__(scope, receive, send)

    @functools.cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]  # an attribute, which can be set
        """The headers for ASGI, names in lower case."""
        pairs = (line.split(b": ", 1) for line in self.lines.splitlines())
        return [(name, value) for name, value in pairs]


def json_response(
    content: object,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = (),
    context: RequestContext | None = None,
) -> Reply:
    """Return `content` as a JSON response to the given request, or to the current one."""
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    body = orjson.dumps(content)
    return Reply(context or current_request(), body, status=status, headers=encoded)


def error_response(error: Exception, context: RequestContext | None = None) -> Reply:
    """Return the response to a failed request, by default the current one."""
    context = context or current_request()
    context.reason = error.reason if isinstance(error, ServiceError) else "fault"
    if isinstance(error, ServiceError) and error.status != 500:
        return json_response({"error": str(error)}, error.status, error.headers, context)
    identity = context.id
    logger.error("request %s failed", identity, exc_info=error, extra={"request_id": identity})
    message = f"{error} " if isinstance(error, ServiceError) else ""
    message += f"The fault is the service's; its log has it as request {identity}."
    return json_response({"error": message}, 500, context=context)


async def _answer_error(_: Request, error: Exception) -> Response:
    return error_response(error)


EXCEPTION_HANDLERS = {ServiceError: _answer_error, Exception: _answer_error}
"""Handlers for Starlette applications. Starlette raises an `Exception` again after its handler."""


async def answered(reply: Awaitable[Reply], context: RequestContext) -> Reply:
    """Await a reply; convert an exception to its error response."""
    try:
        return await reply
    except Exception as error:  # noqa: BLE001 - the boundary of the typed endpoints
        return error_response(error, context)


def in_a_task(
    respond: Callable[[RequestContext, Body], Awaitable[Reply]],
) -> Callable[[RequestContext, Body, Callable[[Reply], None]], asyncio.Task[None]]:
    """Return a responder that awaits `respond` in a task."""

    def start(
        context: RequestContext, body: Body, reply: Callable[[Reply], None]
    ) -> asyncio.Task[None]:
        return reply_from_task(respond(context, body), context, reply)

    return start


def reply_from_task(
    response: Awaitable[Reply], context: RequestContext, reply: Callable[[Reply], None]
) -> asyncio.Task[None]:
    """Await a response in a task, which calls `reply` with it or with its error response."""

    async def run() -> None:
        reply(await answered(response, context))

    task = asyncio.get_running_loop().create_task(run())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


_tasks: set[asyncio.Task[None]] = set()
"""The tasks of `reply_from_task`; the event loop keeps no reference to a task."""


def typed(method: Callable[..., Awaitable[Any]]) -> Any:
    """Wrap a method of the BentoML service: send its result, or its exception, as JSON."""

    @functools.wraps(method)
    async def call(service: Any, refusal: Exception | None = None, **fields: Any) -> Reply:
        context = current_request()
        context.endpoint = f"/{method.__name__}"

        async def respond() -> Reply:
            nonlocal refusal
            if refusal is not None:
                try:
                    raise refusal
                finally:
                    refusal = None  # the traceback holds this frame, and the request's body
            content = await method(service, **fields)
            if isinstance(content, bytearray):  # JSON that another process has written
                return Reply(context, content)
            return json_response(content, context=context)

        return await answered(respond(), context)

    return call
