"""The server of a worker: who connects is soon accepted, and answered also where the worker stops.

uvicorn leaves whoever has connected and was not accepted yet to the kernel, which resets them when
the last process closes the socket, and hangs up on a connection that is between two requests though
the next may be on its way. Here the last worker to leave accepts the first, and shuts the socket:
whoever comes now is refused at once, and may ask another server. And a connection is kept for one
more request (`Connection.shutdown`).

The end takes no longer than it may (`stop_seconds`), whatever is in the queues: a thread cuts off
what is left then, and the process ends. uvicorn's own bound does not cover the end of the service
and the threads that compute.
"""

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from service.http import parent
from service.http.arrivals import Arrivals, serve
from service.settings import current_settings
from service.telemetry.logs import logger
from service.telemetry.metrics import write_counts

if sys.platform != "win32":
    import fcntl

ORPHAN_SECONDS = 1.0
"""How long a worker whose parent is gone answers what it has begun; see `parent.LAST_SECONDS`."""

_LOOK_SECONDS = 0.05


def stop_seconds(option: float | None) -> float:
    """How long the end of a worker may take, in seconds.

    Args:
        option: what `--timeout-graceful-shutdown` says, if it was given; it outweighs the setting.
    """
    return current_settings().graceful_shutdown_seconds if option is None else float(option)


class Server(uvicorn.Server):
    """uvicorn's server: it accepts more under load, and its end is gentle and bounded in time."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._option: float | None = config.timeout_graceful_shutdown
        self._due: float | None = None  # the monotonic time at which the process ends at the latest

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; uvicorn calls it."""
        for shared in sockets or []:
            _hold(shared)
        await super().startup(sockets)
        self._arrivals: list[Arrivals] = []
        if sys.platform != "win32":  # an event loop cannot watch a socket there
            protocol, tls = self._protocol_factory(), self.config.ssl
            self._arrivals += [Arrivals(shared, protocol, tls) for shared in sockets or []]
        parent.end_soon()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end, or hasten it; uvicorn calls it on SIGTERM and SIGINT."""
        super().handle_exit(sig, frame)
        if not self.started:
            logger.info("this worker was told to end before it served anybody, and ends")
            os._exit(0)  # models are being loaded, by threads that may hold the interpreter's end
        if self._due is None and parent.is_gone():
            logger.critical("the process that looks after this worker is gone: the worker ends too")
        self._set_due(0.0 if self.force_exit else self._stop_seconds())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; uvicorn calls it when the process was told to end."""
        self._set_due(self._stop_seconds())
        threading.Thread(target=self._end_in_time, name="end", daemon=True).start()
        self.config.timeout_graceful_shutdown = None  # it is kept here
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

    def _set_due(self, seconds: float) -> None:
        """Have the process end within so many seconds, or earlier where that was said before."""
        due = time.monotonic() + seconds
        self._due = due if self._due is None else min(self._due, due)

    def _stop_seconds(self) -> float:
        seconds = stop_seconds(self._option)
        return min(seconds, ORPHAN_SECONDS) if parent.is_gone() else seconds

    def _end_in_time(self) -> None:
        """End the process when it is due; on a thread, as the event loop itself may hang."""
        while self._due is None or time.monotonic() < self._due:
            time.sleep(_LOOK_SECONDS)
        lost = sum(map(_unanswered, list(self.server_state.connections)))
        logger.error(
            "this worker ends now, and cuts off what is left: requests that were lost: %d", lost
        )
        write_counts()
        os._exit(0)


def _unanswered(connection: Any) -> int:
    """The requests on one of uvicorn's connections whose answers have not left this process."""
    cycle = connection.cycle
    begun = cycle is not None and not cycle.response_complete
    unsent = connection.transport.get_write_buffer_size() > 0
    return len(connection.pipeline) + (begun or unsent)


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
