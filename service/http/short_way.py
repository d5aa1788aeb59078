"""The short way of a prediction: from the socket to its endpoint, and back in one write.

uvicorn makes each request an ASGI cycle, with its scope, events, messages and timers, and BentoML
a chain of handlers; each takes longer than all that the service does for a small prediction. So a
prediction's request that arrives whole goes to its endpoint as it is: no ASGI between them, no
task, one write. Every other request, and one of which a part is still to come, goes the long way.

uvicorn sets no bounds to a request's head, so they stand here: what is no head in size or in time,
or no HTTP at all, is refused, and its connection closed.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import BadInputError, HeadTimeoutError, HeadTooLargeError, ServiceError
from service.http.endpoint import Responder, error_response
from service.http.exchange import begin
from service.http.front import CLIENT_CLOSED_REQUEST, SECURITY_HEADERS, Front
from service.settings import current_settings

LAST_SECONDS = 0.3
"""How long a connection between two requests is kept for one more, when the process ends."""


class _Turn:
    """What uvicorn's protocol asks of the request that is being answered on its connection."""

    __slots__ = ("disconnected", "give_up", "keep_alive", "response_complete")

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self.give_up: Callable[[], None] | None = None

    @property
    def message_event(self) -> "_Turn":
        """Uvicorn sets it when the connection is lost."""
        return self

    def set(self) -> None:
        """Drop the request: nobody waits for its answer."""
        if self.disconnected and self.give_up is not None:
            self.give_up()


class ShortWay(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with the short way. `front` is set at start-up."""

    front: ClassVar[Front]
    _common: ClassVar[tuple[object, bytes]] = (None, b"")  # the headers of every answer, as sent

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._short: Responder | None = None  # of the request that is arriving on the short way
        self._path = ""
        self._exchange_headers: dict[bytes, bytes] = {}
        self._header_count = 0  # what comes beyond follows a body in chunks, and is none
        self._body = b""
        self._leaving = False
        settings = current_settings()
        self._largest = settings.max_body_bytes
        self._largest_head = settings.max_header_bytes
        self._head_seconds = settings.header_timeout_seconds
        self._head_timer: TimerHandle | None = None  # where a head is awaited, or what went before
        self._unused = 0  # bytes that came since a head, or a part of a body
        self.ws_protocol_class = None  # nothing here speaks WebSocket

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Await the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Await no more."""
        super().connection_lost(exc)
        self._end_wait()

    def shutdown(self) -> None:
        """Close after the request in progress, or after one more that may be on its way."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; what has not arrived whole then goes the long way."""
        self._unused += len(data)
        super().data_received(data)
        if self._short is not None:
            if not self.transport.is_closing():
                self._take_long_way()
        elif self._unused > self._largest_head:
            self._refuse(self._too_large())
        elif (
            self.timeout_keep_alive_task is None
            and self._head_timer is None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.transport.is_closing()
        ):  # there is a part of a head, or a rest of the last request
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made where the long way begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose the way."""
        if self._head_timer is not None:
            self._end_wait()
        if self._unused > self._largest_head:  # unless most of it is a body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._largest_head:
                self._refuse(self._too_large())
                raise self._too_large()  # so that the parser stops
        self._unused = 0
        parser, headers = self.parser, dict(self.headers)
        self._path = self.url.decode("latin-1")
        responder = self.front.responder(self._path, headers)
        if (
            responder is not None
            and b"%" not in self.url
            and b"?" not in self.url
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
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
        if self._short is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Answer a request that is whole."""
        self._unused = 0
        if self._short is not None and len(self._body) > self._largest:
            self._take_long_way()
        if self._short is None:
            super().on_message_complete()
            return
        responder, self._short = self._short, None
        turn = _Turn()
        turn.keep_alive = not self._leaving
        self.cycle = turn  # type: ignore[assignment]  # it has what the protocol asks of a cycle
        exchange = begin("POST", self._path, self._exchange_headers)

        def reply(response: Response) -> None:
            turn.give_up = None
            exchange.status = response.status_code
            if not self.transport.is_closing():
                self._write(turn, response)
            self.front.end(exchange)

        try:
            self.front.admit(exchange)
            give_up = responder(exchange, self._body, reply)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            reply(error_response(error, exchange))
            return

        def leave() -> None:
            turn.give_up = None
            give_up()
            exchange.status = CLIENT_CLOSED_REQUEST
            self.front.end(exchange)

        if not turn.response_complete:
            turn.give_up = leave

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whoever offers an upgrade is answered without one."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not understand."""
        self._refuse(BadInputError("This is no request of HTTP/1.1 that can be read."))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_seconds, self._give_up_head)

    def _end_wait(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        self._head_timer = None
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
        """Answer what is no request, and close the connection."""
        if self.transport.is_closing():
            return
        exchange = begin("", "", {})
        response = error_response(error, exchange)
        exchange.status = response.status_code
        turn = _Turn()
        turn.keep_alive = False
        self._write(turn, response)
        self.front.end(exchange)

    def _begin_long_way(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False
        self.headers = []  # for what follows a body in chunks

    def _take_long_way(self) -> None:
        self._short = None
        del self.headers[self._header_count :]
        self._begin_long_way()
        if self._body:
            super().on_body(self._body)

    def _write(self, turn: _Turn, response: Response) -> None:
        common = self.server_state.default_headers
        if common is not self._common[0]:  # uvicorn renews them once a second, for the date
            ShortWay._common = common, _lines((*common, *SECURITY_HEADERS))
        if (b"connection", b"close") in response.raw_headers:
            turn.keep_alive = False
        elif not turn.keep_alive:
            response.raw_headers.append((b"connection", b"close"))
        head = (STATUS_LINE[response.status_code], self._common[1], _lines(response.raw_headers))
        self.transport.write(b"".join((*head, b"\r\n", response.body)))
        turn.response_complete = True
        if not turn.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
