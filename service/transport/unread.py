"""Disconnect clients that do not read their responses.

What a client has not read of a response stays in the memory of the worker: the event loop holds a
response until the kernel has taken all of it. So the unread responses of a worker have a limit of
time each, and a limit of memory together. Nothing here runs for a response that the kernel takes at
once. A response is limited from the moment at which the transport pauses writing, or is closed with
a part that is not sent. Up to 64 KiB of small responses on a connection do not pause writing.

A client reads if its kernel acknowledges `PROGRESS_BYTES` more, or all that was sent to it. Only
Linux shows what is acknowledged; on other systems, the bytes that the own kernel takes count.
"""

import math
import socket
import struct
import sys
from asyncio import AbstractEventLoop, TimerHandle, Transport
from contextlib import suppress
from typing import ClassVar

from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import count_slow_reader

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ  # SIOCOUTQ, for a socket

PROGRESS_BYTES = 256 * 2**10
"""A client that takes less than this within the time limit is disconnected.

The progress has a least size, since otherwise one byte now and then would hold a response forever.
It is larger than the steps in which kernels report what a slow client reads.
"""

SPARED_SECONDS = 0.5
"""The limit of memory spares responses that began, or made progress, within this time."""

CHECK_SECONDS = 1.0
"""The longest time between two checks, while a response is unread."""

FULL_CHECK_SECONDS = 0.1
"""The time between two checks while the limit of memory is exceeded."""

LOG_SECONDS = 10.0
"""The log has at most one line about disconnected clients in this time."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # of SO_LINGER: the kernel drops its part, too


class _UnreadResponse:
    """The unread response of one connection.

    Args:
        transport: of the connection.
        size: bytes of the last write, which are in memory until the last of them is sent.
        now: the loop time.

    Attributes:
        bytes: what the response holds in memory, until all of it is sent.
        read_at: the loop time at which the client last made progress, or at which the response
            began.
    """

    __slots__ = ("_left", "_transport", "bytes", "read_at")

    def __init__(self, transport: Transport, size: int, now: float) -> None:
        self._transport = transport
        buffered = transport.get_write_buffer_size()
        self.bytes = max(size, buffered)
        self._left = buffered + (_in_kernel(transport) or 0)
        self.read_at = now

    def update(self, now: float) -> None:
        """Note whether the client has made progress."""
        in_kernel = _in_kernel(self._transport)
        unread = self._transport.get_write_buffer_size() + (in_kernel or 0)
        if in_kernel == 0 or self._left - unread >= PROGRESS_BYTES:
            self._left, self.read_at = unread, now


class UnreadResponses:
    """The unread responses of all connections of one event loop, each with its transport.

    Args:
        loop: the event loop.
        settings: hold the limits.
    """

    _current: ClassVar["UnreadResponses | None"] = None

    def __init__(self, loop: AbstractEventLoop, settings: Settings) -> None:
        self._loop = loop
        self._max_seconds = settings.response_timeout_seconds
        self._max_bytes = settings.max_unread_bytes
        self._check_seconds = min(CHECK_SECONDS, self._max_seconds / 10)
        self._responses: dict[Transport, _UnreadResponse] = {}
        self._bytes = 0
        self._timer: TimerHandle | None = None
        self._unlogged = 0  # clients disconnected since the last line in the log
        self._logged_at = -math.inf

    @classmethod
    def of_loop(cls, loop: AbstractEventLoop, settings: Settings) -> "UnreadResponses":
        """Return the unread responses of the event loop; a worker has one loop.

        The settings are those of the loop's first connection.
        """
        if cls._current is None or cls._current._loop is not loop:
            cls._current = cls(loop, settings)
        return cls._current

    def add(self, transport: Transport, size: int) -> None:
        """Add the response that the transport has not sent.

        Args:
            transport: of the connection.
            size: bytes of the last write, a part of which is not sent.
        """
        if transport not in self._responses:
            response = _UnreadResponse(transport, size, self._loop.time())
            self._responses[transport] = response
            self._bytes += response.bytes
            self._schedule()

    def discard(self, transport: Transport) -> None:
        """Remove a response: it was sent, or its connection is lost."""
        response = self._responses.pop(transport, None)
        if response is not None:
            self._bytes -= response.bytes

    def _schedule(self) -> None:
        seconds = FULL_CHECK_SECONDS if self._bytes > self._max_bytes else self._check_seconds
        due = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._check)

    def _check(self) -> None:
        """Disconnect the clients that take too long, and then the slowest beyond the memory."""
        self._timer = None
        now = self._loop.time()
        for response in self._responses.values():
            response.update(now)
        slowest_first = sorted(self._responses.items(), key=lambda item: item[1].read_at)
        for transport, response in slowest_first:
            waited = now - response.read_at
            if waited >= self._max_seconds:
                self._disconnect(transport, "time")
            elif self._bytes > self._max_bytes and waited >= SPARED_SECONDS:
                self._disconnect(transport, "memory")
            else:
                break
        if self._responses:
            self._schedule()

    def _disconnect(self, transport: Transport, reason: str) -> None:
        self.discard(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with suppress(OSError):  # the connection is lost
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
        count_slow_reader(reason)
        self._unlogged += 1
        if self._loop.time() >= self._logged_at + LOG_SECONDS:
            limit = (
                f"less than {PROGRESS_BYTES:,} bytes in {self._max_seconds:g} seconds"
                if reason == "time"
                else f"and unread responses hold more than {self._max_bytes:,} bytes"
            )
            logger.warning(
                "a client that did not read its response was disconnected (%s); since the last "
                "such line: %d",
                limit,
                self._unlogged,
            )
            self._unlogged, self._logged_at = 0, self._loop.time()


def _in_kernel(transport: Transport) -> int | None:
    """Return how many bytes the client's kernel has not acknowledged; None if that is unknown."""
    connection = transport.get_extra_info("socket")
    if connection is None or sys.platform != "linux":
        return None
    try:
        return int(struct.unpack("i", ioctl(connection.fileno(), TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):  # the connection is lost; `connection_lost` follows
        return None
