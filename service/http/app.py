"""The ASGI application around every request.

The app starts the context of a request, checks its origin and API key, and calls the V2 protocol or
BentoML's application. It cancels the request if the client disconnects. Finally it counts, logs and
traces the request, as configured. All spellings of a path are authenticated and routed by the same
normal form.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    LoadingError,
    NotImplementedHttpError,
    ServiceError,
    UnknownPathError,
    UnknownVersionError,
)
from service.http.auth import ApiKeyAuth
from service.http.client_network import client_network
from service.http.disconnects import DisconnectWatcher
from service.http.error_middleware import ErrorMiddleware
from service.http.origins import OriginPolicy
from service.http.responses import Responder, error_response
from service.settings import SCOPE_KEY, Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import count_request
from service.telemetry.request_context import RequestContext, current_request, start_request
from service.telemetry.tracing import Tracer

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a cancelled request: no response was sent, and nothing failed."""

EXPECTED_REASONS = frozenset(
    {LoadingError.reason, NotImplementedHttpError.reason, UnknownVersionError.reason}
)
"""Reasons of 5xx responses that are no fault of the service, and are not logged as errors."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""Headers of every response that does not set them itself; pages have their own policies.

As OWASP recommends for REST:
https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html
"""


class CachedHeader(NamedTuple):
    """The header of a request that took the fast path: its content, and the length of the body."""

    path: str
    headers: dict[bytes, bytes]
    responder: Responder
    length: int


class Mount(Protocol):
    """An ASGI application for some paths.

    It is called without BentoML's middleware and routing, which take longer than a prediction.
    """

    def takes(self, path: str) -> bool:
        """Return whether a path, in its normal form, is one of the application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request to such a path."""

    def responder(self, path: str) -> Responder | None:
        """Return the responder of a POST to `path` with a whole body; None if only ASGI can."""


class App:
    """The ASGI application that wraps BentoML's application.

    Args:
        inner_app: BentoML's application: the typed endpoints, the pages and the life cycle.
        settings: of the service; the connections and, by the ASGI scope, the endpoints get them.
        mounts: applications that are called in place of `inner_app` for the paths that they take.
        typed: the responders of the typed endpoints, by path.
        index_page: the application at `/`; it replaces BentoML's page, which loads from other
            hosts.
        public_paths: the paths of the pages at `/` and `/docs`, for authentication.
    """

    def __init__(
        self,
        inner_app: ASGIApp,
        settings: Settings,
        *,
        mounts: Sequence[Mount] = (),
        typed: Mapping[str, Responder] | None = None,
        index_page: ASGIApp | None = None,
        public_paths: Iterable[str] = (),
    ) -> None:
        self._inner_app = inner_app
        self.settings = settings
        self._mounts = tuple(mounts)
        self._typed = {} if typed is None else typed
        self._index_page = index_page or inner_app
        self._origins = OriginPolicy(settings)
        self._auth = ApiKeyAuth(settings, public_paths)
        self.authenticate: Callable[[RequestContext], None] = self._auth.authenticate
        """Authenticates a request; raises as `ApiKeyAuth.authenticate`."""
        self._disconnects = DisconnectWatcher()
        self.header_cache: dict[bytes, CachedHeader] = {}
        """Headers by their received bytes."""
        self._logged = settings.access_log_ratio
        self._tracer = Tracer(settings.trace_sample_ratio) if settings.trace_sample_ratio else None
        self._middleware_stack: ASGIApp = self._dispatch
        self._cross_origin = bool(settings.cors_origins)
        if self._cross_origin:
            cors = CORSMiddleware(
                self._dispatch,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=("X-Request-Id", "Inference-Header-Content-Length"),
            )
            self._middleware_stack = ErrorMiddleware(cors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._inner_app(scope, receive, self._flush_spans_before(send))
            return

        scope = {**scope, "path": normal_path(scope["path"]), SCOPE_KEY: self.settings}
        context = start_request(scope["method"], scope["path"], dict(scope["headers"]))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.response_started = True
                context.status = message["status"]
                message = {**message, "headers": _complete(message["headers"], context)}
            await send(message)

        context.client = client_network(scope.get("client"))
        task = self._disconnects.watch(context)
        try:
            await self._checked_app(scope, context)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            context.status = CLIENT_CLOSED_REQUEST
            if not context.disconnected:
                raise
        finally:
            self._disconnects.unwatch(task)
            self.end_request(context)

    def _checked_app(self, scope: Scope, context: RequestContext) -> ASGIApp:
        """Return the middleware stack, or a refusal, which includes CORS preflight requests."""
        try:
            self._check(scope, context)
        except ServiceError as error:
            return error_response(error, context)
        return self._middleware_stack

    def _check(self, scope: Scope, context: RequestContext) -> None:
        server = scope.get("server")
        self._origins.check(context.headers, server[0] if server else None)
        self._auth.require_exposed(context.path)  # preflight requests too
        if not context.path.isprintable():  # a router's `$` also matches before a trailing newline
            raise UnknownPathError(f"There is nothing at {context.path[:100]!r}.")

    def _flush_spans_before(self, send: Send) -> Send:
        """Send the remaining spans before the end of the life cycle is reported.

        uvicorn ends the process by the signal it received, which skips exit handlers.
        """

        async def flush_and_send(message: Message) -> None:
            if self._tracer is not None and message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self._tracer.close)
            await send(message)

        return flush_and_send

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate one request, and call the application of its path.

        Every exception of the applications ends here. Starlette raises exceptions again after it
        has responded with 500.
        """
        context = current_request()
        try:
            self.authenticate(context)
            await self._route(scope["path"])(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the boundary of the ASGI path
            if not context.response_started:
                await error_response(error, context)(scope, receive, send)

    def _route(self, path: str) -> ASGIApp:
        for mount in self._mounts:
            if mount.takes(path):
                return mount
        return self._index_page if path == "/" else self._inner_app

    def responder(self, path: str, headers: Mapping[bytes, bytes]) -> Responder | None:
        """Return the responder of a POST to `path` with a whole body; None if only ASGI can."""
        if b"content-encoding" in headers or (self._cross_origin and b"origin" in headers):
            return None
        if not self._origins.accepts_everywhere(headers):
            return None
        path = normal_path(path)
        for mount in self._mounts:
            if mount.takes(path):
                return mount.responder(path)
        return self._typed.get(path)

    def end_request(self, context: RequestContext) -> None:
        """Count, log and trace a request that has ended."""
        context.seconds = time.monotonic() - context.started
        if context.status == CLIENT_CLOSED_REQUEST:
            context.reason = "cancelled"
        try:
            count_request(context)
        except OSError as error:  # a new series needs a file, and no descriptor may be left
            logger.error("request %s was not counted: %s", context.id, error)
        if context.status >= 500 and context.reason not in EXPECTED_REASONS:
            logger.error("%s", context.line(), extra=context.fields())
        elif self._logged and random.random() < self._logged:  # noqa: S311 - a sample, no secret
            logger.info("%s", context.line(), extra=context.fields())
        if self._tracer is not None:
            self._tracer.trace(context)


def normal_path(path: str) -> str:
    """Return the normal form of a path, without slashes at its end, for comparisons."""
    return path.rstrip("/") if path.strip("/") else path


def _complete(
    headers: Iterable[tuple[bytes, bytes]], context: RequestContext
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response with those that every response has."""
    headers = list(headers)
    present = {name.lower() for name, _ in headers}
    if b"x-request-id" not in present:
        headers.append((b"x-request-id", context.id.encode()))
    return [*(header for header in SECURITY_HEADERS if header[0] not in present), *headers]
