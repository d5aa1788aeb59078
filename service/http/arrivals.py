"""How connections come in while the event loop is busy: the longer its turn, the more of them.

libuv accepts one connection in each turn of the event loop. A turn in which hundreds of requests
came lasts for milliseconds, and whoever connects then would wait for as many turns as there are
others before: for seconds, where many clients come back at once. So at the end of a long turn more
are accepted. Not all at once: of several workers, the first to be there would take every one.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

SECONDS_OF_ONE = 0.00025
"""More than a connection takes with its first request; or each turn would accept more than the
last."""


class Arrivals:
    """Accepts connections to a socket on which the event loop listens too. Use it on that loop.

    Args:
        shared: the socket; other processes may listen on it as well.
        make_protocol: makes what serves a connection.
        tls: of the connections, where they have any.
    """

    def __init__(
        self,
        shared: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._shared = shared.dup()  # the loop watches its own already
        self._shared.setblocking(False)  # another worker may be there first
        self._make_protocol = make_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._end_of_turn: asyncio.Handle | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._shared, self._begin)

    async def close(self) -> None:
        """Accept no more, and have those served who were accepted."""
        self._loop.remove_reader(self._shared)
        if self._end_of_turn is not None:
            self._end_of_turn.cancel()
        self._shared.close()
        if self._serving:
            await asyncio.wait(self._serving)

    def _begin(self) -> None:
        """Somebody has connected: see how long a turn takes now."""
        self._end_of_turn = self._loop.call_soon(self._accept, time.monotonic())

    def _accept(self, begun: float) -> None:
        """The turn is over."""
        for _ in range(int((time.monotonic() - begun) / SECONDS_OF_ONE)):
            try:
                connection, _ = self._shared.accept()
            except OSError:  # nobody is there any more, or the loop will say what is wrong
                return
            task = self._loop.create_task(serve(connection, self._make_protocol, self._tls))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)


async def serve(
    connection: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None,
) -> None:
    """Give an accepted connection to the running event loop."""
    connection.setblocking(False)
    with suppress(OSError):  # it has gone in the meantime
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(make_protocol, connection, ssl=tls)
