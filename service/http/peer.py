"""Whether a client has gone, or has only stopped sending.

A client that ends its sending (`shutdown(SHUT_WR)`) and waits for the answer looks to TCP like one
that has closed its socket. Only data tells them apart: where the socket is closed, the client's
kernel answers data with a reset. So a client that has stopped sending is sent the bytes that every
response begins with, before the response is there, and the connection is looked at again.
"""

import select
from asyncio import Transport
from typing import Any

BEGINNING = b"HTTP/1.1 "
"""Every response begins with it."""

_GONE = _STOPPED = 0
if hasattr(select, "poll"):  # Windows has none
    _GONE = select.POLLERR | select.POLLHUP
    _STOPPED = getattr(select, "POLLRDHUP", 0)  # Linux alone


def has_gone(transport: Transport) -> bool:
    """Whether the connection was reset, also where nobody reads from it now."""
    return bool(_poll(transport, _GONE) & _GONE)


def has_stopped_sending(transport: Transport) -> bool:
    """Whether nothing more will come, once what is there has been read. Known on Linux alone."""
    return bool(_poll(transport, _STOPPED) & _STOPPED)


class BegunTransport:
    """A transport on which `BEGINNING` was sent: of the next response, only the rest is.

    Args:
        transport: that of the connection.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._begun = True
        transport.write(BEGINNING)

    def write(self, data: bytes) -> None:
        """Send the response, or a part of it."""
        self._transport.write(data[len(BEGINNING) :] if self._begun else data)
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        """All else is as on the transport."""
        return getattr(self._transport, name)


def _poll(transport: Transport, events: int) -> int:
    found = transport.get_extra_info("socket")
    if not events or found is None:
        return 0
    poller = select.poll()
    poller.register(found.fileno(), events)
    return sum(event for _, event in poller.poll(0))
