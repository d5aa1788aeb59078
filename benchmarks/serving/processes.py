"""The processes of a server: start, readiness and termination."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import httpx
import numpy as np
import psutil

from benchmarks.serving.environments import environment_of
from benchmarks.serving.payloads import (
    IMAGES,
    PACKAGE,
    TOLERANCE,
    Probabilities,
    images,
    in_process,
)
from benchmarks.serving.servers import PEERS, Row, Server, ServerError
from service.settings import ROOT

START_SECONDS = 120
END_SECONDS = 10
PORTS = ("port", "port2", "port3", "port4", "port5")
MARK = "FITSERVE_BENCHMARK"
"""The environment variable that identifies all processes of a server."""

_REMOVED_PREFIXES = (
    "BENTOML_",
    "FITSERVE_",
    "MLSERVER_",
    "MOSEC_",
    "OTEL_",
    "PROMETHEUS_",
    "PYTHON",
    "RAY_",
    "TS_",
)


@dataclass(frozen=True)
class Running:
    """A server that is ready for requests."""

    server: Server
    url: str
    mark: str
    start_seconds: float

    def workers(self) -> list[psutil.Process]:
        """Return the processes with a network, the largest first. For BentoML, the workers."""
        family = marked(self.mark)
        workers = [p for p in family if "_bentoml_impl.worker.service" in p.cmdline()] or family
        return sorted(workers, key=lambda process: -process.memory_info().rss)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes of the server."""
        total = 0.0
        for process in marked(self.mark):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def probabilities(self, row: Row) -> Probabilities:
        """Return the outputs for 16 images, one image a request.

        Raises:
            ServerError: a response is invalid.
        """
        headers, outputs = dict(row.payload_format.headers), []
        for image in images(IMAGES):
            try:
                body = row.payload_format.body(image[None])
                response = httpx.post(
                    self.url + row.path, content=body, headers=headers, timeout=30
                )
                response.raise_for_status()
                outputs.append(row.payload_format.read(response.content, response.headers))
            except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
                raise ServerError(f"{row.name} does not answer: {error!r}") from error
        return np.concatenate(outputs)

    def check(self, row: Row) -> None:
        """Compare the outputs for 16 images with those of the network.

        Raises:
            ServerError: an output differs by more than `TOLERANCE`, or a response is invalid.
        """
        expected = in_process("onnx")({"image": images(IMAGES)})["probabilities"]
        difference = float(np.max(np.abs(self.probabilities(row) - expected)))
        if not difference <= TOLERANCE:
            raise ServerError(f"{row.name} differs from the network by {difference:.2g}")


@contextmanager
def running(
    server: Server,
    *,
    workers: int = 1,
    environment: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Start `server` for the duration of the block.

    Args:
        server: the server.
        workers: the number of its worker processes.
        environment: its virtual environment, if not the default one.
        settings: additional environment variables.

    Raises:
        ServerError: the server does not start.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="fb-"))  # short, because it holds sockets
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        placeholders = {
            "root": str(ROOT),
            "folder": str(PEERS / server.name),
            "home": str(home),
            "bin": str((environment or environment_of(server)) / "bin"),
            "model": str(PACKAGE.path / "model.onnx"),
            "workers": str(workers),
            **dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True)),
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_REMOVED_PREFIXES)}
        variables = {
            **kept,
            "PATH": f"{placeholders['bin']}{os.pathsep}{os.environ.get('PATH', '')}",
            "CUDA_VISIBLE_DEVICES": "",  # all servers compute on the CPU, as the peers do
            "MODEL": placeholders["model"],
            "TMPDIR": str(home),
            MARK: mark,
            **{name: value.format(**placeholders) for name, value in server.settings.items()},
            **(settings or {}),
        }
        log = stack.enter_context((home / "log").open("wb"))
        stack.callback(_end_all, mark)

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [word.format(**placeholders) for word in command],
                cwd=home,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        if server.prepare and start(server.prepare.split()).wait(START_SECONDS):
            raise ServerError(f"{server.name} cannot be prepared; {_tail(home / 'log')}")
        started = time.monotonic()
        process = start(server.command.split())
        stack.callback(_interrupt, process)
        url = f"http://127.0.0.1:{placeholders['port']}"
        _wait(server, process, url + server.ready, home / "log")
        seconds = time.monotonic() - started
        yield Running(server, url, mark, seconds)


def _wait(server: Server, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.02)
    raise ServerError(f"{server.name} did not start; {_tail(log)}")


def _tail(log: Path) -> str:
    return f"its log ends: {log.read_text(errors='replace')[-2000:]}"


def _free_ports(count: int) -> list[int]:
    """Return free ports outside the ephemeral range, so that no client is assigned them."""
    ports: list[int] = []
    with ExitStack() as stack:  # all ports stay bound until the last is found
        while len(ports) < count:
            port = SystemRandom().randrange(10_000, 32_768)
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to the process group of the server, as Ctrl-C in a terminal does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes of a server, at any place in the process tree."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                processes.append(process)
    return processes


def _end_all(mark: str) -> None:
    """Kill the remaining processes of a server."""
    remaining = marked(mark)
    for process in remaining:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(remaining, END_SECONDS)
