"""Detect a client that is gone while the server reads nothing from its connection.

The server does not read from a client that has closed its sending side (`shutdown(SHUT_WR)`, which
TCP cannot tell from a closed socket), nor from one that has sent more than is parsed now. Only data
sent to the client shows whether it is still there: if its socket is closed, its kernel replies with
a reset. The server therefore sends the bytes that every response begins with, one by one, before
the response is ready.
"""

import select
from asyncio import Transport
from typing import Any

BEGINNING = b"HTTP/1.1 "
"""The first bytes of every response."""


def was_reset(transport: Transport) -> bool:
    """Return whether the connection was reset, even if nothing reads from it."""
    connection = transport.get_extra_info("socket")
    if connection is None or not hasattr(select, "poll"):  # Windows lacks it
        return False
    poller = select.poll()
    poller.register(connection.fileno(), 0)  # errors and hang-ups are always reported
    return bool(poller.poll(0))


class BegunTransport:
    """A transport that has sent part of `BEGINNING`, and skips this part of the next response.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._sent = 0

    def probe(self) -> None:
        """Send the next byte, if one is left."""
        self._transport.write(BEGINNING[self._sent : self._sent + 1])
        self._sent = min(self._sent + 1, len(BEGINNING))

    def write(self, data: bytes | bytearray) -> None:
        """Send the response, or part of it."""
        self._transport.write(data[self._sent :])
        self._sent = 0

    def __getattr__(self, name: str) -> Any:
        """Return the transport's own attribute."""
        return getattr(self._transport, name)
