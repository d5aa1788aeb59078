"""Whether a client has gone from whom nothing is read while it waits for an answer.

Nothing is read from a client that has ended its sending (`shutdown(SHUT_WR)`), which looks to TCP
like one that has closed its socket, nor from one that has sent more than is read now. Only data
tells whether it is still there: where the socket is closed, the client's kernel answers data with a
reset. So the client is sent the bytes that every response begins with, one by one, before the
response is there.
"""

import select
from asyncio import Transport
from typing import Any

BEGINNING = b"HTTP/1.1 "
"""Every response begins with it."""


def was_reset(transport: Transport) -> bool:
    """Whether the connection is dead, also where nobody reads from it."""
    found = transport.get_extra_info("socket")
    if found is None or not hasattr(select, "poll"):  # Windows has none
        return False
    poller = select.poll()
    poller.register(found.fileno(), 0)  # errors and hang-ups are always told
    return bool(poller.poll(0))


class BegunTransport:
    """A transport on which a part of `BEGINNING` was sent: of the next response, the rest is.

    Args:
        transport: that of the connection.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._sent = 0

    def probe(self) -> None:
        """Send the next byte, where there is one left."""
        self._transport.write(BEGINNING[self._sent : self._sent + 1])
        self._sent = min(self._sent + 1, len(BEGINNING))

    def write(self, data: bytes) -> None:
        """Send the response, or a part of it."""
        self._transport.write(data[self._sent :])
        self._sent = 0

    def __getattr__(self, name: str) -> Any:
        """All else is as on the transport."""
        return getattr(self._transport, name)
