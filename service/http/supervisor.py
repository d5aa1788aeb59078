"""The parent of the workers: it starts them, replaces those that die, and ends them.

It is circus' arbiter, which BentoML's `serve` runs. BentoML has it look after the workers every ten
seconds, and replace a dead one for ever; ours looks every second, and ends where replacing does not
help. It gives each worker its share of the cores, ties it to this process (`parent.py`), and makes
the folder in which all of them count.

circus lets itself be commanded over ZeroMQ, without asking who commands. BentoML gives it two TCP
ports for that; here it listens inside its own process alone. Only `--reload` needs more: its plugin
is another process, which finds sockets in a folder that nobody else can enter.

The end takes no longer than it may: a worker gets the seconds that `server.stop_seconds` says, and
is killed soon after. circus drops a signal that comes while it is busy; here it is kept.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bentoml import serving
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.resource import system_resources
from bentoml._internal.utils import circus
from circus.arbiter import Arbiter  # type: ignore[import-untyped]  # circus has no types
from circus.exc import ConflictError  # type: ignore[import-untyped]  # as above
from psutil import NoSuchProcess

from service.http import parent
from service.http.server import stop_seconds
from service.settings import current_settings
from service.telemetry.counts_folder import (
    FOLDER,
    CountsFolder,
    ensure_temporary_folder,
    place_of_folder,
)
from service.telemetry.logs import logger

if sys.platform != "win32":
    import resource

LOOK_SECONDS = 1.0
REPLACEMENTS = 5  # of each worker
REPLACED_WITHIN_SECONDS = 600.0
OTHER_FILES = 1000  # that a worker may have open, beside its connections
STOP_OPTION = "--timeout-graceful-shutdown"
KILL_SECONDS = 2.0
"""How much longer than its own bound a worker is waited for, before it is killed."""

KILL = signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL


class Supervisor(circus.Arbiter):
    """The parent of the workers, from `start` to its end."""

    def __init__(self, watchers: Sequence[Any], **options: Any) -> None:
        self._workers = list(watchers)
        self._admin: tempfile.TemporaryDirectory[str] | None = None
        self._counts: CountsFolder | None = None
        self._ending = self._hurried = False
        for watcher in watchers:
            self._prepare(watcher)
        allow_open_files()
        own = {**self._endpoints(bool(options.get("plugins"))), "check_delay": LOOK_SECONDS}
        super().__init__(list(watchers), **{**options, **own})
        for plugin in self.watchers[len(watchers) :]:
            plugin.graceful_timeout = KILL_SECONDS  # it has nothing to end, and waits for itself
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note_signal)

    def initialize(self) -> None:
        """Listen, and make what the workers need; circus calls it before it starts them.

        Raises:
            SystemExit: the address cannot be listened on.
        """
        try:
            super().initialize()
        except OSError as error:
            socket = next(iter(self.sockets.values()))
            raise SystemExit(
                f"error: {socket.host}:{socket.port} cannot be listened on "
                f"({error.strerror or error}); name another with --host and --port, or end the "
                "program that has it"
            ) from None
        try:
            self._counts = CountsFolder(place_of_folder())
        except OSError as error:
            logger.error("the metrics of each worker are its own: %s", error)
        for watcher in self._workers:
            watcher.env.pop(FOLDER, None)
            if self._counts is not None:
                watcher.env[FOLDER] = str(self._counts.path)

    def manage_watchers(self) -> Any:
        """Look after the workers, but not while they are being started or ended."""
        return None if self._exclusive_running_command else super().manage_watchers()

    def stop_controller_and_close_sockets(self) -> None:
        """Leave nothing behind; circus calls it at every end."""
        super().stop_controller_and_close_sockets()
        self.exit_stack.close()
        if self._counts is not None:
            self._counts.remove()
        if self._admin is not None:
            self._admin.cleanup()

    def _prepare(self, watcher: Any) -> None:
        """Have a watcher's processes tied to this one, replaced, and ended in time."""
        replacements = Replacements()
        watcher.hooks["before_start"] = replacements.begin
        watcher.hooks["before_spawn"] = replacements
        watcher.hooks["after_signal"] = self._note_kill
        watcher.respawn = True  # also in what BentoML takes for a container
        share_cores(watcher)
        watcher.env[parent.PARENT] = str(os.getpid())
        if watcher.args[0] == "-m":
            watcher.args = ["-P", str(Path(parent.__file__).resolve()), *watcher.args[1:]]
        watcher.graceful_timeout = _stop_seconds(watcher.args) + KILL_SECONDS

    def _endpoints(self, plugins: bool) -> dict[str, str]:
        """Where circus is commanded: inside this process, or where its plugins can reach it."""
        if not plugins:
            return {
                "endpoint": f"inproc://admin-{id(self)}",
                "pubsub_endpoint": f"inproc://{id(self)}",
            }
        if sys.platform == "win32":
            return {}
        self._admin = tempfile.TemporaryDirectory(prefix="fitserve-admin-")  # mode 0700
        folder = Path(self._admin.name)
        return {"endpoint": f"ipc://{folder}/admin", "pubsub_endpoint": f"ipc://{folder}/events"}

    def _note_signal(self, number: int, _frame: object) -> None:
        self.loop.add_callback_from_signal(self._end, number)

    def _end(self, number: int) -> None:
        """End the workers gently; where Ctrl-C comes again, at once."""
        if not self._ending:
            self._ending = True
            seconds = max(_stop_seconds(watcher.args) for watcher in self._workers)
            logger.info(
                "the server ends: requests that have begun are answered, for at most %g s; Ctrl-C "
                "ends it at once",
                seconds,
            )
            self.loop.add_future(asyncio.ensure_future(self._stop()), lambda ended: ended.result())
        elif number == signal.SIGINT and not self._hurried:
            self._hurried = True
            self._signal_workers(signal.SIGINT)  # they say what is lost
            self.loop.call_later(KILL_SECONDS, self._signal_workers, KILL)
        elif number == signal.SIGINT:
            self._signal_workers(KILL)

    async def _stop(self) -> None:
        """Stop as soon as circus is free to: it refuses while it starts or replaces workers."""
        while True:
            try:
                await Arbiter.stop(self)
            except ConflictError:
                await asyncio.sleep(0.05)
            else:
                return

    def _signal_workers(self, number: int) -> None:
        for watcher in self.watchers:
            for process in list(watcher.processes.values()):
                with suppress(NoSuchProcess):
                    process.send_signal(number)

    def _note_kill(self, signum: int, pid: int, **_: Any) -> None:
        """A hook of circus, called after each signal to a worker."""
        if signum == KILL != signal.SIGTERM:
            logger.error(
                "worker %d did not end in time, and was killed with what it had begun", pid
            )


class ThreadedSupervisor(Supervisor, circus.ThreadedArbiter):
    """The same on a thread of a Python program, which BentoML's `serve_http` can ask for."""


def supervise() -> None:
    """Have `bentoml serve` run its workers under a `Supervisor`."""
    # BentoML looks them up there at each start.
    circus.Arbiter = Supervisor  # type: ignore[misc]  # a class, replaced by its own
    circus.ThreadedArbiter = ThreadedSupervisor  # type: ignore[misc]  # as above
    serving.ensure_prometheus_dir = _prepare_folders


def _prepare_folders(*_: Any, **__: Any) -> str:
    """Called by BentoML before anything else, for a folder of metrics: the supervisor makes one.

    Raises:
        SystemExit: no folder for temporary files can be written to.
    """
    ensure_temporary_folder(Path(BentoMLContainer.bentoml_home.get()))
    return ""


def _stop_seconds(arguments: Sequence[str]) -> float:
    """How long a worker with these arguments may take to end."""
    given = arguments[arguments.index(STOP_OPTION) + 1] if STOP_OPTION in arguments else None
    return stop_seconds(None if given is None else float(given))


def share_cores(watcher: Any) -> None:
    """Have the workers together compute on as many threads as there are cores.

    Each on every core, they would take the cores from each other and from their event loops. So
    would one in a container that may use fewer cores than the machine has. What the operator set
    stays.
    """
    cores = system_resources()["cpu"]  # the container's, where it has a limit
    share = max(1, int(cores) // watcher.numprocesses)
    if share < (os.cpu_count() or 1) and not current_settings().threads:
        watcher.env["FITSERVE_THREADS"] = str(share)


def allow_open_files() -> None:
    """Let the workers have as many connections as they may: the usual limit is 1,024 files.

    Beyond that one uvloop hangs up on callers, without an answer or a line in the log.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = current_settings().max_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Replacements:
    """Asked by circus before each start of a worker: where it says no, `bentoml serve` ends.

    A server whose workers cannot start is up and answers nobody. Its end, with an error, is what a
    supervisor of containers or services notices.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = 0  # starts that replaced nobody
        self._times: deque[float] = deque()  # of the replacements, in seconds

    def begin(self, **_: Any) -> bool:
        """Count anew: the workers are started on purpose, at first or after a change of files."""
        self._first = 0
        return True

    def __call__(self, watcher: Any, **_: Any) -> bool:
        """Whether this worker may be started."""
        if self._first < watcher.numprocesses:
            self._first += 1
            return True
        now, most = self._clock(), REPLACEMENTS * watcher.numprocesses
        while self._times and now - self._times[0] > REPLACED_WITHIN_SECONDS:
            self._times.popleft()
        if len(self._times) == most:
            logger.critical(
                "workers died %d times in %.0f s: this server ends, as starting them again "
                "does not help; the lines above say what they died of",
                most + 1,
                now - self._times[0],
            )
            return False
        logger.error("a worker died, and is started again")
        self._times.append(now)
        return True
