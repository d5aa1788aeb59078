"""The order of requests and responses on one connection.

A client may pipeline requests. They are parsed a few at a time; the rest is held as bytes while
reading is paused, so the memory of a connection is bounded. A request is not started before the
client has read the last response. Bytes that are not a request are refused after the responses to
the requests before them. A client that closes its sending side still gets its responses. A client
that disconnects is detected even while reading is paused.
"""

import re
from asyncio import Handle, TimerHandle, Transport
from typing import Any, ClassVar

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE as STATUS_LINE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadInputError, ServiceError
from service.http.app import App
from service.transport.framing import NO_REQUEST, without_upgrade
from service.transport.lingering import Lingering
from service.transport.peer import BegunTransport, was_reset

PIECE_BYTES = 1024
"""Pipelined requests are parsed in pieces of about this size: some dozens of requests."""

MAX_PIECES = 16
"""Pieces that are parsed before other connections run."""

PEER_SECONDS = 0.1
"""Delay of the first check of a client from which nothing is read.

The delay grows with each check, up to one second.
"""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)

END = b"\r\n\r\n"
"""The end of a request's header."""


class RequestCycle:
    """The interface that uvicorn's protocol expects of the request in progress.

    Args:
        transport: of the connection.
        keep_alive: whether the connection stays open after the response.
    """

    __slots__ = ("disconnected", "keep_alive", "response_complete", "transport")
    response_started = False  # the response is written at once

    def __init__(self, transport: Transport | BegunTransport, *, keep_alive: bool) -> None:
        self.transport = transport
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_complete = False

    def cancel(self) -> None:
        """Drop the request: the connection is lost."""


class Flow(FlowControl):
    """uvicorn's flow control, with a second reason to pause reading."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._held = False  # received bytes are not parsed yet
        self._paused = False  # uvicorn's reason: a large body, or a pipelined request

    def hold(self) -> None:
        """Pause reading until `release`."""
        self._held = True
        self._apply()

    def release(self) -> None:
        """Resume reading, unless uvicorn has paused it."""
        self._held = False
        self._apply()

    def pause_reading(self) -> None:
        """Pause reading until `resume_reading`."""
        self._paused = True
        self._apply()

    def resume_reading(self) -> None:
        """Resume reading, unless it is held."""
        self._paused = False
        self._apply()

    def _apply(self) -> None:
        paused = self._held or self._paused
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()


class PipelinedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with bounded pipelining.

    Attributes:
        application: with the settings; set at start-up, as uvicorn makes the connections.
    """

    application: ClassVar[App]
    flow: Flow

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unused = 0  # bytes received since the last header or part of a body
        self._between = True  # the parser is between two requests
        self._reading: Any = None  # the cycle of the request that is being parsed
        self._answering: Any = None  # the cycle of the request in progress, or of the last one
        self._left = 0  # bytes left of the body that is being parsed, if its length is known
        self._held = bytearray()  # pipelined bytes that are not parsed yet
        self._parsing: Handle | None = None  # parses the next piece of them
        self._refusal: ServiceError | None = None  # sent after the responses to earlier requests
        self._deferred = False  # the next step waits until the client has read the last response
        self._ended = False  # the client has closed its sending side
        self._peer_timer: TimerHandle | None = None  # for the check of the client
        self._body_seconds = self.application.settings.body_timeout_seconds
        self._lingering: Lingering | None = None  # received bytes are discarded

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Set up the connection."""
        super().connection_made(transport)
        self.flow = Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request in progress, and drop those that wait."""
        self.pipeline.clear()
        self._held.clear()
        self._cancel_request()
        cycle: Any = self.cycle
        if isinstance(cycle, RequestCycle):
            self._answering = None
            self.cycle = None  # type: ignore[assignment]  # uvicorn would set the event of its own cycle
        super().connection_lost(exc)
        for handle in (self._peer_timer, self._parsing):
            if handle is not None:
                handle.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        for cycle in (self.cycle, self._reading, self._answering):
            if cycle is not None:
                cycle.transport = self.transport  # breaks a reference cycle

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always closes
        """Return whether the connection stays open for a response after the client's end of file.

        A TLS connection cannot stay open: the event loop closes it.
        """
        self._ended = self.scheme == "http" and (self._must_wait() or bool(self._held))
        if self._ended:
            self._watch_peer()
        return self._ended

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, or hold them."""
        if self._lingering is not None:
            self._lingering.drop()
        elif self._held or self._must_wait() or not self._holds_few_requests(data):
            self._held += data
            self.flow.hold()
            self._parse_held()
        else:
            self._parse(data)

    def _close(self, started: float) -> None:
        """Close the connection; if a request is incomplete, linger first.

        Args:
            started: loop time from which the rest of the request has the timeout of a body.
        """
        due = started + self._body_seconds
        is_whole = self._between and not self._held
        if is_whole or due <= self.loop.time() or not self.transport.can_write_eof():
            self._close_transport()
        elif not self._is_closing():
            self._between = False
            self._held.clear()
            self._cancel_request()
            self._lingering = Lingering(self.transport, due, self._close_transport)
            self.flow.release()
            self.flow.resume_reading()

    def _close_transport(self) -> None:
        """Close the connection once the responses are sent."""
        self.transport.close()

    def _cancel_request(self) -> None:
        """Cancel the request in progress."""
        cycle = self._answering
        if cycle is None or cycle.response_complete or cycle.disconnected:
            return
        cycle.disconnected = True
        if isinstance(cycle, RequestCycle):
            cycle.cancel()
        else:
            cycle.message_event.set()

    def _is_closing(self) -> bool:
        """Return whether the connection neither reads nor responds any more."""
        return self._lingering is not None or self.transport.is_closing()

    def _holds_few_requests(self, data: bytes) -> bool:
        """Return whether the bytes may be parsed at once."""
        if len(data) <= self._left or data.find(b"\r", PIECE_BYTES) < 0:
            return True  # part of one body, or no header ends after the first piece
        if not self._between:
            return False
        end = data.find(END) + len(END)
        length = _CONTENT_LENGTH.search(data, 0, end)
        return length is not None and len(data) - end <= int(length[1])

    def _is_answering(self) -> bool:
        """Return whether a response is pending, or the client has not read the last one."""
        return self.flow.write_paused or (
            self.cycle is not None and not self.cycle.response_complete
        )

    def _must_wait(self) -> bool:
        """Return whether the request in progress is complete, so further bytes are pipelined."""
        return self._is_answering() and (self._between or self._reading is not self._answering)

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
        self._after_parse()
        if self.flow.read_paused and self._must_wait():
            self._watch_peer()

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request with an upgrade offer again, without the offer; its body follows.

        Args:
            rest: the bytes after its header.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        header = without_upgrade(method, self.url, version, self.headers)
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(header + rest)

    def _parse_held(self) -> None:
        """Parse held bytes piece by piece, until a request is in progress."""
        self._parsing = None
        for _ in range(MAX_PIECES):
            if self._must_wait():
                self._watch_peer()
                return
            if self._is_closing():
                self._held.clear()
            if not self._held:
                break
            self._parse(self._next_piece())
        self._continue()

    def _next_piece(self) -> bytes:
        end = self._held.find(END, PIECE_BYTES) + len(END)
        if self._left > 0:
            end = self._left
        elif end < len(END):
            end = len(self._held)
        piece = bytes(self._held[:end])
        del self._held[:end]
        return piece

    def _continue(self) -> None:
        """Parse held bytes or resume reading, after a response or a piece."""
        if self._held:
            if self._parsing is None:
                self._parsing = self.loop.call_soon(self._parse_held)
        elif self._ended and not self._must_wait():
            self._close_transport()
        elif self._refusal is None:
            self.flow.release()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait until the client has read the response."""
        self.server_state.total_requests += 1
        if self.flow.write_paused:
            self._deferred = True
        elif not self._is_closing():
            self._go_on()

    def resume_writing(self) -> None:
        """Go on with the next request, as the client has read the last response."""
        super().resume_writing()
        if self._deferred:
            self._deferred = False
            if not self._is_closing():
                self._go_on()

    def _go_on(self) -> None:
        """Start the next pipelined request, refuse it, or wait for one."""
        if self.flow.read_paused and len(self.pipeline) < 2:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._await_next()
        if self._held or self._ended or self.flow.read_paused:
            self._continue()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.flow.write_paused:
            self._deferred = True
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)

    def _refuse(self, error: ServiceError) -> None:
        """Refuse bytes that are not a request, after pending responses, and close."""
        if self._is_closing() or self._refusal is not None:
            return
        if self._must_wait():
            if self.pipeline and self.pipeline[0][0] is self._reading:
                self.pipeline.popleft()  # the refused request itself, which is incomplete
            self._refusal = error
            self._held.clear()
            self.flow.hold()
            self._watch_peer()
        else:
            self._send_refusal(error)

    def _refuse_unreadable(self) -> None:
        self.logger.warning("Invalid HTTP request received.")
        self._refuse(BadInputError(NO_REQUEST))

    def _send_refusal(self, error: ServiceError) -> None:
        """Send an error response, and close the connection."""
        raise NotImplementedError

    def _after_parse(self) -> None:
        """Handle the end of a call of the parser."""
        raise NotImplementedError

    def _await_next(self) -> None:
        """Wait for a request, as every earlier one was answered."""
        raise NotImplementedError

    def _watch_peer(self) -> None:
        """Check the client at intervals, as nothing is read from it."""
        if self._peer_timer is None:
            self._peer_timer = self.loop.call_later(PEER_SECONDS, self._check_peer, 1)

    def _check_peer(self, times: int) -> None:
        self._peer_timer = None
        if self._is_closing() or not self._must_wait():
            return
        if was_reset(self.transport):
            self.transport.abort()
            return
        cycle = self._answering
        response_started = cycle.response_started or cycle.response_complete
        if times & (times - 1) == 0 and not response_started:  # at growing intervals
            if not isinstance(cycle.transport, BegunTransport):
                cycle.transport = BegunTransport(cycle.transport)
            cycle.transport.probe()
        seconds = min(PEER_SECONDS * (times + 1), 1.0)
        self._peer_timer = self.loop.call_later(seconds, self._check_peer, times + 1)
