"""Limits of a connection and its requests, on both the fast path and the ASGI path.

uvicorn limits neither the size of a request's header nor the number of connections, so this module
does. A connection beyond the limit, a header that is too large or too slow, and bytes that are not
HTTP get an error response like any other, and the connection is closed. A client that does not
read its response is disconnected (`unread.py`). A graceful close waits a moment for a request that
may be on its way.
"""

import math
import os
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from service.errors import (
    HeaderTimeoutError,
    HeaderTooLargeError,
    ServiceError,
    TooManyConnectionsError,
)
from service.http.app import SECURITY_HEADERS
from service.http.responses import Reply, error_response
from service.telemetry.logs import logger
from service.telemetry.request_context import start_request
from service.transport.peer import BegunTransport
from service.transport.protocol import STATUS_LINE, PipelinedProtocol, RequestCycle
from service.transport.unread import UnreadResponses

if sys.platform != "win32":
    import resource

OTHER_FILES = 1000
"""Open files of a worker other than connections, at most."""

LAST_SECONDS = 0.3
"""How long an idle connection is kept for one more request when the process ends."""

MAX_BATCHED_BYTES = 64 * 2**10
"""The event loop sends smaller writes at the end of its iteration, and larger ones at once."""

JOINED_BYTES = 2**16
"""A body up to this size is written together with its header; a copy of a larger one takes longer
than a second write."""

let_siblings_run: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # Windows lacks it
"""Yields the core to another worker, which can then accept the next connection; called once per
connection.

All workers listen on one socket. Of many connections that arrive at once, the first worker to wake
up would take nearly all.
"""


@cache
def max_connections(limit: int) -> int:
    """Return how many connections this worker accepts: `limit`, which the setting has, or fewer.

    The limit of open files may be lower (`supervisor.py` raises that limit as far as the system
    allows). A part of the open files is left for files and job processes, which would otherwise
    fail.
    """
    if sys.platform == "win32":
        return limit
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = limit if files == resource.RLIM_INFINITY else files - min(OTHER_FILES, files // 4)
    if possible < limit:
        logger.warning(
            "at most %d connections are accepted, and not %d, as the limit of open files is %d",
            *(possible, limit, files),
        )
    return min(limit, possible)


class Connection(PipelinedProtocol):
    """uvicorn's protocol for one connection, with limits."""

    _common: ClassVar[tuple[object, bytes]] = (None, b"")  # the encoded headers of every response

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = self.application.settings
        self.ws_protocol_class = None  # WebSocket is not supported
        self._draining = False
        self._max_connections = max_connections(settings.max_connections)
        self._max_header_bytes = settings.max_header_bytes
        self._header_seconds = settings.header_timeout_seconds
        self._timer: TimerHandle | None = None
        self._header_due = math.inf  # loop time at which the header is late
        self._header_begun = False  # the timeout of the current header is running
        self._idle = True  # no bytes have arrived since the last response
        self._unread = UnreadResponses.of_loop(self.loop, settings)
        self._written = 0  # bytes of the last write

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Wait for the first header, or refuse the connection if there are too many."""
        super().connection_made(transport)
        let_siblings_run()
        if len(self.connections) > self._max_connections:  # all connections of this worker
            self._refuse(
                TooManyConnectionsError(
                    f"There are {self._max_connections:,} connections, the maximum. "
                    "Try again later."
                )
            )
            self._close_transport()  # refused connections count too until they are closed
        else:
            self._header_begun = True
            self._await_header(self._header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, and drop what was not read."""
        super().connection_lost(exc)
        self._unread.discard(self.transport)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        """Limit the time and memory of a response that the client does not read at once."""
        super().pause_writing()
        self.transport.set_write_buffer_limits(0)  # resumes once all of it is sent
        self._unread.add(self.transport, self._written)

    def resume_writing(self) -> None:
        """Go on, as the response is sent."""
        self.transport.set_write_buffer_limits()  # the defaults
        self._unread.discard(self.transport)
        super().resume_writing()

    def _close_transport(self) -> None:
        super()._close_transport()
        if self.transport.get_write_buffer_size():  # closed once all of it is sent
            self._unread.add(self.transport, self._written)

    def _write(self, transport: Transport | BegunTransport, data: bytes | bytearray) -> None:
        """Write a response or a part, and pause writing unless the kernel takes all of it at once.

        The event loop holds all of `data` until the last byte is sent.
        """
        self._written = len(data)
        transport.write(data)
        if self._written > MAX_BATCHED_BYTES and self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(0)

    def shutdown(self) -> None:
        """Close after the request in progress, or after one more that may be on its way."""
        self._draining = True
        if self._lingering is not None:
            self._close_transport()
        elif self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _after_parse(self) -> None:
        """Limit the bytes that do not form a header yet, in size and time."""
        if self._unused > self._max_header_bytes:
            self._refuse(self._too_large())
        elif (
            not self._idle
            and not self._header_begun
            and not self._is_answering()
            and not self._is_closing()
        ):  # part of a header has arrived, or the rest of the last request
            self._header_begun = True
            self._await_header(self._header_seconds)

    def _parse(self, data: bytes) -> None:
        self._idle = False
        super()._parse(data)

    def _await_next(self) -> None:
        self._idle = True
        self._await_header(self.timeout_keep_alive)

    def _end_header(self) -> None:
        """Note the end of a header, and check its size.

        Raises:
            HeaderTooLargeError: the header is larger than the setting allows.
        """
        self._header_due, self._header_begun = math.inf, False
        if self._unused > self._max_header_bytes:  # the bytes may include part of the body
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._max_header_bytes:
                raise self._too_large()
        self._unused = 0

    def _await_header(self, seconds: float) -> None:
        self._header_due = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._header_due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:  # otherwise `_check_time` extends it, at less cost
            self._timer = self.loop.call_at(self._header_due, self._check_time)

    def _check_time(self) -> None:
        self._timer = None
        if self.loop.time() >= self._header_due:
            self._end_header_timeout()
        elif self._header_due < math.inf:
            self._timer = self.loop.call_at(self._header_due, self._check_time)

    def _end_header_timeout(self) -> None:
        if self._unused:
            self._refuse(
                HeaderTimeoutError(
                    "The header of the request did not arrive within "
                    f"{self._header_seconds:g} seconds."
                )
            )
        self._close_transport()  # also if no request has begun

    def _too_large(self) -> ServiceError:
        return HeaderTooLargeError(
            f"The header of the request is larger than {self._max_header_bytes:,} bytes; send less."
        )

    def _send_refusal(self, error: ServiceError) -> None:
        context = start_request("", "", {})
        response = error_response(error, context)
        context.status = response.status_code
        self._between = False  # further bytes are not a request
        self.write_reply(RequestCycle(self.transport, keep_alive=False), response)
        self.application.end_request(context)

    def write_reply(self, cycle: RequestCycle, reply: Reply) -> None:
        """Write a whole response."""
        common = self.server_state.default_headers
        if common is not self._common[0]:  # uvicorn replaces them once a second, for the date
            every = (*common, *SECURITY_HEADERS)
            Connection._common = common, b"".join([b"%b: %b\r\n" % header for header in every])
        end = b"\r\n"
        if b"\r\nconnection: close\r\n" in reply.lines:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            end = b"connection: close\r\n\r\n"
        line = STATUS_LINE[reply.status_code]
        head = (line, self._common[1], reply.lines, end)
        if len(reply.body) <= JOINED_BYTES:
            self._write(cycle.transport, b"".join((*head, reply.body)))
        else:
            self._write(cycle.transport, b"".join(head))
            self._write(cycle.transport, reply.body)
        cycle.response_complete = True
        if not cycle.keep_alive:
            self._header_due = math.inf
            self._close(self.loop.time())
        self.on_response_complete()
