"""The front: every request comes in here, and its answer goes out here.

It gives the request its id and takes its time; lets it in or not; sends what is the protocol's to
the protocol, and all else to BentoML; ends it where its caller goes away; and counts, logs and
traces the answer, as the settings say. Whoever asks for a path in another spelling of it is let in,
and routed, by the one normal form of that path.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    NotImplementedHttpError,
    ServiceError,
    UnknownPathError,
    UnknownVersionError,
)
from service.http.access import Access
from service.http.departures import Departures
from service.http.endpoint import Responder, error_response
from service.http.exchange import Exchange, begin, current
from service.http.json_errors import JsonErrors
from service.http.origins import OriginPolicy
from service.open_inference.routes import PREFIX, OpenInference
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import count_request
from service.telemetry.tracing import Tracer

_BELOW = f"{PREFIX}/"

CLIENT_CLOSED_REQUEST = 499
"""What nginx calls a request that was given up: no answer was sent, and none was at fault."""

CALLERS_REASONS = frozenset({NotImplementedHttpError.reason, UnknownVersionError.reason})
"""Why a request is answered 5xx that the service is not at fault for."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""On every answer that has no such header of its own. A page has, for what stands in it.

As OWASP recommends for REST: https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html
"""


class KnownHead(NamedTuple):
    """The head of a request that took the short way: what is in it, and how long its body is."""

    path: str
    headers: dict[bytes, bytes]
    responder: Responder
    length: int


class Front:
    """An ASGI application before two others.

    Args:
        host: BentoML's application: the typed endpoints, the pages and the life cycle.
        protocol: the Open Inference Protocol. It does without BentoML's middlewares and routing,
            which take longer than the prediction.
        settings: who gets in, and which share of the requests is logged, and traced.
        typed: who answers a whole body at each path of the typed endpoints.
        door: what stands at `/`, in place of BentoML's page, which calls other hosts.
    """

    def __init__(
        self,
        host: ASGIApp,
        protocol: OpenInference,
        settings: Settings,
        typed: Mapping[str, Responder] | None = None,
        door: ASGIApp | None = None,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._typed = {} if typed is None else typed
        self._door = door or host
        self._origins = OriginPolicy(settings)
        self._access = Access(settings)
        self.admit: Callable[[Exchange], None] = self._access.admit
        """Lets a request in, or raises what `Access.admit` says."""
        self._departures = Departures()
        self.known_heads: dict[bytes, KnownHead] = {}
        """By the bytes that came."""
        self._logged = settings.access_log
        self._tracer = Tracer(settings.traces) if settings.traces else None
        self._let_in: ASGIApp = self._guarded
        self._cross_origin = bool(settings.cors_origins)
        if self._cross_origin:
            cors = CORSMiddleware(
                self._guarded,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=("X-Request-Id", "Inference-Header-Content-Length"),
            )
            self._let_in = JsonErrors(cors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._host(scope, receive, self._last_of(send))
            return

        scope = {**scope, "path": normal_path(scope["path"])}
        exchange = begin(scope["method"], scope["path"], dict(scope["headers"]))

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": _complete(message["headers"], exchange)}
            await send(message)

        task = self._departures.enter(exchange)
        try:
            await self._way(scope, exchange)(scope, receive, completed)
        except asyncio.CancelledError:
            exchange.status = CLIENT_CLOSED_REQUEST
            if not exchange.departed:
                raise
        finally:
            self._departures.leave(task)
            self.end(exchange)

    def _way(self, scope: Scope, exchange: Exchange) -> ASGIApp:
        """Who answers a request: its refusal comes before CORS, so for a preflight request too."""
        try:
            self._check(scope, exchange)
        except ServiceError as error:
            return error_response(error, exchange)
        return self._let_in

    def _check(self, scope: Scope, exchange: Exchange) -> None:
        server = scope.get("server")
        self._origins.check(exchange.headers, server[0] if server else None)
        self._access.require_exposed(exchange.path)  # for a preflight request too
        if not exchange.path.isprintable():  # a router's `$` matches before a line's end too
            raise UnknownPathError(f"There is nothing at {exchange.path[:100]!r}.")

    def _last_of(self, send: Send) -> Send:
        """Send the spans that are left before the life cycle is told to be over.

        uvicorn ends the process by the signal that it got, and nothing is done at its exit.
        """

        async def told(message: Message) -> None:
            if self._tracer is not None and message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self._tracer.close)
            await send(message)

        return told

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, and on to whom it is for."""
        exchange, path = current(), scope["path"]
        try:
            self.admit(exchange)
        except ServiceError as error:
            await error_response(error)(scope, receive, send)
            return
        app = self._door if path == "/" else self._host
        if path == PREFIX or path.startswith(_BELOW):
            app = self._protocol
        await app(scope, receive, send)

    def responder(self, path: str, headers: Mapping[bytes, bytes]) -> Responder | None:
        """Who answers a POST to `path` whose body is whole; None where only ASGI leads there."""
        if b"content-encoding" in headers or (self._cross_origin and b"origin" in headers):
            return None
        if not self._origins.accepts_everywhere(headers):
            return None
        path = normal_path(path)
        if path.startswith(_BELOW):
            return self._protocol.responder(path)
        return self._typed.get(path)

    def end(self, exchange: Exchange) -> None:
        """Count, log and trace an exchange that has just ended."""
        exchange.seconds = time.monotonic() - exchange.started
        if exchange.status == CLIENT_CLOSED_REQUEST:
            exchange.reason = "cancelled"
        count_request(exchange)
        if exchange.status >= 500 and exchange.reason not in CALLERS_REASONS:
            logger.error("%s", exchange.line(), extra=exchange.fields())
        elif self._logged and random.random() < self._logged:  # noqa: S311 - a sample, no secret
            logger.info("%s", exchange.line(), extra=exchange.fields())
        if self._tracer is not None:
            self._tracer.trace(exchange)


def normal_path(path: str) -> str:
    """The one form in which a path is compared with others: without slashes at its end."""
    return path.rstrip("/") if path.strip("/") else path


def _complete(
    headers: Iterable[tuple[bytes, bytes]], exchange: Exchange
) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, and those that every answer has."""
    headers = list(headers)
    present = {name.lower() for name, _ in headers}
    if b"x-request-id" not in present:
        headers.append((b"x-request-id", exchange.id.encode()))
    return [*(header for header in SECURITY_HEADERS if header[0] not in present), *headers]
