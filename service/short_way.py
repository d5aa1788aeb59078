"""The short way of a prediction: from the socket to its endpoint, and back in one write.

uvicorn makes each request an ASGI cycle, with its scope, events, messages and timers, and BentoML
a chain of handlers; each takes longer than all that the service does for a small prediction. So a
prediction's request that arrives whole goes to its endpoint as it is: no ASGI between them, one
task, one write. Every other request, and one of which a part is still to come, goes the long way.
"""

import asyncio
from typing import Any, ClassVar

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.endpoint import Responder
from service.exchange import Exchange, begin
from service.front import CLIENT_CLOSED_REQUEST, Front
from service.settings import current_settings


class _Turn:
    """What uvicorn's protocol asks of the request that is being answered on its connection."""

    __slots__ = ("disconnected", "keep_alive", "response_complete", "task")

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None

    @property
    def message_event(self) -> "_Turn":
        """Uvicorn sets it when the connection is lost."""
        return self

    def set(self) -> None:
        """Drop the request: nobody waits for its answer."""
        if self.disconnected and self.task is not None:
            self.task.cancel()


class ShortWay(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with the short way. `front` is set at start-up."""

    front: ClassVar[Front]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._short: Responder | None = None  # of the request that is arriving on the short way
        self._body = b""

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; what has not arrived whole then goes the long way."""
        super().data_received(data)
        if self._short is not None and not self.transport.is_closing():
            self._take_long_way()

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made where the long way begins."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Choose the way."""
        responder = self.front.responder(self.url.decode("latin-1"))
        if (
            responder is not None
            and b"%" not in self.url
            and b"?" not in self.url
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
            and not self.root_path
            and self.limit_concurrency is None
            and not any(name == b"content-encoding" for name, _ in self.headers)
        ):
            self._short, self._body = responder, b""
        else:
            self._begin_long_way()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._short is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        """Answer a request that is whole."""
        if self._short is not None and len(self._body) > current_settings().max_body_bytes:
            self._take_long_way()
        if self._short is None:
            super().on_message_complete()
            return
        turn = _Turn()
        self.cycle = turn  # type: ignore[assignment]  # it has what the protocol asks of a cycle
        # Begun in this context, of which the task gets a copy.
        exchange = begin("POST", self.url.decode("latin-1"), dict(self.headers))
        turn.task = self.loop.create_task(self._answer(turn, exchange, self._short, self._body))
        turn.task.add_done_callback(self.tasks.discard)
        self.tasks.add(turn.task)
        self._short = None

    def _begin_long_way(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()

    def _take_long_way(self) -> None:
        self._short = None
        self._begin_long_way()
        if self._body:
            super().on_body(self._body)

    async def _answer(
        self, turn: _Turn, exchange: Exchange, responder: Responder, body: bytes
    ) -> None:
        try:
            response = await responder(body)
            exchange.status = response.status_code
            if self.flow.write_paused:
                await self.flow.drain()
            if not self.transport.is_closing():
                self._write(turn, response)
        except asyncio.CancelledError:
            exchange.status = CLIENT_CLOSED_REQUEST
            self.transport.close()
            if not turn.disconnected:
                raise
        except Exception:
            self.transport.close()
            raise
        finally:
            self.front.end(exchange)

    def _write(self, turn: _Turn, response: Response) -> None:
        parts: list[bytes | memoryview] = [STATUS_LINE[response.status_code]]
        headers = [*self.server_state.default_headers, *response.raw_headers]
        closing = (b"connection", b"close")
        if closing in headers:
            turn.keep_alive = False
        elif not turn.keep_alive:
            headers.append(closing)
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", response.body)
        self.transport.write(b"".join(parts))
        turn.response_complete = True
        if not turn.keep_alive:
            self.transport.close()
        self.on_response_complete()
