"""A server in processes of its own, from its start to its certain end."""

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
from benchmarks.serving.servers import PEERS, Row, Server
from benchmarks.serving.work import IMAGES, PACKAGE, TOLERANCE, images, in_process
from service.settings import ROOT

START_SECONDS = 120
END_SECONDS = 10
PORTS = ("port", "port2", "port3", "port4", "port5")
MARK = "FITSERVE_BENCHMARK"
"""The environment variable by which every process of a server is known, whoever its parent is."""

_FOREIGN = ("BENTOML_", "FITSERVE_", "MLSERVER_", "OTEL_", "PROMETHEUS_", "PYTHON", "RAY_", "TS_")


class ServerError(Exception):
    """A server that does not start, or does not answer as the network does: says why."""


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    server: Server
    url: str
    mark: str
    start_seconds: float

    def workers(self) -> list[psutil.Process]:
        """The processes that hold the network, the largest first: of BentoML, its workers."""
        family = marked(self.mark)
        workers = [p for p in family if "_bentoml_impl.worker.service" in p.cmdline()] or family
        return sorted(workers, key=lambda process: -process.memory_info().rss)

    def cpu_seconds(self) -> float:
        """What all its processes have taken of the cores so far."""
        total = 0.0
        for process in marked(self.mark):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def check(self, row: Row) -> None:
        """Hold the answers to some images, one a request, against the network's own.

        Raises:
            ServerError: one differs by more than `TOLERANCE`, or is no answer.
        """
        pixels = images(IMAGES)
        wanted = in_process("onnx")({"image": pixels})["probabilities"]
        url = self.url + row.path
        for image, expected in zip(pixels, wanted, strict=True):
            try:
                body = row.form.body(image[None])
                answer = httpx.post(url, content=body, headers=dict(row.form.headers), timeout=30)
                answer.raise_for_status()
                found = row.form.read(answer.content, answer.headers)
            except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
                raise ServerError(f"{row.name} does not answer: {error!r}") from error
            difference = float(np.max(np.abs(found - expected)))
            if not difference <= TOLERANCE:
                raise ServerError(f"{row.name} differs from the network by {difference:.2g}")


@contextmanager
def running(
    server: Server,
    *,
    environment: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run `server` from the start of the block to its end.

    Args:
        server: which.
        environment: where it runs, if not in its own.
        settings: more environment variables.

    Raises:
        ServerError: it does not start.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="fb-"))  # short, because sockets lie in it
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        words = {
            "root": str(ROOT),
            "folder": str(PEERS / server.name),
            "home": str(home),
            "bin": str((environment or environment_of(server)) / "bin"),
            "model": str(PACKAGE.path / "model.onnx"),
            **dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True)),
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        variables = {
            **kept,
            "PATH": f"{words['bin']}{os.pathsep}{os.environ.get('PATH', '')}",
            "CUDA_VISIBLE_DEVICES": "",  # the peers compute on the CPU, so all do
            "MODEL": words["model"],
            "TMPDIR": str(home),
            MARK: mark,
            **{name: value.format(**words) for name, value in server.settings.items()},
            **(settings or {}),
        }
        log = stack.enter_context((home / "log").open("wb"))
        stack.callback(_end_all, mark)

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [word.format(**words) for word in command],
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
        url = f"http://127.0.0.1:{words['port']}"
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
    """Ports that nobody listens on, and that no client gets for its own end of a connection."""
    ports: list[int] = []
    with ExitStack() as stack:  # they are held until the last is found
        while len(ports) < count:
            port = SystemRandom().randrange(10_000, 32_768)
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, as at a terminal: to all that the server has started in its own session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def marked(mark: str) -> list[psutil.Process]:
    """Every process of a server, wherever in the tree of processes it is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _end_all(mark: str) -> None:
    """Kill what is left of a server."""
    left = marked(mark)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, END_SECONDS)
