"""One connection: what holds of every request on it, whichever way it goes.

uvicorn sets no bounds to a request's head, nor to how many connections there are, so they stand
here. A connection too many, a head that is too large or takes too long, and what is no HTTP at all,
are refused in the shape of every other error, and the connection is closed. One that is told to end
waits for a request that may be on its way.
"""

import math
import os
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import (
    HeadTimeoutError,
    HeadTooLargeError,
    ServiceError,
    TooManyConnectionsError,
)
from service.http.endpoint import Reply, error_response
from service.http.exchange import begin
from service.http.front import SECURITY_HEADERS, Front
from service.http.pipelining import Pipelining, Turn
from service.settings import current_settings

LAST_SECONDS = 0.3
"""How long a connection between two requests is kept for one more, when the process ends."""

let_siblings_run: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # Windows has none
"""Called for each connection: a worker that waits for this core can then take the next one.

All workers listen on one socket. Of many connections that come at once, the first to be awake would
take nearly all, and its siblings none.
"""


class Connection(Pipelining):
    """uvicorn's protocol for one connection, with bounds. `front` is set at start-up."""

    front: ClassVar[Front]
    _common: ClassVar[tuple[object, bytes]] = (None, b"")  # the headers of every answer, as sent

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = current_settings()
        self.ws_protocol_class = None  # nothing here speaks WebSocket
        self._leaving = False
        self._most = settings.max_connections
        self._largest_head = settings.max_header_bytes
        self._head_seconds = settings.header_timeout_seconds
        self._timer: TimerHandle | None = None
        self._due = math.inf  # the loop's time at which a head has been awaited long enough
        self._head_begun = False  # the time that a head may take is running
        self._silent = True  # nothing has come since the last answer

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Await the first head; where there are too many connections, refuse this one."""
        super().connection_made(transport)
        let_siblings_run()
        if len(self.connections) > self._most:  # all of this worker's
            told = f"There are {self._most:,} connections, as many as may be. Try again later."
            self._refuse(TooManyConnectionsError(told))
            self.transport.close()  # or those that are refused would be too many too
        else:
            self._head_begun = True
            self._await_head(self._head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Await no more."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def shutdown(self) -> None:
        """Close after the request in progress, or after one more that may be on its way."""
        self._leaving = True
        if self._lingering is not None:
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _look_at_rest(self) -> None:
        """Bound what has come, and of which nothing could be used yet."""
        if self._unused > self._largest_head:
            self._refuse(self._too_large())
        elif (
            not self._silent
            and not self._head_begun
            and not self._is_answering()
            and not self._is_closing()
        ):  # there is a part of a head, or a rest of the last request
            self._head_begun = True
            self._await_head(self._head_seconds)

    def _parse(self, data: bytes) -> None:
        self._silent = False
        super()._parse(data)

    def on_response_complete(self) -> None:
        """Begin what waits behind this request, or await the next."""
        self._silent = True
        super().on_response_complete()

    def _await_next(self) -> None:
        self._await_head(self.timeout_keep_alive)

    def _end_head(self) -> None:
        """A head is whole.

        Raises:
            HeadTooLargeError: it is larger than the setting allows.
        """
        self._due, self._head_begun = math.inf, False
        if self._unused > self._largest_head:  # unless most of it is a body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._largest_head:
                raise self._too_large()
        self._unused = 0

    def _await_head(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:  # else it will see that there is more time: a new one costs more
            self._timer = self.loop.call_at(self._due, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        if self.loop.time() >= self._due:
            self._give_up_head()
        elif self._due < math.inf:
            self._timer = self.loop.call_at(self._due, self._look_at_time)

    def _give_up_head(self) -> None:
        if self._unused:
            told = f"The head of the request did not arrive within {self._head_seconds:g} seconds."
            self._refuse(HeadTimeoutError(told))
        self.transport.close()  # also where nobody asks

    def _too_large(self) -> ServiceError:
        return HeadTooLargeError(
            f"The head of the request is larger than {self._largest_head:,} bytes; send less."
        )

    def _send_refusal(self, error: ServiceError) -> None:
        exchange = begin("", "", {})
        response = error_response(error, exchange)
        exchange.status = response.status_code
        turn = Turn(self.transport)
        turn.keep_alive = self._between = False  # what comes next is no request
        self._write(turn, response)
        self.front.end(exchange)

    def _write(self, turn: Turn, reply: Reply) -> None:
        common = self.server_state.default_headers
        if common is not self._common[0]:  # uvicorn renews them once a second, for the date
            every = (*common, *SECURITY_HEADERS)
            Connection._common = common, b"".join([b"%b: %b\r\n" % header for header in every])
        last = b"\r\n"
        if b"\r\nconnection: close\r\n" in reply.lines:
            turn.keep_alive = False
        elif not turn.keep_alive:
            last = b"connection: close\r\n\r\n"
        line = STATUS_LINE[reply.status_code]
        turn.transport.write(b"".join((line, self._common[1], reply.lines, last, reply.body)))
        turn.response_complete = True
        if not turn.keep_alive:
            self._due = math.inf
            self._close(self.loop.time())
        self.on_response_complete()
