"""The targets, and their results in a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.results import Results
from benchmarks.serving.scenarios import (
    CONNECTIONS,
    LARGE,
    LARGE_BATCH,
    ONNX_ONLY,
    RUNTIMES,
    WITH_TORCH,
    connections,
)
from benchmarks.serving.servers import (
    BARE_UVICORN,
    BINARY,
    FASTAPI,
    FITSERVE,
    LITSERVE,
    MINIMAL,
    MLSERVER,
    OURS,
    RAY_SERVE,
    SERVERS,
    TRITON,
    TRITON_BINARY,
    TYPED_JSON,
    Row,
    Server,
    row_name,
)

FOUR = (FASTAPI.name, LITSERVE.name, MLSERVER.name, RAY_SERVE.name)


def _subjects(server: Server, *rows: Row) -> list[str]:
    return [row_name(row, workers) for row in rows for workers in server.workers]


OURS_JSON, OURS_BINARY = _subjects(FITSERVE, OURS), _subjects(FITSERVE, BINARY)
TRITON_JSON, PEERS_BINARY = (_subjects(SERVERS["triton"], row) for row in (TRITON, TRITON_BINARY))
PEERS_JSON = [
    name
    for server in SERVERS.values()
    if server.peer
    for name in _subjects(server, *server.rows)
    if name not in PEERS_BINARY
]


@dataclass(frozen=True)
class TargetResult:
    """The result of a target: its bound, the measured value and the baseline.

    `value` and `met` are None if a measurement is missing or void.
    """

    name: str
    bound: float
    at_least: bool
    unit: str
    value: float | None
    baseline: str = ""

    @property
    def met(self) -> bool | None:
        """Return whether the value meets the bound."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def check_targets(results: Results) -> list[TargetResult]:
    """Return the results of all targets of the scenarios in the run."""
    checks = {
        "throughput": _throughput,
        "images": _images,
        "footprint": _footprint,
        "soak": _soak,
    }
    ran = {sample.scenario for sample in results.samples}
    return [result for name, check in checks.items() if name in ran for result in check(results)]


def _throughput(results: Results) -> list[TargetResult]:
    rate, p50, p99 = "requests_per_second", "p50_ms", "p99_ms"

    def ratio(
        name: str,
        quantity: str,
        bound: float,
        count: int,
        ours: Sequence[str],
        others: Sequence[str],
    ) -> TargetResult:
        return _ratio(results, name, quantity, bound, connections(count), ours, others)

    one_worker, two_workers = ([name] for name in OURS_JSON)
    typed, minimal, bare = [TYPED_JSON.name], [MINIMAL.name], [BARE_UVICORN.name]
    target_results = []
    for label, ours, peers in (
        ("JSON", OURS_JSON, PEERS_JSON),
        ("binary", OURS_BINARY, PEERS_BINARY),
    ):
        target_results += [
            ratio(f"requests/s, {label} / best peer", rate, bound, count, ours, peers)
            for count, bound in ((16, 5), (64, 3), (256, 3))
        ]
        target_results += [
            ratio(f"p99, {label} / best peer", p99, 1, count, ours, peers) for count in CONNECTIONS
        ]
    target_results += [
        ratio("p50, JSON / best peer", p50, 0.5, 1, OURS_JSON, PEERS_JSON),
        ratio("p50, JSON / Triton", p50, 0.5, 1, OURS_JSON, TRITON_JSON),
        ratio("p50, binary / Triton", p50, 0.5, 1, OURS_BINARY, PEERS_BINARY),
        ratio("requests/s, two workers / one", rate, 1.5, 64, two_workers, one_worker),
    ]
    for count, share in ((16, 0.7), (64, 0.6)):
        target_results += [
            ratio("requests/s, JSON / minimal server", rate, share, count, one_worker, minimal),
            ratio("requests/s, JSON / bare uvicorn", rate, 0.55, count, one_worker, bare),
            ratio("p99, JSON / bare uvicorn", p99, 2.5, count, one_worker, bare),
            ratio("requests/s, typed JSON / best of four", rate, 3, count, typed, FOUR),
        ]
    return target_results


def _ratio(
    results: Results,
    name: str,
    quantity: str,
    bound: float,
    case: str,
    ours: Sequence[str],
    others: Sequence[str],
) -> TargetResult:
    """Return the ratio of the best of ours to the best of others.

    The best is the highest rate or the lowest latency. The baseline names both, and the missing.
    """
    at_least = quantity == "requests_per_second"
    name = f"{name}, {case}"
    medians = {
        subject: summary.median
        for subject in (*ours, *others)
        if (summary := results.summary("throughput", subject, case, quantity)) is not None
    }
    missing = [subject for subject in (*ours, *others) if subject not in medians]

    def best(names: Sequence[str]) -> str | None:
        measured = [subject for subject in names if subject in medians]
        return (max if at_least else min)(
            measured, key=lambda subject: medians[subject], default=None
        )

    own, other = best(ours), best(others)
    if own is None or other is None:
        return TargetResult(name, bound, at_least, "x", None, "not measured, or void")
    baseline = f"{own} / {other}" + (f"; without {', '.join(missing)}" if missing else "")
    return TargetResult(name, bound, at_least, "x", medians[own] / medians[other], baseline)


def _images(results: Results) -> list[TargetResult]:
    case, quantity = f"{LARGE_BATCH} images", "images_per_second"
    ours = results.summary("images", LARGE.name, case, quantity)
    limit = results.summary("images", RUNTIMES["onnx"], case, quantity)
    value = ours.median / limit.median if ours and limit else None
    name = f"images/s, {LARGE_BATCH} images a request, V2 binary / in process"
    return [TargetResult(name, 0.7, True, "x", value, RUNTIMES["onnx"])]


def _footprint(results: Results) -> list[TargetResult]:
    target_results = []
    for subject, bound in ((ONNX_ONLY, 300.0), (WITH_TORCH, 900.0)):
        for quantity, limit, unit in (("rss_mb", bound, "MB"), ("ready_seconds", 10.0, "s")):
            summary = results.summary("footprint", subject, "one worker", quantity)
            name = f"{'memory (RSS)' if unit == 'MB' else 'time until ready'}, {subject}"
            value = summary.median if summary else None
            target_results.append(TargetResult(name, limit, False, unit, value))
    return target_results


def _soak(results: Results) -> list[TargetResult]:
    (case,) = results.cases("soak", OURS.name)
    errors = results.errors("soak", OURS.name, case)
    target_results = [TargetResult(f"soak of {case}, errors", 0, False, "", float(errors))]
    for name, quantity, bound, at_least, unit in (
        ("requests answered / asked for", "kept_rate", 0.99, True, "x"),
        ("p99 / p50 in the worst window", "worst_window_ratio", 3.0, False, "x"),
        ("memory after the first minute, spread", "rss_spread_percent", 2.0, False, "%"),
    ):
        summary = results.summary("soak", OURS.name, case, quantity)
        value = summary.median if summary else None
        target_results.append(TargetResult(f"soak of {case}, {name}", bound, at_least, unit, value))
    ratio = _ratio_beside_bare_uvicorn(results)
    name = f"soak of {case}, p99 / p50 in the median window, of bare uvicorn's"
    target_results.append(TargetResult(name, 1.2, False, "x", ratio))
    return target_results


def _ratio_beside_bare_uvicorn(results: Results) -> float | None:
    """Return the p99 / p50 of fitserve's median window, divided by that of bare uvicorn's."""
    medians = []
    for row in (OURS, BARE_UVICORN):
        cases = results.cases("soak", row.name)
        summary = (
            results.summary("soak", row.name, cases[0], "median_window_ratio") if cases else None
        )
        if summary is None:
            return None
        medians.append(summary.median)
    return medians[0] / medians[1]
