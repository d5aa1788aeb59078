"""A real `bentoml serve` in its own process, from its start to its clean end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import httpx
import psutil

BIN = Path(sys.executable).parent
START_SECONDS = 180
STOP_SECONDS = 60

TIMED = {"FITSERVE_TIMINGS_FOLDER": os.environ.get("FITSERVE_TIMINGS_FOLDER", "off")}
"""The settings of servers that share the timings of their networks.

With the timings of an earlier start, a server opens only the faster runtime of each network, and
usually does not import torch: a server of the shipped packages starts in half the time. Servers of
slow networks time them anew, since the machine may have been busier before.
"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def read_log(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Return the end of the log, for error messages."""
        return f"the server's log ends:\n{self.read_log()[-4000:]}"

    def end(self) -> None:
        """Stop the server, and check that it ends cleanly and leaves no process."""
        processes = self.processes()
        self.process.send_signal(signal.SIGTERM)
        self.check_end(processes)

    def kill(self) -> None:
        """Kill every process of the server, as a power failure would."""
        for process in (*self.processes(), psutil.Process(self.process.pid)):
            with suppress(psutil.NoSuchProcess):  # it has ended with another one
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return the processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Return these processes without those that run jobs."""
        return [process for process in self.processes() if not runs_jobs(process)]

    def check_end(self, workers: Sequence[psutil.Process]) -> None:
        """Wait for the requested end."""
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end on SIGTERM; {self.tail()}") from None
        assert code == 0, f"it ended with {code}; {self.tail()}"
        assert psutil.wait_procs(workers, STOP_SECONDS)[1] == [], f"a worker is left; {self.tail()}"


def runs_jobs(process: psutil.Process) -> bool:
    """Return whether a process runs jobs for a worker, or starts those that do."""
    try:
        return "service.processes.job_process" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process, without variables for other servers."""
    prefixes = ("BENTOML_", "FITSERVE_", "PROMETHEUS_", "PYTHONPATH")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(prefixes)
    }
    own = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    return {**environment, **own, "XDG_CACHE_HOME": str(home / "cache"), **settings}


def free_port() -> int:
    """Return a free port that the kernel does not give to clients.

    Clients get ports from 32,768 on: such a port could be taken before a server binds.
    """
    while True:
        port = SystemRandom().randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Create a folder for the files of one server; its path is short, as it contains sockets."""
    home = Path(tempfile.mkdtemp(prefix="fs-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def serving(
    home: Path,
    cwd: Path,
    *target: str,
    until: str | None = "/readyz",
    settings: Mapping[str, str] | None = None,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    under: Sequence[str] = (),
    command: Sequence[str | Path] = (BIN / "bentoml", "serve"),
) -> Iterator[Server]:
    """Serve during the block.

    Args:
        home: the folder of the server.
        cwd: the working directory.
        target: what to serve; by default the service in `bentofile.yaml` of `cwd`.
        until: the path that responds 200 when the server has started; None does not wait.
        settings: environment variables.
        host: the address to listen on; None for the server's default.
        port: by default a free one.
        under: a command that starts the server's command.
        command: the command of the server.
    """
    port = port or free_port()
    address = ["--host", host] if host else []
    log = home / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*under, *command, *target, *address, "--port", str(port)],
            cwd=cwd,
            env=environment(home, settings or {}),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://{host or '127.0.0.1'}:{port}", process, log)
    try:
        if until is not None:
            _wait(server, until)
        yield server
        if process.poll() is None:
            server.end()
    finally:
        if process.poll() is None:
            server.kill()
            process.wait()


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        failed = server.process.poll() is not None or "startup failed" in server.read_log()
        assert not failed, f"it did not start; {server.tail()}"
        try:
            if httpx.get(server.url + path, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{path} did not answer 200 in {START_SECONDS} s; {server.tail()}")
