"""The end of a connection whose client may be sending still: what it sends is read, and dropped.

A socket that is closed while bytes of the client are unread resets the connection, and the client
loses the answer that it was about to read (RFC 9112, section 9.6). So the sending side is closed
first, and the whole once the client has ended, is silent, or has had its time.
"""

import asyncio
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any

SILENT_SECONDS = 2.0
"""A client that sends nothing for so long is done."""


class Lingering:
    """Closes the sending side of a connection, and later the whole.

    Args:
        transport: that of the connection, which can close one side.
        due: the loop's time until which the client may go on sending.
    """

    def __init__(self, transport: Transport, due: float) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._due = due
        transport.write_eof()
        self._timer: TimerHandle = self._loop.call_later(SILENT_SECONDS, self._look)

    def drop(self) -> None:
        """Note that something came."""
        self._last = self._loop.time()

    def cancel(self) -> None:
        """The connection is closed."""
        self._timer.cancel()

    def _look(self) -> None:
        end = min(self._last + SILENT_SECONDS, self._due)
        if self._loop.time() >= end:
            self._transport.close()
        else:
            self._timer = self._loop.call_at(end, self._look)


class LingeringTransport:
    """A transport that is closed in another way.

    Args:
        transport: that of the connection.
        close: called in place of its own.
    """

    def __init__(self, transport: Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        """All else is as on the transport."""
        return getattr(self._transport, name)
