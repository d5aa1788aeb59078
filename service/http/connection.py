"""One connection: what holds of every request on it, whichever way it goes.

uvicorn sets no bounds to a request's head, nor to how many connections there are, so they stand
here. A connection too many, a head that is too large or takes too long, and what is no HTTP at all,
are refused in the shape of every other error, and the connection is closed. One that is told to end
waits for a request that may be on its way.

A client may send requests ahead of their answers. They are parsed a few at a time and wait as bytes
otherwise, with reading paused, so that a connection holds little, however much is sent. A client
that ends its sending is answered still; one that hangs up is noticed also while reading is paused.
"""

import math
import os
from asyncio import Handle, TimerHandle, Transport
from collections.abc import Callable
from typing import Any, ClassVar

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import (
    BadInputError,
    HeadTimeoutError,
    HeadTooLargeError,
    ServiceError,
    TooManyConnectionsError,
)
from service.http.endpoint import Reply, error_response
from service.http.exchange import begin
from service.http.framing import without_upgrade
from service.http.front import SECURITY_HEADERS, Front
from service.http.peer import BegunTransport, was_reset
from service.settings import current_settings

LAST_SECONDS = 0.3
"""How long a connection between two requests is kept for one more, when the process ends."""

PIECE_BYTES = 1024
"""Of requests that come ahead of answers, about so much is parsed at once: some dozens at the most."""

PEER_SECONDS = 0.1
"""How often a connection is looked at, from which nothing is read while it waits for an answer."""

END = b"\r\n\r\n"
"""Of a request's headers."""

let_siblings_run: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # Windows has none
"""Called for each connection: a worker that waits for this core can then take the next one.

All workers listen on one socket. Of many connections that come at once, the first to be awake would
take nearly all, and its siblings none.
"""


class Turn:
    """What uvicorn's protocol asks of the request that is being answered on its connection."""

    __slots__ = ("disconnected", "give_up", "keep_alive", "response_complete", "transport")
    response_started = False  # it is written whole

    def __init__(self, transport: Transport | BegunTransport) -> None:
        self.transport = transport
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self.give_up: Callable[[], None] | None = None

    @property
    def message_event(self) -> "Turn":
        """Uvicorn sets it when the connection is lost."""
        return self

    def set(self) -> None:
        """Drop the request: nobody waits for its answer."""
        if self.disconnected and self.give_up is not None:
            self.give_up()


class Flow(FlowControl):
    """uvicorn's control of what is read, which may be told to keep reading paused."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._held = False

    def hold(self) -> None:
        """Read nothing until `release`, whoever asks for more of a body."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        if not self._held:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with bounds. `front` is set at start-up."""

    flow: Flow

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
        self._unused = 0  # bytes that came since a head, or a part of a body
        self._between = True  # the parser is between two requests
        self._reading: Any = None  # the cycle of the request that the parser reads, once it has one
        self._answering: Any = None  # that of the request that is being answered, or was last
        self._held = bytearray()  # came ahead of an answer, and is not parsed yet
        self._parsing: Handle | None = None  # the next piece of that
        self._refusal: ServiceError | None = None  # to be told once what came before is answered
        self._ended = False  # the client has ended its sending
        self._look: TimerHandle | None = None  # at the client

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Await the first head; where there are too many connections, refuse this one."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        let_siblings_run()
        if len(self.connections) > self._most:  # all of this worker's
            told = f"There are {self._most:,} connections, as many as may be. Try again later."
            self._refuse(TooManyConnectionsError(told))
        else:
            self._head_begun = True
            self._await_head(self._head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Await no more, and drop what waits for an answer."""
        self.pipeline.clear()
        self._held.clear()
        answering = self._answering
        if answering is not self.cycle and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)
        for handle in (self._timer, self._look, self._parsing):
            if handle is not None:
                handle.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always closes
        """The client has ended its sending: whether the connection stays, for an answer."""
        self._ended = self._must_wait() or bool(self._held)
        if self._ended:
            self._watch_peer()
        return self._ended

    def shutdown(self) -> None:
        """Close after the request in progress, or after one more that may be on its way."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._silent = False
        if self._held or self._must_wait() or data.find(END, PIECE_BYTES) >= 0:
            self._held += data
            self._parse_held()
        else:
            self._parse(data)

    def _is_answering(self) -> bool:
        """Whether a request that came is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _must_wait(self) -> bool:
        """Whether what comes next is not a part of the request that is being answered."""
        return self._is_answering() and (
            self._between or bool(self.pipeline) or self._refusal is not None
        )

    def _parse(self, data: bytes) -> None:
        self._unused += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._parse_without_upgrade(data[offer.args[0] :])
            return
        except HttpParserCallbackError as error:
            if isinstance(error.__context__, ServiceError):
                self._refuse(error.__context__)
            else:
                self._refuse_unreadable()
        except HttpParserError:
            self._refuse_unreadable()
        self._look_at_rest()

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request anew that offers to upgrade the connection: its body is still to come.

        Args:
            rest: what came behind its headers.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = without_upgrade(method, self.url, version, self.headers)
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(head + rest)

    def _parse_held(self) -> None:
        """Parse a piece of what came ahead, and the next one after others have had their turn."""
        self._parsing = None
        if self._must_wait():
            self.flow.hold()
            self._watch_peer()
            return
        cut = self._held.find(END, PIECE_BYTES) + len(END)
        if cut < len(END):
            cut = len(self._held)
        piece = bytes(self._held[:cut])
        del self._held[:cut]
        self._parse(piece)
        self._go_on()

    def _go_on(self) -> None:
        """After an answer or a piece: parse what came ahead, or read on."""
        if self._held:
            if self._parsing is None:
                self._parsing = self.loop.call_soon(self._parse_held)
        elif self._ended and not self._must_wait():
            self.transport.close()
        elif self.flow.read_paused and not self.pipeline and self._refusal is None:
            self.flow.release()

    def _look_at_rest(self) -> None:
        """Bound what has come, and of which nothing could be used yet."""
        if self._unused > self._largest_head:
            self._refuse(self._too_large())
        elif (
            not self._silent
            and not self._head_begun
            and not self._is_answering()
            and not self.transport.is_closing()
        ):  # there is a part of a head, or a rest of the last request
            self._head_begun = True
            self._await_head(self._head_seconds)

    def on_response_complete(self) -> None:
        """Begin the request that waits behind this one, or await the next."""
        self.server_state.total_requests += 1
        self._silent = True
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._await_head(self.timeout_keep_alive)
        if self._held or self._ended or self.flow.read_paused:
            self._go_on()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

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
        else:  # nobody asks
            self.transport.close()

    def _too_large(self) -> ServiceError:
        return HeadTooLargeError(
            f"The head of the request is larger than {self._largest_head:,} bytes; send less."
        )

    def _refuse(self, error: ServiceError) -> None:
        """Answer what is no request, behind what came before it, and close the connection."""
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self._is_answering() and (self._between or self._reading is not self._answering):
            self._refusal = error
            self._held.clear()
            self.flow.hold()
            self._watch_peer()
        else:
            self._send_refusal(error)

    def _refuse_unreadable(self) -> None:
        self.logger.warning("Invalid HTTP request received.")
        self._refuse(BadInputError("This is no request of HTTP/1.1 that can be read."))

    def _send_refusal(self, error: ServiceError) -> None:
        exchange = begin("", "", {})
        response = error_response(error, exchange)
        exchange.status = response.status_code
        turn = Turn(self.transport)
        turn.keep_alive = False
        self._write(turn, response)
        self.front.end(exchange)

    def _watch_peer(self) -> None:
        """Look at the client now and then: nothing is read that would tell of its end."""
        if self._look is None and self.scheme == "http":  # TLS has its own end
            self._look = self.loop.call_later(PEER_SECONDS, self._look_at_peer, 1)

    def _look_at_peer(self, times: int) -> None:
        self._look = None
        if self.transport.is_closing() or not self._is_answering():
            return
        if was_reset(self.transport):
            self.transport.abort()
            return
        cycle = self._answering
        if times & (times - 1) == 0 and not cycle.response_started:  # ever more seldom
            if not isinstance(cycle.transport, BegunTransport):
                cycle.transport = BegunTransport(self.transport)
            cycle.transport.probe()
        self._look = self.loop.call_later(PEER_SECONDS, self._look_at_peer, times + 1)

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
            self.transport.close()
        self.on_response_complete()
