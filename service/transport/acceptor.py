"""Accept more connections per loop iteration while the event loop is busy.

libuv accepts one connection per iteration of the event loop. An iteration that handles hundreds of
requests takes milliseconds, so a new connection would wait one such iteration for each connection
before it in the backlog: seconds, if many clients reconnect at once. After a long iteration, the
acceptor therefore accepts more. It does not empty the backlog: the first of several workers would
then take every connection.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

SECONDS_PER_CONNECTION = 0.00025
"""Seconds of an iteration for which one connection is accepted. The value exceeds the time of a
connection and its first request; otherwise each iteration would accept more than the last."""


class Acceptor:
    """Accepts connections on a socket that the event loop also listens on. Not thread-safe.

    Args:
        shared: the socket; other processes may listen on it too.
        make_protocol: creates the protocol of a connection.
        tls: the TLS context of the connections, if they use TLS.
    """

    def __init__(
        self,
        shared: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._shared = shared.dup()  # the loop already watches the original
        self._shared.setblocking(False)  # another worker may accept first
        self._make_protocol = make_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._end_of_iteration: asyncio.Handle | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._shared, self._begin)

    async def close(self) -> None:
        """Stop accepting, and wait until the accepted connections have their transports."""
        self._loop.remove_reader(self._shared)
        if self._end_of_iteration is not None:
            self._end_of_iteration.cancel()
        self._shared.close()
        if self._serving:
            await asyncio.wait(self._serving)

    def _begin(self) -> None:
        """Measure the current loop iteration, as a connection waits."""
        self._end_of_iteration = self._loop.call_soon(self._accept, time.monotonic())

    def _accept(self, started: float) -> None:
        """Accept connections in proportion to the duration of the iteration."""
        for _ in range(int((time.monotonic() - started) / SECONDS_PER_CONNECTION)):
            try:
                connection, _ = self._shared.accept()
            except OSError:  # no connection is left, or the loop reports the error
                return
            task = self._loop.create_task(serve(connection, self._make_protocol, self._tls))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)


async def serve(
    connection: socket.socket,
    make_protocol: Callable[[], asyncio.Protocol],
    tls: ssl.SSLContext | None,
) -> None:
    """Create the transport of an accepted connection on the running event loop."""
    connection.setblocking(False)
    with suppress(OSError):  # the client has disconnected
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(make_protocol, connection, ssl=tls)
