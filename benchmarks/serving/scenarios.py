"""The scenarios: each starts its servers and adds its samples to the results.

Only one server runs at a time, so that no idle server uses the cores; in the soak, the servers run
together and receive requests in turns. Every round runs all servers in rotation, so that a
temporary slowdown of the machine affects all of them.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.memory import MEGABYTE, MemorySampler
from benchmarks.serving.environments import (
    environment_of,
    environment_without_torch,
    versions,
)
from benchmarks.serving.load import Trace, h2load, wrk
from benchmarks.serving.payloads import images, in_process, v2_binary
from benchmarks.serving.processes import Running, running
from benchmarks.serving.results import Results, Sample, readable
from benchmarks.serving.servers import (
    BINARY,
    FITSERVE,
    SERVERS,
    Row,
    Server,
    ServerError,
    row_name,
)

CONNECTIONS = (1, 16, 64, 256)
WARM_UP_CONNECTIONS = 64
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
    "minimal-server": 0.2,
    "bare-uvicorn": 0.4,
    "fastapi": 0.2,
}
"""Share of the soak's seconds by server; all but fitserve show the limits of the machine."""
SOAK_TURNS = 6
WINDOW_SECONDS = 10


@dataclass(frozen=True)
class Settings:
    """The number of rounds, and the seconds of each run, of its warm-up and of the soak."""

    rounds: int
    seconds: float
    warm_up: float
    soak_seconds: float
    servers: Sequence[str]


def connections(count: int) -> str:
    """Return the name of the case."""
    return f"{count} connection{'s' if count > 1 else ''}"


def throughput(results: Results, settings: Settings) -> None:
    """Measure requests/s and latency of every server, with one image a request."""
    servers = [SERVERS[name] for name in settings.servers]
    installed = [server for server in servers if _installed(results, server)]
    for number in range(settings.rounds):
        for server in installed:
            for workers in server.workers:
                try:
                    with running(server, workers=workers) as running_server:
                        for row in server.rows:
                            name = row_name(row, workers)
                            _measure_row(results, settings, running_server, row, name, number)
                except ServerError as error:
                    _record_failures(results, server, [workers], error)


def large_requests(results: Results, settings: Settings) -> None:
    """Measure images/s with 256 images a request, and of the network in process."""
    _record_server(results, FITSERVE)
    for number in range(settings.rounds):
        for runtime in RUNTIMES:
            for rows in IN_PROCESS_BATCHES:
                _in_process(results, runtime, rows, min(settings.seconds, 2.0), number)
        with running(FITSERVE) as server:
            server.check(BINARY)
            _measure(server, LARGE, LARGE_CONNECTIONS, settings.warm_up, LARGE_BATCH)
            found, errors = _measure(
                server, LARGE, LARGE_CONNECTIONS, settings.seconds, LARGE_BATCH
            )
        quantities = {"images_per_second": found["requests_per_second"] * LARGE_BATCH, **found}
        case = f"{LARGE_BATCH} images"
        _add_sample(results, Sample("images", LARGE.name, case, number, quantities, errors))


def footprint(results: Results, settings: Settings) -> None:
    """Measure memory and start-up time of one worker process with all shipped packages."""
    _record_server(results, FITSERVE)
    small = environment_without_torch()
    for number in range(settings.rounds):
        for name, environment, variables in (
            (WITH_TORCH, None, {}),
            (ONNX_ONLY, small, {"FITSERVE_RUNTIME": "onnx"}),
        ):
            with running(FITSERVE, environment=environment, settings=variables) as server:
                memory = server.workers()[0].memory_full_info()
                quantities = {
                    "ready_seconds": server.start_seconds,
                    "rss_mb": memory.rss / MEGABYTE,
                    "pss_mb": memory.pss / MEGABYTE,
                }
            _add_sample(results, Sample("footprint", name, "one worker", number, quantities))


def soak(results: Results, settings: Settings) -> None:
    """Measure latency by windows and memory of long runs at 70% of each server's own peak.

    All servers run, and receive requests in turns: a slow minute of the machine affects each.
    """
    with ExitStack() as stack:
        soaked = [
            _start_soak(results, settings, stack, SERVERS[name], share)
            for name, share in SOAKED.items()
        ]
        for _ in range(SOAK_TURNS):
            for server in soaked:
                server.take_turn()
        for server in soaked:
            server.add_samples(results)


class _Soaked:
    """One server of the soak: its traces, one for each turn, and its memory.

    Args:
        url: of the endpoint.
        row: what is sent.
        rate: requests per second.
        seconds: of all turns together.
        memory: takes samples of the resident memory.
    """

    def __init__(
        self, url: str, row: Row, rate: float, seconds: float, memory: MemorySampler
    ) -> None:
        self._url, self._row, self._rate = url, row, rate
        self._turn_seconds = max(1, round(seconds / SOAK_TURNS))
        self._memory = memory
        self._traces: list[Trace] = []

    def take_turn(self) -> None:
        """Send requests for one turn."""
        payload = self._row.payload_format
        body, seconds = payload.body(images(1)), self._turn_seconds
        trace = h2load(self._url, body, payload.headers, rate=self._rate, seconds=seconds)
        self._traces.append(trace)

    def add_samples(self, results: Results) -> None:
        """Add the latency of each window and of all turns."""
        found = [window for trace in self._traces for window in windows(trace, WINDOW_SECONDS)]
        for index, window in enumerate(found):
            case = f"window {index + 1}"
            _add_sample(
                results, Sample("soak windows", self._row.name, case, 0, window), show=False
            )
        ratios = [window["p99_ms"] / window["p50_ms"] for window in found]
        took = np.concatenate([trace.took for trace in self._traces])
        seconds, resident = self._turn_seconds * SOAK_TURNS, _settled(self._memory.samples)
        quantities = {
            "rate_per_second": self._rate,
            "requests_per_second": took.size / seconds,
            "kept_rate": took.size / seconds / self._rate,
            "p50_ms": float(np.percentile(took, 50)),
            "p99_ms": float(np.percentile(took, 99)),
            "longest_ms": float(took.max()),
            "worst_window_ratio": max(ratios),
            "median_window_ratio": float(np.median(ratios)),
            "rss_mb": resident[0] / MEGABYTE,
            "rss_spread_percent": _range_percent(resident),
            "generator_cores": float(np.mean([trace.generator_cores for trace in self._traces])),
        }
        errors = {
            kind: sum(trace.errors[kind] for trace in self._traces)
            for kind in self._traces[0].errors
        }
        case = f"{seconds:g} s"
        _add_sample(results, Sample("soak", self._row.name, case, 0, quantities, errors))


def _start_soak(
    results: Results, settings: Settings, stack: ExitStack, server: Server, share: float
) -> _Soaked:
    """Start a server and measure its peak, if no scenario before has."""
    row = server.rows[0]
    _record_server(results, server)
    running_server = stack.enter_context(running(server))
    running_server.check(row)
    _measure(running_server, row, WARM_UP_CONNECTIONS, settings.warm_up)
    peak = _peak(results, row)
    if peak is None:
        found, _ = _measure(running_server, row, WARM_UP_CONNECTIONS, settings.seconds)
        peak = found["requests_per_second"]
    memory = stack.enter_context(MemorySampler(running_server.workers, 1))
    seconds = share * settings.soak_seconds
    return _Soaked(running_server.url + row.path, row, SOAK_SHARE * peak, seconds, memory)


SCENARIOS = {
    "throughput": throughput,
    "images": large_requests,
    "footprint": footprint,
    "soak": soak,
}


def windows(trace: Trace, seconds: float) -> list[dict[str, float]]:
    """Return the latency of each window of a trace.

    A last window shorter than half its length is left out.

    Args:
        trace: the requests.
        seconds: the length of a window.
    """
    windows = []
    for start in np.arange(0.0, float(trace.began[-1]) + 1e-9, seconds):
        rest = float(trace.began[-1]) - start
        inside = trace.took[(trace.began >= start) & (trace.began < start + seconds)]
        if inside.size and (start == 0 or rest >= seconds / 2):
            p50, p99 = np.percentile(inside, [50, 99])
            windows.append({"p50_ms": float(p50), "p99_ms": float(p99), "requests": inside.size})
    return windows


def _settled(samples: Sequence[int]) -> Sequence[int]:
    """Return the samples after the first minute, or after the first fifth of a short run."""
    return samples[min(60, len(samples) // 5) :]


def _range_percent(samples: Sequence[int]) -> float:
    """Return the range of the samples, in percent of the lowest."""
    return (max(samples) - min(samples)) / min(samples) * 100


def _measure_row(
    results: Results, settings: Settings, up: Running, row: Row, name: str, number: int
) -> None:
    try:
        up.check(row)
    except ServerError as error:
        _record_failure(results, name, error)
        return
    _measure(up, row, WARM_UP_CONNECTIONS, settings.warm_up)
    for count in CONNECTIONS:
        quantities, errors = _measure(up, row, count, settings.seconds)
        _add_sample(
            results, Sample("throughput", name, connections(count), number, quantities, errors)
        )


def _measure(
    up: Running, row: Row, count: int, seconds: float, rows: int = 1
) -> tuple[dict[str, float], Mapping[str, int]]:
    """Send different images with wrk, `rows` a request, and return quantities and errors.

    `server_cores` is the CPU use of the server. `other_cores` is that of neither the server nor
    wrk: other processes, and the kernel.
    """
    pixels = images(max(16, rows))
    bodies = [
        row.payload_format.body(np.roll(pixels, -shift, axis=0)[:rows]) for shift in range(16)
    ]
    busy_before, server_before = _busy_seconds(), up.cpu_seconds()
    load = wrk(
        up.url + row.path, bodies, row.payload_format.headers, connections=count, seconds=seconds
    )
    server = (up.cpu_seconds() - server_before) / load.seconds
    total = (_busy_seconds() - busy_before) / load.seconds
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
    """Return the busy seconds of this machine, summed over all cores."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def _in_process(results: Results, runtime: str, rows: int, seconds: float, number: int) -> None:
    compute, inputs = in_process(runtime), {"image": images(rows)}
    for _ in range(20):
        compute(inputs)
    durations = []
    started = now = time.perf_counter()
    while now - started < seconds:
        before = now
        compute(inputs)
        now = time.perf_counter()
        durations.append(now - before)
    quantities = {
        "images_per_second": len(durations) * rows / (now - started),
        "p50_ms": float(np.median(durations)) * 1e3,
    }
    case = f"{rows} image{'s' if rows > 1 else ''}"
    _add_sample(results, Sample("images", RUNTIMES[runtime], case, number, quantities))


def _peak(results: Results, row: Row) -> float | None:
    """Return the highest requests/s of this run."""
    summaries = [
        results.summary("throughput", row.name, connections(count), "requests_per_second")
        for count in CONNECTIONS
    ]
    return max((summary.median for summary in summaries if summary is not None), default=None)


def _record_server(results: Results, server: Server) -> None:
    """Create the server's environment before the measurement, and record its versions."""
    if server.name not in results.servers:
        environment = environment_of(server)
        results.servers[server.name] = {
            "rows": [row.name for row in server.rows],
            "configuration": server.description,
            "versions": versions(environment, server.libraries),
        }


def _installed(results: Results, server: Server) -> bool:
    """Record the server, or the reason why its environment cannot be installed here."""
    try:
        _record_server(results, server)
    except ServerError as error:
        _record_failures(results, server, server.workers, error)
        return False
    return True


def _record_failures(
    results: Results, server: Server, workers: Sequence[int], error: ServerError
) -> None:
    """Record that no row of the server was measured."""
    for number in workers:
        for row in server.rows:
            _record_failure(results, row_name(row, number), error)


def _record_failure(results: Results, name: str, error: ServerError) -> None:
    if results.failures.setdefault(name, str(error)) == str(error):
        print(f"  {name}: void: {error}")


def _add_sample(results: Results, sample: Sample, *, show: bool = True) -> None:
    results.samples.append(sample)
    if show:
        quantities = ", ".join(
            f"{name} {readable(value)}" for name, value in sample.quantities.items()
        )
        errors = f"  ERRORS {dict(sample.errors)}" if sample.errors else ""
        print(
            f"  {sample.round + 1}  {sample.subject}, {sample.case}: {quantities}{errors}",
            flush=True,
        )
