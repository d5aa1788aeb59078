"""The server of a worker: who connects is soon accepted, and answered also where the worker stops.

uvicorn leaves whoever has connected and was not accepted yet to the kernel, which resets them when
the last process closes the socket, and hangs up on a connection that is between two requests though
the next may be on its way. Here the last worker to leave accepts the first, and shuts the socket:
whoever comes now is refused at once, and may ask another server. And a connection is kept for one
more request (`Connection.shutdown`).

A worker whose parent was killed would serve on, where nobody replaces or ends it, and hold the
port: it stops in the same way.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import uvicorn

from service.http.arrivals import Arrivals, serve
from service.telemetry.logs import logger

if sys.platform != "win32":
    import fcntl

PARENT = "FITSERVE_PARENT"
"""The variable by which `bentoml serve` tells its workers its process's number."""

LOOK_SECONDS = 1.0


class Server(uvicorn.Server):
    """uvicorn's server, with more arrivals and a gentle end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; uvicorn calls it."""
        for shared in sockets or []:
            _hold(shared)
        if PARENT in os.environ:
            self._following = asyncio.create_task(self._follow(int(os.environ[PARENT])))
        await super().startup(sockets)
        self._arrivals: list[Arrivals] = []
        if sys.platform != "win32":  # an event loop cannot watch a socket there
            protocol, tls = self._protocol_factory(), self.config.ssl
            self._arrivals += [Arrivals(shared, protocol, tls) for shared in sockets or []]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; uvicorn calls it when the process was told to end."""
        last = [connection for shared in sockets or [] for connection in _let_go(shared)]
        for server in self.servers:
            server.close()
        for arrivals in self._arrivals:
            await arrivals.close()
        protocol, tls = self._protocol_factory(), self.config.ssl
        for connection in last:
            await serve(connection, protocol, tls)
        await super().shutdown(sockets)

    def _protocol_factory(self) -> Callable[[], asyncio.Protocol]:
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class
        return partial(make, config=config, server_state=state, app_state=self.lifespan.state)

    async def _follow(self, parent: int) -> None:
        """Stop where the parent is gone: the process has another one then, except on Windows."""
        while os.getppid() == parent:  # noqa: ASYNC110 - of this there is no event
            await asyncio.sleep(LOOK_SECONDS)
        logger.critical("the process that looks after this worker is gone: the worker ends too")
        self.should_exit = True


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
                last.append(connection)
        shared.shutdown(socket.SHUT_RDWR)
    return last
