"""The order of requests and answers on one connection, and which bytes are parsed when.

A client may send requests ahead of their answers. They are parsed a few at a time and wait as bytes
otherwise, with reading paused, so that a connection holds little, however much is sent; what is no
request is refused behind the answers to what came before it. A client that ends its sending is
answered still; one that hangs up is noticed also while nothing is read.
"""

import re
from asyncio import Handle, TimerHandle, Transport
from collections.abc import Callable
from typing import Any

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadInputError, ServiceError
from service.http.framing import NO_REQUEST, without_upgrade
from service.http.lingering import Lingering
from service.http.peer import BegunTransport, was_reset
from service.settings import current_settings

PIECE_BYTES = 1024
"""Of requests that come ahead of answers, about so much is parsed at once: some dozens of them."""

MAX_PIECES = 16
"""So many pieces are parsed before other connections have their turn."""

PEER_SECONDS = 0.1
"""A connection from which nothing is read while it waits for an answer is looked at so soon.

Then ever more seldom, and once a second at the least."""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)

END = b"\r\n\r\n"
"""Of a request's headers."""


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
    """uvicorn's control of what is read, with a second reason to read nothing."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._held = False  # something that came is not parsed yet
        self._paused = False  # uvicorn's own reason: a body that is large, a request ahead

    def hold(self) -> None:
        """Read nothing until `release`."""
        self._held = True
        self._apply()

    def release(self) -> None:
        """Read on, unless uvicorn has paused reading."""
        self._held = False
        self._apply()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`."""
        self._paused = True
        self._apply()

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        self._paused = False
        self._apply()

    def _apply(self) -> None:
        paused = self._held or self._paused
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()


class Pipelining(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with its requests in order."""

    flow: Flow

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._unused = 0  # bytes that came since a head, or a part of a body
        self._between = True  # the parser is between two requests
        self._reading: Any = None  # the cycle of the request that the parser reads, once it has one
        self._answering: Any = None  # that of the request that is being answered, or was last
        self._left = 0  # bytes of the body that the parser reads, where its length is known
        self._held = bytearray()  # came ahead of an answer, and is not parsed yet
        self._parsing: Handle | None = None  # the next piece of that
        self._refusal: ServiceError | None = None  # to be told once what came before is answered
        self._ended = False  # the client has ended its sending
        self._look: TimerHandle | None = None  # at the client
        self._body_seconds = current_settings().body_timeout_seconds
        self._lingering: Lingering | None = None  # nothing that comes is read any more

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Serve a connection."""
        super().connection_made(transport)
        self.flow = Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what waits for an answer."""
        self.pipeline.clear()
        self._held.clear()
        self._drop_request()
        super().connection_lost(exc)
        for handle in (self._look, self._parsing):
            if handle is not None:
                handle.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        for cycle in (self.cycle, self._reading, self._answering):
            if cycle is not None:
                cycle.transport = self.transport  # or it holds this, which the collector then frees

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always closes
        """The client has ended its sending: whether the connection stays, for an answer.

        With TLS it cannot: the event loop closes it.
        """
        self._ended = self.scheme == "http" and (self._must_wait() or bool(self._held))
        if self._ended:
            self._watch_peer()
        return self._ended

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        if self._lingering is not None:
            self._lingering.drop()
        elif self._held or self._must_wait() or not self._holds_few_requests(data):
            self._held += data
            self.flow.hold()
            self._parse_held()
        else:
            self._parse(data)

    def _close(self, begun: float) -> None:
        """Close the connection; a client in the midst of a request may send the rest of it.

        Args:
            begun: the loop's time from which it has the time that a body may take.
        """
        due = begun + self._body_seconds
        is_whole = self._between and not self._held
        if is_whole or due <= self.loop.time() or not self.transport.can_write_eof():
            self.transport.close()
        elif not self._is_closing():
            self._between = False
            self._held.clear()
            self._drop_request()
            self._lingering = Lingering(self.transport, due)
            self.flow.release()
            self.flow.resume_reading()

    def _drop_request(self) -> None:
        """Tell the request that is being answered that nobody waits for its answer."""
        answering = self._answering
        if answering is not None and not answering.response_complete and not answering.disconnected:
            answering.disconnected = True
            answering.message_event.set()

    def _is_closing(self) -> bool:
        """Whether nothing more is read, or answered, on this connection."""
        return self._lingering is not None or self.transport.is_closing()

    def _holds_few_requests(self, data: bytes) -> bool:
        """Whether what came may be parsed at once."""
        if len(data) <= self._left or data.find(b"\r", PIECE_BYTES) < 0:
            return True  # a part of one body; or no headers end behind the first piece
        if not self._between:
            return False
        end = data.find(END) + len(END)
        length = _CONTENT_LENGTH.search(data, 0, end)
        return length is not None and len(data) - end <= int(length[1])

    def _is_answering(self) -> bool:
        """Whether a request that came is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _must_wait(self) -> bool:
        """Whether the request that is being answered has come whole: what comes next is ahead."""
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
        self._look_at_rest()
        if self.flow.read_paused and self._must_wait():
            self._watch_peer()

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
        """Parse what came ahead, a piece after another, until a request is being answered."""
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
        self._go_on()

    def _next_piece(self) -> bytes:
        cut = self._held.find(END, PIECE_BYTES) + len(END)
        if self._left > 0:
            cut = self._left
        elif cut < len(END):
            cut = len(self._held)
        piece = bytes(self._held[:cut])
        del self._held[:cut]
        return piece

    def _go_on(self) -> None:
        """After an answer or a piece: parse what came ahead, or read on."""
        if self._held:
            if self._parsing is None:
                self._parsing = self.loop.call_soon(self._parse_held)
        elif self._ended and not self._must_wait():
            self.transport.close()
        elif self._refusal is None:
            self.flow.release()

    def on_response_complete(self) -> None:
        """Begin the request that waits behind this one, refuse it, or await the next."""
        self.server_state.total_requests += 1
        if self._is_closing():
            return
        if self.flow.read_paused and len(self.pipeline) < 2:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self._await_next()
        if self._held or self._ended or self.flow.read_paused:
            self._go_on()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, error: ServiceError) -> None:
        """Answer what is no request, behind what came before it, and close the connection."""
        if self._is_closing() or self._refusal is not None:
            return
        if self._must_wait():
            if self.pipeline and self.pipeline[0][0] is self._reading:
                self.pipeline.popleft()  # it is this request that is refused, not whole as it is
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
        """Answer what is no request, and close the connection."""
        raise NotImplementedError

    def _look_at_rest(self) -> None:
        """What was given to the parser has been parsed."""
        raise NotImplementedError

    def _await_next(self) -> None:
        """Every request that came has been answered."""
        raise NotImplementedError

    def _watch_peer(self) -> None:
        """Look at the client now and then: nothing is read that would tell of its end."""
        if self._look is None:
            self._look = self.loop.call_later(PEER_SECONDS, self._look_at_peer, 1)

    def _look_at_peer(self, times: int) -> None:
        self._look = None
        if self._is_closing() or not self._must_wait():
            return
        if was_reset(self.transport):
            self.transport.abort()
            return
        cycle = self._answering
        if times & (times - 1) == 0 and not cycle.response_started:  # ever more seldom
            if not isinstance(cycle.transport, BegunTransport):
                cycle.transport = BegunTransport(cycle.transport)
            cycle.transport.probe()
        seconds = min(PEER_SECONDS * (times + 1), 1.0)
        self._look = self.loop.call_later(seconds, self._look_at_peer, times + 1)
