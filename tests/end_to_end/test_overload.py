"""Five times the capacity: every request gets a response, and the throughput stays high.

The network takes milliseconds per row, so that the compute is overloaded, and not the client on the
same machine.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from faulty_networks import write_slow
from live_server import Server, serving, temporary_home
from raw_client import Line, LostError, Reply, message

STEPS = 7000  # iterations of a loop per row: about 5 ms
CLIENTS = 64  # enough to keep the batches full
TIMES = 5
BURST_SECONDS = 5.0
REFUSED_WITHIN = 0.05
QUANTILE = 0.99  # of the refusals; the rest is scheduling delay on a shared machine
BUSY_CORES = 0.3
ATTEMPTS = 3


@pytest.fixture(scope="module")
def slow(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one slow network, with one thread, and time for connections that wait."""
    repository = tmp_path_factory.mktemp("slow")
    write_slow(repository, "slow", STEPS)
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_INTRA_OP_THREADS": "1",
        "FITSERVE_HEADER_TIMEOUT_SECONDS": "60",  # some are opened long before their first request
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


@dataclass
class Measured:
    """The measurements of one burst; times in seconds, rates in requests per second."""

    peak: float
    normal: float
    sent: int = 0
    lost: int = 0
    served: list[tuple[float, Reply]] = field(default_factory=list)  # with the time of the response
    refused: list[Reply] = field(default_factory=list)
    other: list[Reply] = field(default_factory=list)
    goodput: float = 0.0
    after: list[float] = field(default_factory=list)
    grown: int = 0

    def __str__(self) -> str:
        parts = [
            f"peak {self.peak:.0f}/s, at {TIMES} times that {self.goodput:.0f}/s",
            f"{self.sent} requests: {len(self.served)} served, {len(self.refused)} refused, "
            f"{len(self.other)} answered otherwise, {self.lost} lost",
            f"alone {self.normal * 1e3:.1f} ms, a second after the burst "
            f"{statistics.median(self.after) * 1e3:.1f} ms; memory +{self.grown / 2**20:.1f} MiB",
        ]
        for name, seconds in (
            ("served", [reply.seconds for _, reply in self.served]),
            ("refused", [reply.seconds for reply in self.refused]),
        ):
            if seconds:
                quantiles = np.quantile(seconds, [0.5, 0.9, 0.99, 1]) * 1e3
                shown = ", ".join(f"{value:.1f}" for value in quantiles)
                parts.append(f"{name}: 50, 90, 99, 100 % within {shown} ms")
        return "; ".join(parts)


async def test_at_five_times_its_capacity_throughput_holds_and_every_request_gets_a_response(
    slow: Server,
) -> None:
    (worker,) = [process for process in slow.workers() if "--worker-id" in process.cmdline()]
    port = int(slow.url.rpartition(":")[2])
    for attempt in range(ATTEMPTS):
        started, before = time.monotonic(), _taken_by_others(worker)
        measured = await _measure(port, worker)
        print(measured)
        # Required even with noise.
        assert (measured.lost, measured.other) == (0, []), measured
        assert len(measured.served) + len(measured.refused) == measured.sent
        assert all(reply.is_right(3) for _, reply in measured.served)
        assert all(b"\r\nretry-after: " in reply.head.lower() for reply in measured.refused)
        assert measured.refused, "it was not overloaded"
        try:
            _check_times(measured)
        except AssertionError:
            if attempt < ATTEMPTS - 1:
                continue
            cores = (_taken_by_others(worker) - before) / (time.monotonic() - started)
            if cores > BUSY_CORES:
                pytest.skip(f"other programs took {cores:.2f} cores: times say nothing here")
            raise
        else:
            return


def _taken_by_others(worker: psutil.Process) -> float:
    """Return the CPU seconds of other processes than the worker and this one, since boot."""
    whole = psutil.cpu_times()
    own_times = (worker.cpu_times(), psutil.Process().cpu_times())
    return (
        sum(whole)
        - whole.idle
        - whole.iowait
        - sum(times.user + times.system for times in own_times)
    )


def _check_times(measured: Measured) -> None:
    assert np.quantile([reply.seconds for reply in measured.refused], QUANTILE) < REFUSED_WITHIN
    assert max(reply.seconds for _, reply in measured.served) < 2, "served too late to be of use"
    assert measured.goodput > 0.9 * measured.peak
    assert statistics.median(measured.after) < 2 * measured.normal + 0.005
    assert measured.grown < 16 * 2**20


async def _measure(port: int, worker: psutil.Process) -> Measured:
    normal = statistics.median(await _alone(port, 20))
    measured = Measured(await _capacity(port), normal)
    lines = [await Line.to(port) for _ in range(400)]
    await asyncio.sleep(1)
    await asyncio.gather(
        *await _burst(measured, port, lines, 1.0)
    )  # its memory has reached its size
    await asyncio.sleep(2)
    before = worker.memory_info().rss
    measured = Measured(measured.peak, normal)
    started = time.monotonic()
    requested = await _burst(measured, port, lines, BURST_SECONDS)
    ended = started + BURST_SECONDS
    await asyncio.sleep(max(0.0, ended + 1 - time.monotonic()))
    measured.after = await _alone(port, 10)
    await asyncio.gather(*requested)
    measured.grown = worker.memory_info().rss - before
    answered = [moment for moment, _ in measured.served if started + 1 <= moment <= ended]
    measured.goodput = len(answered) / (BURST_SECONDS - 1)
    for line in lines:
        line.close()
    return measured


async def _alone(port: int, count: int) -> list[float]:
    """Return the seconds of some requests, one after the other."""
    line = await Line.to(port)
    seconds = [(await line.ask(message("slow", 3))).seconds for _ in range(count)]
    line.close()
    return seconds


async def _capacity(port: int) -> float:
    """Return the largest throughput, in requests per second, of clients that wait for responses."""
    ended, answered = False, 0

    async def ask_on() -> None:
        nonlocal answered
        line = await Line.to(port)
        while not ended:
            reply = await line.ask(message("slow", 3))
            if reply.is_right(3):
                answered += counting
            else:  # a busy machine may be slower now than at the start
                assert reply.status == 503, reply
                await asyncio.sleep(0.05)
        line.close()

    counting = False
    tasks = [asyncio.create_task(ask_on()) for _ in range(CLIENTS)]
    await asyncio.sleep(1)
    counting, started = True, time.monotonic()
    await asyncio.sleep(3)
    rate = answered / (time.monotonic() - started)
    ended = True
    await asyncio.gather(*tasks)
    return rate


async def _burst(
    measured: Measured, port: int, idle: list[Line], seconds: float
) -> set[asyncio.Task[None]]:
    """Send at a fixed rate, whatever the responses; return the threads that wait for the last."""
    sent, tasks = message("slow", 3), set()

    async def ask() -> None:
        line = idle.pop() if idle else await Line.to(port)
        if line.over:
            line = await Line.to(port)
        try:
            reply = await line.ask(sent)
        except (LostError, TimeoutError):
            measured.lost += 1
            line.close()
            return
        if reply.status == 200:
            measured.served.append((time.monotonic(), reply))
        elif reply.status in (429, 503):
            measured.refused.append(reply)
        else:
            measured.other.append(reply)
        idle.append(line)

    started, rate = time.monotonic(), TIMES * measured.peak
    while (passed := time.monotonic() - started) < seconds:
        while measured.sent < passed * rate:
            measured.sent += 1
            tasks.add(asyncio.create_task(ask()))
        await asyncio.sleep(0.001)
    return tasks
