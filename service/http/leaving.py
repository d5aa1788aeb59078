"""How a worker stops: what was sent to it before it stopped listening is answered.

uvicorn leaves whoever has connected and was not accepted yet to the kernel, which resets them when
the last process closes the socket, and hangs up on a connection that is between two requests though
the next may be on its way. Here the last worker to leave accepts the first, and shuts the socket:
whoever comes now is refused at once, and may ask another server. And a connection is kept for one
more request (`Connection.shutdown`).
"""

import asyncio
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn

if sys.platform != "win32":
    import fcntl


class LeavingServer(uvicorn.Server):
    """uvicorn's server, with a gentle end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; uvicorn calls it."""
        for shared in sockets or []:
            _hold(shared)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; uvicorn calls it when the process was told to end."""
        last = [connection for shared in sockets or [] for connection in _let_go(shared)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class
        protocol = partial(make, config=config, server_state=state, app_state=self.lifespan.state)
        for connection in last:
            with suppress(OSError):  # it has gone in the meantime
                await loop.connect_accepted_socket(protocol, connection, ssl=config.ssl)
        await super().shutdown(sockets)


# Each worker holds a record lock on the socket that they share, for as long as it accepts: the
# kernel knows who is left, also where one was killed. Only on Linux does a socket have such locks;
# elsewhere it is never shut here, which is what uvicorn does.


def _hold(shared: socket.socket) -> None:
    if sys.platform == "win32":
        return
    with suppress(OSError):
        fcntl.lockf(shared, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _let_go(shared: socket.socket) -> list[socket.socket]:
    """Shut the socket, if no other worker accepts from it; whoever was not accepted until then."""
    last: list[socket.socket] = []
    if sys.platform == "win32":
        return last
    with suppress(OSError):
        fcntl.lockf(shared, fcntl.LOCK_UN)
        fcntl.lockf(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shared.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection, _ = shared.accept()
                connection.setblocking(False)
                last.append(connection)
        shared.shutdown(socket.SHUT_RDWR)
    return last
