"""The server of a worker, with a graceful and bounded shutdown.

uvicorn leaves connections that are not accepted yet to the kernel, which resets them when the last
process closes the socket. It also closes idle connections although a request may be on its way.
Here the last worker to end accepts the pending connections, and shuts the socket down
(`shared_socket.py`). An idle connection is kept for one more request (`Connection.shutdown`).

The shutdown takes at most `stop_seconds`, whatever is queued: a thread then ends the process.
uvicorn's own timeout covers neither the service's shutdown nor the threads that compute.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from service import parent_watch
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import write_counts
from service.transport.acceptor import Acceptor, serve
from service.transport.shared_socket import close_if_last, hold_lock

ORPHAN_SECONDS = 1.0
"""How long a worker without a parent may finish its requests (`parent_watch.LAST_SECONDS`)."""

BENTOML_KEEP_ALIVE = 5
"""BentoML's default of `--timeout-keep-alive`, in seconds.

Clients and proxies keep idle connections for longer, and lose a request that they send at the
moment of the close.
"""

_CHECK_SECONDS = 0.05


def stop_seconds(settings: Settings, option: float | None) -> float:
    """Return the maximum duration of a worker's shutdown, in seconds.

    Args:
        settings: of the service.
        option: the value of `--timeout-graceful-shutdown`, which overrides the setting, if given.
    """
    return settings.graceful_shutdown_seconds if option is None else float(option)


class Server(uvicorn.Server):
    """uvicorn's server with an `Acceptor`, and a graceful shutdown that is bounded in time.

    Args:
        config: as BentoML makes it.
        settings: for the values that the command line does not give.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        if config.timeout_keep_alive == BENTOML_KEEP_ALIVE:  # the option was not given
            config.timeout_keep_alive = settings.keep_alive_seconds
        self._max_stop_seconds = stop_seconds(settings, config.timeout_graceful_shutdown)
        self._due: float | None = None  # the monotonic time at which the process ends at the latest

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; called by uvicorn."""
        for shared in sockets or []:
            hold_lock(shared)
        await super().startup(sockets)
        self._acceptors: list[Acceptor] = []
        if sys.platform != "win32":  # event loops cannot watch a socket there
            protocol, tls = self._protocol_factory(), self.config.ssl
            self._acceptors += [Acceptor(shared, protocol, tls) for shared in sockets or []]
        parent_watch.end_soon()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown, or speed it up; called by uvicorn on SIGTERM and SIGINT."""
        is_repeated = self.should_exit
        super().handle_exit(sig, frame)
        if (
            is_repeated and signal.SIGINT in self._captured_signals
        ):  # SIGTERM may arrive after Ctrl-C
            self.force_exit = True
        if not self.started:
            logger.info("this worker was told to end before it served a request, and ends")
            os._exit(0)  # threads that load models may block the interpreter's exit
        if self._due is None and parent_watch.is_gone():
            logger.critical("the process that looks after this worker is gone: the worker ends too")
        self._set_due(0.0 if self.force_exit else self._stop_seconds())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; called by uvicorn when the process was told to end."""
        self._set_due(self._stop_seconds())
        threading.Thread(target=self._end_in_time, name="end", daemon=True).start()
        self.config.timeout_graceful_shutdown = None  # `_end_in_time` enforces it
        connections = [
            connection for shared in sockets or [] for connection in close_if_last(shared)
        ]
        for server in self.servers:
            server.close()
        for acceptor in self._acceptors:
            await acceptor.close()
        protocol, tls = self._protocol_factory(), self.config.ssl
        for connection in connections:
            await serve(connection, protocol, tls)
        await super().shutdown(sockets)

    def _protocol_factory(self) -> Callable[[], asyncio.Protocol]:
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class
        return partial(make, config=config, server_state=state, app_state=self.lifespan.state)

    def _set_due(self, seconds: float) -> None:
        """End the process within `seconds`, or at the time set before if that is earlier."""
        due = time.monotonic() + seconds
        self._due = due if self._due is None else min(self._due, due)

    def _stop_seconds(self) -> float:
        seconds = self._max_stop_seconds
        return min(seconds, ORPHAN_SECONDS) if parent_watch.is_gone() else seconds

    def _end_in_time(self) -> None:
        """End the process when it is due. Runs on a thread, as the event loop may hang."""
        while self._due is None or time.monotonic() < self._due:
            time.sleep(_CHECK_SECONDS)
        lost = sum(map(_unanswered, list(self.server_state.connections)))
        logger.error("this worker ends now without waiting any longer: requests lost: %d", lost)
        write_counts()
        os._exit(0)


def _unanswered(connection: Any) -> int:
    """Return how many requests of a connection have no response that was sent whole."""
    cycle = connection.cycle
    is_in_progress = cycle is not None and not cycle.response_complete
    unsent = connection.transport.get_write_buffer_size() > 0
    return len(connection.pipeline) + (is_in_progress or unsent)
