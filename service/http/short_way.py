"""The short way of a prediction: from the socket to its endpoint, and back in one write.

uvicorn makes each request an ASGI cycle, with its scope, events, messages and timers, and BentoML
a chain of handlers; each takes longer than all that the service does for a small prediction. So a
prediction's request that arrives whole goes to its endpoint as it is: no ASGI between them, no
task, one write. Every other request, and one of which a part is still to come, goes the long way.

A client sends the same head again and again. One that took the short way is known from then on, and
is not parsed again.
"""

import math
from asyncio import Future
from functools import partial
from typing import Any

from service.http.compression import compressed
from service.http.connection import Connection
from service.http.endpoint import Reply, Responder, error_response
from service.http.exchange import begin
from service.http.framing import check_framing
from service.http.front import CLIENT_CLOSED_REQUEST, KnownHead
from service.http.lingering import LingeringTransport
from service.http.pipelining import END, Turn
from service.settings import current_settings

_MOST_HEADS = 1_000
_LARGEST_HEAD = 2_000  # bytes
_UNKNOWN = {b"transfer-encoding", b"authorization", b"x-api-key", b"cookie"}
"""No head with one of these is kept: its body has another length, or it holds a secret."""


class ShortWay(Connection):
    """The connection, with the short way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._data = b""  # what came, where a request begins with it
        self._short: Responder | None = None  # of the request that is arriving on the short way
        self._path = ""
        self._exchange_headers: dict[bytes, bytes] = {}
        self._header_count = 0  # what comes beyond follows a body in chunks, and is none
        self._body = b""
        self._largest = current_settings().max_body_bytes
        self._compress_from: float = current_settings().compress_from_bytes or math.inf

    def data_received(self, data: bytes) -> None:
        """Take what has arrived: mostly one request, whose head is known."""
        if self._between and not self._held:
            end = data.find(END) + len(END)
            head = self.front.known_heads.get(data[:end])
            if head is not None and len(data) == end + head.length and self._is_free():
                self._end_head()
                self._answer(head.path, head.headers, head.responder, data[end:])
                return
            self._data = data
        super().data_received(data)
        self._data = b""

    def _is_free(self) -> bool:
        """Whether a request that comes now is the next to be answered."""
        return not (self._is_answering() or self.flow.write_paused)

    def _look_at_rest(self) -> None:
        """What has not arrived whole goes the long way."""
        if self._short is None:
            super()._look_at_rest()
        elif not self._is_closing():
            self._take_long_way()

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made where the long way begins."""
        self._between, self._reading, self._left = False, None, 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose the way.

        Raises:
            ServiceError: the request is refused: it is too large, or its end is not certain.
        """
        self._end_head()
        parser, headers = self.parser, dict(self.headers)
        check_framing(
            parser.get_method(), self.url, parser.get_http_version(), self.headers, headers
        )
        if parser.should_upgrade():
            return  # it is parsed anew
        self._left = int(headers.get(b"content-length", 0))
        self._path = self.url.decode("latin-1")
        responder = self.front.responder(self._path, headers)
        if (
            responder is not None
            and b"%" not in self.url
            and b"?" not in self.url
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not self.expect_100_continue
            and self._is_free()
            and not self.root_path
            and self.limit_concurrency is None
        ):
            self._short, self._exchange_headers, self._body = responder, headers, b""
            self._header_count = len(self.headers)
        else:
            self._begin_long_way()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unused = 0
        self._left -= len(body)
        if self._short is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Answer a request that is whole."""
        if self.parser.should_upgrade():
            return
        self._unused, self._between = 0, True
        if self._short is not None and len(self._body) > self._largest:
            self._take_long_way()
        if self._short is None:
            super().on_message_complete()
            return
        responder, self._short = self._short, None
        self._remember(responder)
        self._answer(self._path, self._exchange_headers, responder, self._body)

    def _remember(self, responder: Responder) -> None:
        """Know the head of this request again, where all that came is that and the body."""
        data, self._data, length = self._data, b"", len(self._body)
        end = data.find(END) + len(END)
        if (
            len(data) == end + length
            and end <= _LARGEST_HEAD
            and _UNKNOWN.isdisjoint(self._exchange_headers)
        ):
            known = self.front.known_heads
            if len(known) >= _MOST_HEADS:
                known.clear()
            known[data[:end]] = KnownHead(self._path, self._exchange_headers, responder, length)

    def _answer(
        self, path: str, headers: dict[bytes, bytes], responder: Responder, body: bytes
    ) -> None:
        turn = self._answering = Turn(self.transport)
        turn.keep_alive = not self._leaving
        self.cycle = turn  # type: ignore[assignment]  # it has what the protocol asks of a cycle
        exchange = begin("POST", path, headers)

        packing: Future[bytes] | None = None

        def answer(reply: Reply) -> None:
            coding = reply.coding(headers) if len(reply.body) >= self._compress_from else None
            if coding is None:
                finish(reply)
            else:
                compress(reply, coding)

        def compress(reply: Reply, coding: bytes) -> None:
            nonlocal packing

            def unpack(packed: Future[bytes]) -> None:
                if not packed.cancelled():
                    reply.take_compressed(packed.result(), coding)
                    finish(reply)

            packing = compressed(bytes(reply.body), coding)
            packing.add_done_callback(unpack)

        def finish(reply: Reply) -> None:
            turn.give_up = None
            exchange.status = reply.status_code
            if not self.transport.is_closing():
                self._write(turn, reply)
            self.front.end(exchange)

        try:
            self.front.admit(exchange)
            give_up = responder(exchange, body, answer)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            answer(error_response(error, exchange))
            return

        def leave() -> None:
            turn.give_up = None
            give_up()
            if packing is not None:
                packing.cancel()
            exchange.status = CLIENT_CLOSED_REQUEST
            self.front.end(exchange)

        if not turn.response_complete:
            turn.give_up = leave

    def _begin_long_way(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        self._reading = self.cycle
        cycle: Any = self.cycle
        if cycle is not None:
            cycle.transport = LingeringTransport(
                self.transport, partial(self._close, self.loop.time())
            )
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False
        self.headers = []  # for what follows a body in chunks

    def _take_long_way(self) -> None:
        self._short = None
        del self.headers[self._header_count :]
        self._begin_long_way()
        if self._body:
            super().on_body(self._body)
