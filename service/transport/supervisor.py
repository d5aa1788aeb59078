"""The supervisor: it starts the workers, replaces those that die, and stops them.

The supervisor is circus' arbiter, which `bentoml serve` runs. BentoML has it check the workers
every ten seconds and replace a dead one forever; this one checks every second, and ends the server
if restarts do not help. It gives each worker its share of the cores, ties the worker to this
process (`parent_watch.py`), and creates the folder of the workers' metrics.

circus accepts commands over ZeroMQ without authentication. BentoML gives it two TCP ports for that;
here circus listens inside its own process. `--reload` is the exception: its plugin is another
process, which finds the sockets in a folder that only this user can enter.

SIGHUP starts a rolling restart (`rolling_restart.py`).

A shutdown is bounded: a worker gets the seconds of `server.stop_seconds`, and is killed soon after.
circus drops a signal that arrives while it is busy; here the signal is kept.
"""

import asyncio
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from circus.arbiter import Arbiter  # type: ignore[import-untyped]  # circus has no types
from circus.exc import ConflictError  # type: ignore[import-untyped]  # as above
from psutil import NoSuchProcess

from service import parent_watch
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.multiprocess_folder import (
    ADMIN,
    FOLDER,
    ServerFolder,
    ensure_temporary_folder,
    place_of_folder,
)
from service.transport import bentoml_adapter
from service.transport.connection import OTHER_FILES
from service.transport.rolling_restart import replace_workers
from service.transport.server import stop_seconds
from service.transport.shared_socket import hold_lock, release_lock

if sys.platform != "win32":
    import resource

CHECK_SECONDS = 1.0
MAX_RESTARTS = 5  # of each worker
RESTART_WINDOW_SECONDS = 600.0
STOP_OPTION = "--timeout-graceful-shutdown"
KILL_SECONDS = 2.0
"""How much longer than its own timeout a worker may take before it is killed."""

_TIED = ["-P", str(Path(parent_watch.__file__).resolve())]
"""Arguments of Python that run the following module, tied to this process."""
_PLUGIN = "-c 'from circus import plugins;plugins.main()'"

RESTART = () if sys.platform == "win32" else (signal.SIGHUP,)
KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL


class Supervisor(bentoml_adapter.Arbiter):  # type: ignore[misc]  # circus has no types
    """The parent of the workers.

    Args:
        watchers: one for each kind of worker, as BentoML makes them.
        settings: of the service.
        options: of circus.
    """

    def __init__(self, watchers: Sequence[Any], *, settings: Settings, **options: Any) -> None:
        self._settings = settings
        self._workers = list(watchers)
        self._admin: ServerFolder | None = None
        self._counts: ServerFolder | None = None
        self._ending = self._hurried = self._replacing = False
        for watcher in watchers:
            self._prepare(watcher)
        allow_open_files(settings.max_connections + OTHER_FILES)
        fixed_options = {
            **self._endpoints(bool(options.get("plugins"))),
            "check_delay": CHECK_SECONDS,
        }
        super().__init__(list(watchers), **{**options, **fixed_options})
        for plugin in self.watchers[len(watchers) :]:
            plugin.cmd = plugin.cmd.replace(
                _PLUGIN, shlex.join([*_TIED, "circus.plugins.__init__"])
            )
            plugin.env = {**(plugin.env or {}), parent_watch.PARENT: str(os.getpid())}
            plugin.graceful_timeout = KILL_SECONDS  # it has nothing to finish
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *RESTART):
                signal.signal(number, self._note_signal)

    def initialize(self) -> None:
        """Listen, and create the metrics folder; called by circus before it starts the workers.

        Raises:
            SystemExit: the address is not available.
        """
        try:
            super().initialize()
        except OSError as error:
            socket = next(iter(self.sockets.values()))
            raise SystemExit(
                f"error: {socket.host}:{socket.port} is not available "
                f"({error.strerror or error}); name another with --host and --port, or end the "
                "program that uses it"
            ) from None
        for listening in self.sockets.values():
            hold_lock(listening)
        try:
            self._counts = ServerFolder(place_of_folder())
        except OSError as error:
            logger.error("each worker reports its own metrics only: %s", error)
        for watcher in self._workers:
            watcher.env.pop(FOLDER, None)
            if self._counts is not None:
                watcher.env[FOLDER] = str(self._counts.path)

    def manage_watchers(self) -> Any:
        """Check the workers, except while they are being started, replaced or stopped."""
        busy = self._exclusive_running_command or self._replacing
        return None if busy else super().manage_watchers()

    def stop_controller_and_close_sockets(self) -> None:
        """Remove all temporary files; called by circus at every end."""
        super().stop_controller_and_close_sockets()
        self.exit_stack.close()
        if self._counts is not None:
            self._counts.remove()
        if self._admin is not None:
            self._admin.remove()

    def _prepare(self, watcher: Any) -> None:
        """Configure a watcher: its processes are tied to this one, replaced, and stopped."""
        restart_limit = RestartLimit()
        watcher.hooks["before_start"] = restart_limit.begin
        watcher.hooks["before_spawn"] = restart_limit
        watcher.hooks["after_signal"] = self._note_kill
        watcher.respawn = True  # BentoML does not replace workers in a container
        share_cores(watcher, self._settings.intra_op_threads)
        watcher.env[parent_watch.PARENT] = str(os.getpid())
        if watcher.args[0] == "-m":
            watcher.args = [*_TIED, *watcher.args[1:]]
        watcher.graceful_timeout = self._stop_seconds(watcher) + KILL_SECONDS

    def _endpoints(self, plugins: bool) -> dict[str, str]:
        """Return the addresses of circus' commands: in-process, except with plugins."""
        if not plugins:
            return {
                "endpoint": f"inproc://admin-{id(self)}",
                "pubsub_endpoint": f"inproc://{id(self)}",
            }
        if sys.platform == "win32":
            return {}
        self._admin = ServerFolder(Path(tempfile.gettempdir()), ADMIN)
        folder = self._admin.path
        return {"endpoint": f"ipc://{folder}/admin", "pubsub_endpoint": f"ipc://{folder}/events"}

    def _note_signal(self, number: int, _frame: object) -> None:
        if number in RESTART:
            self.loop.add_callback_from_signal(self._restart)
        else:
            self.loop.add_callback_from_signal(self._end, number)

    async def _restart(self) -> None:
        """Replace the workers, unless they are being replaced or stopped already."""
        if self._counts is None:
            logger.error("the workers go on: a restart needs a folder for temporary files")
        elif not self._replacing and not self._ending:
            self._replacing = True
            try:
                for watcher in self._workers:
                    await replace_workers(watcher, self._counts.path)
            finally:
                self._replacing = False

    def _end(self, number: int) -> None:
        """Stop the workers gracefully, or at once after a second Ctrl-C."""
        if not self._ending:
            self._ending = True
            for listening in self.sockets.values():
                release_lock(listening)
            seconds = max(self._stop_seconds(watcher) for watcher in self._workers)
            logger.info(
                "the server ends: requests in progress are answered, for at most %g s; Ctrl-C "
                "ends it at once",
                seconds,
            )
            self.loop.add_future(asyncio.ensure_future(self._stop()), lambda ended: ended.result())
        elif number == signal.SIGINT and not self._hurried:
            self._hurried = True
            self._signal_workers(signal.SIGINT)  # they log the lost requests
            self.loop.call_later(KILL_SECONDS, self._signal_workers, KILL)
        elif number == signal.SIGINT:
            self._signal_workers(KILL)

    async def _stop(self) -> None:
        """Stop as soon as circus is idle: it refuses while it starts or replaces workers."""
        for watcher in self._workers:
            for process in watcher.processes.values():
                # circus would not wait for a worker that a rolling restart is ending: it would
                # block this process until the worker ends by itself.
                process.stopping = False
        while True:
            try:
                await Arbiter.stop(self)
            except ConflictError:
                await asyncio.sleep(0.05)
            else:
                return

    def _stop_seconds(self, watcher: Any) -> float:
        """Return the maximum duration of the shutdown of a watcher's workers."""
        arguments = watcher.args
        option = arguments[arguments.index(STOP_OPTION) + 1] if STOP_OPTION in arguments else None
        return stop_seconds(self._settings, None if option is None else float(option))

    def _signal_workers(self, number: int) -> None:
        for watcher in self.watchers:
            for process in list(watcher.processes.values()):
                with suppress(NoSuchProcess):
                    process.send_signal(number)

    def _note_kill(self, signum: int, pid: int, **_: Any) -> None:
        """Log a kill; a hook that circus calls after each signal to a worker."""
        if signum == KILL != signal.SIGTERM:
            logger.error("worker %d did not end in time, and was killed with its requests", pid)


class ThreadedSupervisor(Supervisor, bentoml_adapter.ThreadedArbiter):  # type: ignore[misc]  # as above
    """The supervisor on a thread of a Python program, for BentoML's `serve_http`."""


def supervise(settings: Settings) -> None:
    """Make `bentoml serve` run its workers under a `Supervisor`."""
    bentoml_adapter.use_supervisor(
        partial(Supervisor, settings=settings),
        partial(ThreadedSupervisor, settings=settings),
        _prepare_folders,
    )


def _prepare_folders() -> None:
    """Find a folder for temporary files.

    Raises:
        SystemExit: no folder is writable.
    """
    ensure_temporary_folder(bentoml_adapter.home())


def share_cores(watcher: Any, threads: int) -> None:
    """Limit the workers' threads to the number of cores, all workers together.

    Without a limit, each worker would compute on every core, and take the cores from the others and
    from their event loops. The same holds in a container that may use fewer cores than the machine
    has.

    Args:
        watcher: of the workers.
        threads: of the setting; 0 if the operator has set none, otherwise nothing is done.
    """
    cores = bentoml_adapter.available_cores()
    share = max(1, int(cores) // watcher.numprocesses)
    if share < (os.cpu_count() or 1) and not threads:
        watcher.env["FITSERVE_INTRA_OP_THREADS"] = str(share)


def allow_open_files(limit: int) -> None:
    """Raise the limit of open files to `limit`, as far as the system allows.

    The usual limit is 1,024. Beyond the limit, uvloop drops connections without a response or a log
    line.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class RestartLimit:
    """The limit on restarts of workers.

    circus calls it before each start, and `bentoml serve` ends if it returns False. A server whose
    workers cannot start would listen and never respond. If the server ends with an error instead,
    the container runtime or service manager can react.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = 0  # starts that were not restarts
        self._times: deque[float] = deque()  # of the restarts, in seconds

    def begin(self, **_: Any) -> bool:
        """Reset the count: the workers are started on purpose, at first or after a file change."""
        self._first = 0
        return True

    def __call__(self, watcher: Any, **_: Any) -> bool:
        """Return whether this worker may be started."""
        if self._first < watcher.numprocesses:
            self._first += 1
            return True
        now, limit = self._clock(), MAX_RESTARTS * watcher.numprocesses
        while self._times and now - self._times[0] > RESTART_WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) == limit:
            logger.critical(
                "workers died %d times in %.0f s: this server ends, as restarts do not "
                "help; the lines above say why they died",
                limit + 1,
                now - self._times[0],
            )
            return False
        logger.error("a worker died and is restarted")
        self._times.append(now)
        return True
