"""Lingering close: read and discard what a client still sends after the response.

If a socket is closed while received bytes are unread, the kernel resets the connection, and the
client can lose the response (RFC 9112, section 9.6). The sending side is therefore closed first,
and the connection when the client closes it, is silent, or exceeds its time.
"""

import asyncio
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any

SILENT_SECONDS = 2.0
"""The connection is closed after this long without received bytes."""


class Lingering:
    """Closes the sending side of a connection now, and the connection later.

    Args:
        transport: of the connection; it must support closing one side.
        due: the loop time at which the connection is closed at the latest.
        close: closes the connection.
    """

    def __init__(self, transport: Transport, due: float, close: Callable[[], None]) -> None:
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._due = due
        transport.write_eof()
        self._timer: TimerHandle = self._loop.call_later(SILENT_SECONDS, self._check)

    def drop(self) -> None:
        """Discard received bytes."""
        self._last = self._loop.time()

    def cancel(self) -> None:
        """Cancel the timer, as the connection is closed."""
        self._timer.cancel()

    def _check(self) -> None:
        end = min(self._last + SILENT_SECONDS, self._due)
        if self._loop.time() >= end:
            self._close()
        else:
            self._timer = self._loop.call_at(end, self._check)


class LingeringTransport:
    """A transport with another `close` and `write`.

    Args:
        transport: of the connection.
        close: replaces the transport's own.
        write: replaces the transport's own.
    """

    def __init__(
        self, transport: Transport, close: Callable[[], None], write: Callable[[bytes], None]
    ) -> None:
        self._transport = transport
        self.close = close
        self.write = write

    def __getattr__(self, name: str) -> Any:
        """Return the transport's own attribute."""
        return getattr(self._transport, name)
