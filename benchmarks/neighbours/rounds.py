"""The rounds: a server, its neighbours with and without an attack, and the memory of the server.

Each attack has a server of its own, so that its memory is not that of an earlier attack. The rounds
are interleaved (quiet, attacked, quiet, attacked, ...), so that a temporary slowdown of the machine
affects both. A round starts when the server has nothing left to compute.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from benchmarks.memory import MEGABYTE, MemorySampler
from benchmarks.neighbours import networks
from benchmarks.neighbours.attacks import Attack
from benchmarks.neighbours.clients import ATTACKER_NICENESS, Waits, attack, prepare, visit
from benchmarks.serving.processes import Running, marked, running
from benchmarks.serving.servers import FITSERVE, ServerError

PACKAGES = ("curve-linear", "curve-mlp", "curve-tanh", "mnist-cnn", "mnist-mlp")
WARM_UP_SECONDS = 1.0
MEMORY_SECONDS = 0.1
"""The interval between two samples of the memory."""
IDLE_SECONDS, IDLE_CORES, MAX_IDLE_WAIT_SECONDS = 0.5, 0.2, 300.0


@dataclass(frozen=True)
class Settings:
    """What the rounds depend on.

    Attributes:
        rounds: pairs of a quiet and an attacked round.
        seconds: of one round.
        recovery_seconds: from the end of the last attack to the last sample of the memory.
        checkout: the folder of the version of the service that is started.
    """

    rounds: int
    seconds: float
    recovery_seconds: float
    checkout: Path


@dataclass(frozen=True)
class Cores:
    """The cores of the neighbours, the attacker and the server; None if they share all."""

    neighbours: frozenset[int] | None = None
    attacker: frozenset[int] | None = None
    server: frozenset[int] | None = None

    @classmethod
    def of(cls, cores: Sequence[int]) -> "Cores":
        """Return one core for the neighbours, one for the attacker, and the rest for the server.

        With one or two cores, all share them.
        """
        if len(cores) <= 2:
            return cls()
        return cls(frozenset(cores[:1]), frozenset(cores[1:2]), frozenset(cores[2:]))

    @classmethod
    def here(cls) -> "Cores":
        """Return the division of the cores that this process may use."""
        if not hasattr(os, "sched_getaffinity"):  # macOS
            return cls()
        return cls.of(sorted(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Round:
    """The waits of one neighbour in one round, in milliseconds; NaN if nothing was answered."""

    neighbour: str
    attacked: bool
    number: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    late_ms: float
    statuses: Mapping[str, int]

    @classmethod
    def of(cls, neighbour: str, waits: Waits, *, attacked: bool, number: int) -> "Round":
        """Return the percentiles of the waits of a round."""
        milliseconds = np.array(waits.seconds or [np.nan]) * 1e3
        p50, p99 = np.percentile(milliseconds, [50, 99])
        return cls(
            neighbour,
            attacked,
            number,
            p50_ms=float(p50),
            p99_ms=float(p99),
            longest_ms=float(milliseconds.max()),
            late_ms=waits.late_seconds * 1e3,
            statuses=dict(waits.statuses),
        )


@dataclass
class AttackResult:
    """The rounds of one attack, the statuses that it got, and the memory of the server in MB."""

    attack: str
    sends: str
    model: str
    rounds: list[Round] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def measure(attacks: Sequence[Attack], settings: Settings) -> Iterator[AttackResult]:
    """Measure the attacks one after another. Yield a result with a `failure` for one that fails."""
    cores, processes = Cores.here(), multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-")))
        neighbours, attacker = (
            stack.enter_context(
                ProcessPoolExecutor(1, processes, initializer=prepare, initargs=arguments)
            )
            for arguments in ((cores.neighbours, 0), (cores.attacker, ATTACKER_NICENESS))
        )
        for attack in attacks:
            result = AttackResult(attack.name, attack.sends, attack.model)
            try:
                repository = create_repository(settings.checkout, folder, attack.network)
                request = folder / "request"
                request.write_bytes(attack.request())
                with _serving(settings.checkout, repository, cores.server) as server:
                    _Session(server, attack, request, settings, neighbours, attacker).run(result)
            except (ServerError, OSError) as error:
                # Of a log, the last line has the reason.
                lines = str(error).strip().splitlines() or [repr(error)]
                result.failure = " ... ".join(dict.fromkeys((lines[0], lines[-1])))
            yield result


def create_repository(checkout: Path, folder: Path, network: str | None) -> Path:
    """Return a repository with copies of the shipped packages, and the network of an attack.

    Args:
        checkout: has the packages, and the command that adds a network.
        folder: is given the repository, in the place of an earlier one.
        network: the name of the network in `networks.py`, if any.

    Raises:
        ServerError: the network is refused, with the reason.
    """
    repository = folder / "models"
    shutil.rmtree(repository, ignore_errors=True)
    for name in PACKAGES:
        shutil.copytree(checkout / "models" / name, repository / name)
    if network is not None:
        file = networks.save(network, folder)
        command = [sys.executable, "-m", "models", "--repository", str(repository)]
        added = subprocess.run(
            [*command, "add", network, "--onnx", str(file)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
            check=False,
        )
        if added.returncode:
            reason = (added.stderr or added.stdout).strip()[-300:].replace("\n", " ")
            raise ServerError(f"the network is refused: {reason}")
    return repository


@contextmanager
def _serving(checkout: Path, repository: Path, cores: frozenset[int] | None) -> Iterator[Running]:
    """Start the service of a checkout on the given cores, for the duration of the block."""
    server = replace(FITSERVE, command=FITSERVE.command.replace("{root}", str(checkout)))
    variables = {"FITSERVE_MODEL_REPOSITORY": str(repository), "PYTHONPATH": str(checkout)}
    with ExitStack() as stack:
        if cores is not None:  # the server inherits the cores
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores)
        up = stack.enter_context(running(server, settings=variables))
        yield up


@dataclass
class _Session:
    """One attack against one running server."""

    up: Running
    attack: Attack
    request: Path
    settings: Settings
    neighbours: ProcessPoolExecutor
    attacker: ProcessPoolExecutor

    def run(self, result: AttackResult) -> None:
        """Run the rounds, and add their samples to the result."""
        self._visit(WARM_UP_SECONDS)
        wait_until_idle(self.up)
        with MemorySampler(partial(marked, self.up.mark), MEMORY_SECONDS) as memory:
            result.memory_mb["before"] = memory.samples[-1] / MEGABYTE
            for number in range(self.settings.rounds):
                for attacked in (False, True):
                    waits = self._round(result, attacked=attacked)
                    result.rounds += [
                        Round.of(neighbour.name, round_waits, attacked=attacked, number=number)
                        for neighbour, round_waits in zip(
                            self.attack.neighbours, waits, strict=True
                        )
                    ]
                    if attacked:
                        ended = time.monotonic()
                    wait_until_idle(self.up)
            result.memory_mb["peak"] = max(memory.samples) / MEGABYTE
            time.sleep(max(0.0, ended + self.settings.recovery_seconds - time.monotonic()))
            time.sleep(2 * MEMORY_SECONDS)
            result.memory_mb["after"] = memory.samples[-1] / MEGABYTE

    def _round(self, result: AttackResult, *, attacked: bool) -> list[Waits]:
        if not attacked:
            return self._visit(self.settings.seconds)
        attacking = self.attacker.submit(
            attack,
            self._port,
            self.request,
            self.attack.connections,
            self.settings.seconds,
            reads=self.attack.reads,
        )
        waits = self._visit(self.settings.seconds)
        result.statuses = dict(Counter(result.statuses) + attacking.result())
        return waits

    def _visit(self, seconds: float) -> list[Waits]:
        return self.neighbours.submit(visit, self._port, self.attack.neighbours, seconds).result()

    @property
    def _port(self) -> int:
        return int(self.up.url.rpartition(":")[2])


def wait_until_idle(server: Running) -> None:
    """Wait until the server answers at once and uses less than a fifth of a core.

    On a busy machine a server that computes may get little of a core, so both must hold.

    Raises:
        ServerError: the server is busy for five minutes.
    """
    until = time.monotonic() + MAX_IDLE_WAIT_SECONDS
    while time.monotonic() < until:
        before = server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        with suppress(httpx.HTTPError):
            httpx.get(server.url + "/livez", timeout=IDLE_SECONDS)
            if server.cpu_seconds() - before < IDLE_CORES * IDLE_SECONDS:
                return
    raise ServerError(f"the server is busy {MAX_IDLE_WAIT_SECONDS:g} seconds after an attack")
