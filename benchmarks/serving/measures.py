"""The measures: each starts what it needs, and adds its samples to the results.

Only one server runs at a time, so that no idle one takes a part of the cores; the servers take
turns in every round, so that a slow minute of the machine meets all of them.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from benchmarks.serving.environments import (
    environment_of,
    environment_without_torch,
    versions,
)
from benchmarks.serving.load import Trace, h2load, wrk
from benchmarks.serving.processes import Running, ServerError, running
from benchmarks.serving.results import Results, Sample, readable
from benchmarks.serving.servers import BINARY, FITSERVE, OURS, SERVERS, Row, Server
from benchmarks.serving.work import images, in_process, v2_binary

CONNECTIONS = (1, 16, 64)
MOST = CONNECTIONS[-1]
LARGE_BATCH = 256
LARGE_CONNECTIONS = 4
IN_PROCESS_BATCHES = (1, 64, LARGE_BATCH)
RUNTIMES: Mapping[str, str] = {
    "onnx": "ONNX Runtime, in process",
    "torchscript": "TorchScript, in process",
}
LARGE = Row(BINARY.name, BINARY.path, v2_binary(LARGE_BATCH))
WITH_TORCH, ONNX_ONLY = "fitserve, with torch", "fitserve, ONNX Runtime alone"
SOAK_SHARE = 0.7
SOAKED: Mapping[str, float] = {
    "fitserve": 1,
    "bare-network": 0.2,
    "bare-uvicorn": 0.2,
    "fastapi": 0.2,
}
"""Servers, by their share of the soak's seconds; the others show what the machine allows."""
WINDOW_SECONDS = 10
MEGABYTE = 1e6


@dataclass(frozen=True)
class Settings:
    """How long and how often: seconds of each run, of its warm-up, and of the soak."""

    rounds: int
    seconds: float
    warm_up: float
    soak_seconds: float
    servers: Sequence[str]


def connections(count: int) -> str:
    """The name of a case."""
    return f"{count} connection{'s' if count > 1 else ''}"


def throughput(results: Results, settings: Settings) -> None:
    """Requests a second and their latency, one image a request, for every server."""
    for number in range(settings.rounds):
        for name in settings.servers:
            server = SERVERS[name]
            _describe(results, server)
            try:
                with running(server) as up:
                    for row in server.rows:
                        _one_row(results, settings, up, row, number)
            except ServerError as error:
                for row in server.rows:
                    _fail(results, row.name, error)


def large_requests(results: Results, settings: Settings) -> None:
    """Images a second with 256 images a request, against the network called in process."""
    _describe(results, FITSERVE)
    for number in range(settings.rounds):
        for runtime, subject in RUNTIMES.items():
            for rows in IN_PROCESS_BATCHES:
                _in_process(results, runtime, subject, rows, min(settings.seconds, 2.0), number)
        with running(FITSERVE) as up:
            up.check(BINARY)
            _ask(up, LARGE, LARGE_CONNECTIONS, settings.warm_up, LARGE_BATCH)
            found, errors = _ask(up, LARGE, LARGE_CONNECTIONS, settings.seconds, LARGE_BATCH)
        quantities = {"images_per_second": found["requests_per_second"] * LARGE_BATCH, **found}
        case = f"{LARGE_BATCH} images"
        _add(results, Sample("images", LARGE.name, case, number, quantities, errors))


def two_workers(results: Results, settings: Settings) -> None:
    """Requests a second of two worker processes against one."""
    _describe(results, FITSERVE)
    for number in range(settings.rounds):
        for workers in (1, 2):
            # BentoML 1.4 gives `--api-workers` to services of its older kind alone.
            wanted = {"BENTOML_CONFIG_OPTIONS": f"services.fitserve.workers={workers}"}
            with running(FITSERVE, settings=wanted) as up:
                if len(up.workers()) != workers:
                    raise ServerError(f"fitserve runs {len(up.workers())} workers, not {workers}")
                up.check(OURS)
                _ask(up, OURS, MOST, settings.warm_up)
                found, errors = _ask(up, OURS, MOST, settings.seconds)
            case = f"{workers} worker{'s' if workers > 1 else ''}"
            _add(results, Sample("workers", OURS.name, case, number, found, errors))


def footprint(results: Results, settings: Settings) -> None:
    """Memory of one worker process with every shipped package, and the time until it is ready."""
    _describe(results, FITSERVE)
    small = environment_without_torch()
    for number in range(settings.rounds):
        for subject, environment, variables in (
            (WITH_TORCH, None, {}),
            (ONNX_ONLY, small, {"FITSERVE_RUNTIME": "onnx"}),
        ):
            with running(FITSERVE, environment=environment, settings=variables) as up:
                memory = up.workers()[0].memory_full_info()
                quantities = {
                    "ready_seconds": up.start_seconds,
                    "rss_mb": memory.rss / MEGABYTE,
                    "pss_mb": memory.pss / MEGABYTE,
                }
            _add(results, Sample("footprint", subject, "one worker", number, quantities))


def soak(results: Results, settings: Settings) -> None:
    """Long runs, each server at a constant share of its own peak: latency by windows, memory."""
    for name, share in SOAKED.items():
        server, seconds = SERVERS[name], max(1.0, share * settings.soak_seconds)
        row = server.rows[0]
        _describe(results, server)
        with running(server) as up:
            up.check(row)
            _ask(up, row, MOST, settings.warm_up)
            peak = _peak(results, row)
            if peak is None:
                peak = _ask(up, row, MOST, settings.seconds)[0]["requests_per_second"]
            rate, body = SOAK_SHARE * peak, row.form.body(images(1))
            with _Memory(up.workers()) as memory:
                url = up.url + row.path
                trace = h2load(url, body, row.form.headers, rate=rate, seconds=seconds)
        ratios = []
        for index, window in enumerate(windows(trace, WINDOW_SECONDS)):
            case = f"from {index * WINDOW_SECONDS} s"
            _add(results, Sample("soak windows", row.name, case, 0, window), show=False)
            ratios.append(window["p99_ms"] / window["p50_ms"])
        quantities = {
            "rate_per_second": rate,
            "requests_per_second": len(trace.took) / seconds,
            "kept_rate": len(trace.took) / seconds / rate,
            "p50_ms": float(np.percentile(trace.took, 50)),
            "p99_ms": float(np.percentile(trace.took, 99)),
            "longest_ms": float(trace.took.max()),
            "worst_window_ratio": max(ratios),
            "median_window_ratio": float(np.median(ratios)),
            "rss_mb": memory.settled()[0] / MEGABYTE,
            "rss_spread_percent": memory.spread(),
            "generator_cores": trace.generator_cores,
        }
        case = f"{seconds:g} s"
        _add(results, Sample("soak", row.name, case, 0, quantities, trace.errors))


MEASURES = {
    "throughput": throughput,
    "images": large_requests,
    "workers": two_workers,
    "footprint": footprint,
    "soak": soak,
}


def windows(trace: Trace, seconds: float) -> list[dict[str, float]]:
    """The latency of each window of a trace; a last one of less than half its length is left out.

    Args:
        trace: the requests.
        seconds: the length of a window.
    """
    found = []
    for start in np.arange(0.0, float(trace.began[-1]) + 1e-9, seconds):
        rest = float(trace.began[-1]) - start
        inside = trace.took[(trace.began >= start) & (trace.began < start + seconds)]
        if inside.size and (start == 0 or rest >= seconds / 2):
            p50, p99 = np.percentile(inside, [50, 99])
            found.append({"p50_ms": float(p50), "p99_ms": float(p99), "requests": inside.size})
    return found


class _Memory:
    """The resident bytes of some processes, once a second, while the block runs."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._samples: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def settled(self) -> list[int]:
        """The samples after the first minute, or after the first fifth of a short run."""
        return self._samples[min(60, len(self._samples) // 5) :]

    def spread(self) -> float:
        """From the least to the greatest of them, in percent of the least."""
        found = self.settled()
        return (max(found) - min(found)) / min(found) * 100

    def _watch(self) -> None:
        while True:
            with suppress(psutil.Error):
                self._samples.append(sum(p.memory_info().rss for p in self._processes))
            if self._over.wait(1):
                return


def _one_row(results: Results, settings: Settings, up: Running, row: Row, number: int) -> None:
    try:
        up.check(row)
    except ServerError as error:
        _fail(results, row.name, error)
        return
    _ask(up, row, MOST, settings.warm_up)
    for count in CONNECTIONS:
        found, errors = _ask(up, row, count, settings.seconds)
        case = connections(count)
        _add(results, Sample("throughput", row.name, case, number, found, errors))


def _ask(
    up: Running, row: Row, count: int, seconds: float, rows: int = 1
) -> tuple[dict[str, float], Mapping[str, int]]:
    """Have wrk send different images, `rows` a request: what it saw, and its errors.

    `server_cores` is what the server took of the cores meanwhile, and `other_cores` what neither
    it nor wrk did: the load of others on the machine, and the kernel's own work.
    """
    pixels = images(max(16, rows))
    bodies = [row.form.body(np.roll(pixels, -shift, axis=0)[:rows]) for shift in range(16)]
    busy, own = _busy_seconds(), up.cpu_seconds()
    load = wrk(up.url + row.path, bodies, row.form.headers, connections=count, seconds=seconds)
    server = (up.cpu_seconds() - own) / load.seconds
    total = (_busy_seconds() - busy) / load.seconds
    quantities = {
        "requests_per_second": load.requests_per_second,
        "p50_ms": load.p50,
        "p99_ms": load.p99,
        "longest_ms": load.longest,
        "generator_cores": load.generator_cores,
        "server_cores": server,
        "other_cores": max(0.0, total - server - load.generator_cores),
    }
    return quantities, load.errors


def _busy_seconds() -> float:
    """The seconds in which a core of this machine was not idle, over all cores."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def _in_process(
    results: Results, runtime: str, subject: str, rows: int, seconds: float, number: int
) -> None:
    compute, inputs = in_process(runtime), {"image": images(rows)}
    for _ in range(20):
        compute(inputs)
    taken = []
    started = now = time.perf_counter()
    while now - started < seconds:
        before = now
        compute(inputs)
        now = time.perf_counter()
        taken.append(now - before)
    quantities = {
        "images_per_second": len(taken) * rows / (now - started),
        "p50_ms": float(np.median(taken)) * 1e3,
    }
    case = f"{rows} image{'s' if rows > 1 else ''}"
    _add(results, Sample("images", subject, case, number, quantities))


def _peak(results: Results, row: Row) -> float | None:
    """The most requests a second that were answered in this run."""
    found = [
        results.figure("throughput", row.name, connections(count), "requests_per_second")
        for count in CONNECTIONS
    ]
    return max((figure.median for figure in found if figure is not None), default=None)


def _describe(results: Results, server: Server) -> None:
    """Make the server's environment, so that no measure waits for it, and say what is in it."""
    if server.name not in results.servers:
        environment = environment_of(server)
        results.servers[server.name] = {
            "rows": [row.name for row in server.rows],
            "configuration": server.description,
            "versions": versions(environment, server.libraries),
        }


def _fail(results: Results, subject: str, error: ServerError) -> None:
    if results.failures.setdefault(subject, str(error)) == str(error):
        print(f"  {subject}: void: {error}")


def _add(results: Results, sample: Sample, *, show: bool = True) -> None:
    results.samples.append(sample)
    if show:
        told = ", ".join(f"{name} {readable(value)}" for name, value in sample.quantities.items())
        errors = f"  ERRORS {dict(sample.errors)}" if sample.errors else ""
        print(f"  {sample.round + 1}  {sample.subject}, {sample.case}: {told}{errors}", flush=True)
