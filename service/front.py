"""The front: every request comes in here, and its answer goes out here.

It gives the request its id and takes its time; sends what is the protocol's to the protocol, and
all else to BentoML; ends it where its caller goes away; and counts, logs and traces the answer, as
the settings say.
"""

import asyncio
import random
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from service.departures import Departures
from service.endpoint import Responder
from service.exchange import Exchange, begin
from service.logs import logger
from service.metrics import count_request
from service.open_inference.routes import PREFIX, OpenInference
from service.settings import Settings
from service.tracing import Tracer

_BELOW = f"{PREFIX}/"

CLIENT_CLOSED_REQUEST = 499
"""What nginx calls a request that was given up: no answer was sent, and none was at fault."""


class Front:
    """An ASGI application before two others.

    Args:
        host: BentoML's application: the typed endpoints, the pages and the life cycle.
        protocol: the Open Inference Protocol. It does without BentoML's middlewares and routing,
            which take longer than the prediction.
        settings: which share of the requests is logged, and traced.
        typed: who answers a whole body at each path of the typed endpoints.
    """

    def __init__(
        self,
        host: ASGIApp,
        protocol: OpenInference,
        settings: Settings,
        typed: Mapping[str, Responder] | None = None,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._typed = {} if typed is None else typed
        self._departures = Departures()
        self._logged = settings.access_log
        self._tracer = Tracer(settings.traces) if settings.traces else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._host(scope, receive, send)
            return
        path: str = scope["path"]
        exchange = begin(scope["method"], path, dict(scope["headers"]))
        is_protocol = path.startswith(PREFIX) and path[len(PREFIX) :][:1] in ("", "/")
        task = self._departures.enter(exchange)
        try:
            await (self._protocol if is_protocol else self._host)(scope, receive, send)
        except asyncio.CancelledError:
            exchange.status = CLIENT_CLOSED_REQUEST
            if not exchange.departed:
                raise
        finally:
            self._departures.leave(task)
            self.end(exchange)

    def responder(self, path: str) -> Responder | None:
        """Who answers a POST to `path` whose body is whole; None where only ASGI leads there."""
        if path.startswith(_BELOW):
            return self._protocol.responder(path)
        return self._typed.get(path)

    def end(self, exchange: Exchange) -> None:
        """Count, log and trace an exchange that has just ended."""
        exchange.seconds = time.monotonic() - exchange.started
        count_request(exchange)
        if self._logged and random.random() < self._logged:  # noqa: S311 - a sample, no secret
            logger.info("%s", exchange.line())
        if self._tracer is not None:
            self._tracer.trace(exchange)
