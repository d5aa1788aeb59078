"""A real `bentoml serve` in a process of its own, from its start to its clean end."""

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


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def read_log(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The end of what it has written, to be shown where something is wrong."""
        return f"the server's log ends:\n{self.read_log()[-4000:]}"

    def end(self) -> None:
        """Ask it to end, and check that it does so cleanly and leaves no process behind."""
        workers = self.workers()
        self.process.send_signal(signal.SIGTERM)
        self.check_end(workers)

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def check_end(self, workers: Sequence[psutil.Process]) -> None:
        """Wait for the end that it was asked for."""
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end on SIGTERM; {self.tail()}") from None
        assert code == 0, f"it ended with {code}; {self.tail()}"
        assert psutil.wait_procs(workers, STOP_SECONDS)[1] == [], f"a worker is left; {self.tail()}"


def environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process, less what is meant for other servers."""
    ours = ("BENTOML_", "FITSERVE_", "PROMETHEUS_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **settings}


def free_port() -> int:
    """A port that nobody listens on, and that no client gets for its own end of a connection.

    The kernel gives clients ports from 32,768 on: one of those could be taken until a server binds.
    """
    while True:
        port = SystemRandom().randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for one server's own files; its path is short, because sockets lie in it."""
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
    """Serve from the start of the block to its end.

    Args:
        home: the server's own folder.
        cwd: where it is started.
        target: what to serve; by default what `bentofile.yaml` in `cwd` names.
        until: the path that answers 200 when it has started; None does not wait for that.
        settings: environment variables.
        host: the address that it listens on; None for the server's own choice.
        port: by default one that is free here.
        under: a command that starts the server's.
        command: the server's.
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
            for survivor in (*server.workers(), process):
                survivor.kill()
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
