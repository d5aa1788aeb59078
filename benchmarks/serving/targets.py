"""The targets, and their results in a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.results import Results
from benchmarks.serving.scenarios import (
    LARGE,
    LARGE_BATCH,
    ONNX_ONLY,
    RUNTIMES,
    WITH_TORCH,
    connections,
)
from benchmarks.serving.servers import (
    BARE_UVICORN,
    FASTAPI,
    LITSERVE,
    MLSERVER,
    OURS,
    RAY_SERVE,
    STOCK,
    TORCHSERVE,
    TYPED_JSON,
)

FOUR = (FASTAPI.name, LITSERVE.name, MLSERVER.name, RAY_SERVE.name)
PEERS = (*FOUR, STOCK.name, TORCHSERVE.name)


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
        "workers": _workers,
        "footprint": _footprint,
        "soak": _soak,
    }
    ran = {sample.scenario for sample in results.samples}
    return [result for name, check in checks.items() if name in ran for result in check(results)]


def _throughput(results: Results) -> list[TargetResult]:
    rate, p50, p99 = "requests_per_second", "p50_ms", "p99_ms"
    target_results = []
    for count in (16, 64):
        case = connections(count)

        def ratio(
            name: str,
            quantity: str,
            bound: float,
            others: Sequence[str],
            ours: str = OURS.name,
            case: str = case,
        ) -> TargetResult:
            return _ratio(results, f"{name}, {case}", quantity, bound, case, ours, others)

        target_results += [
            ratio("requests/s, V2 JSON / best of four", rate, 5, FOUR),
            ratio("requests/s, V2 JSON / stock BentoML", rate, 6, [STOCK.name]),
            ratio("requests/s, V2 JSON / TorchServe", rate, 2.5, [TORCHSERVE.name]),
            ratio("requests/s, V2 JSON / bare uvicorn", rate, 0.55, [BARE_UVICORN.name]),
            ratio("requests/s, typed JSON / best of four", rate, 3, FOUR, TYPED_JSON.name),
            ratio("p99, V2 JSON / best peer", p99, 1, PEERS),
            ratio("p99, V2 JSON / bare uvicorn", p99, 2.5, [BARE_UVICORN.name]),
        ]
    case = connections(1)
    name = f"p50, V2 JSON / best peer, {case}"
    return [*target_results, _ratio(results, name, p50, 0.5, case, OURS.name, PEERS)]


def _ratio(
    results: Results,
    name: str,
    quantity: str,
    bound: float,
    case: str,
    ours: str,
    others: Sequence[str],
) -> TargetResult:
    """Return the ratio of ours to the best of others: the highest rate or the lowest latency."""
    at_least = quantity == "requests_per_second"
    own = results.summary("throughput", ours, case, quantity)
    found = {
        other: summary.median
        for other in others
        if (summary := results.summary("throughput", other, case, quantity)) is not None
    }
    missing = [other for other in others if other not in found]
    if own is None or not found:
        return TargetResult(name, bound, at_least, "x", None, "not measured, or void")
    best = (max if at_least else min)(found, key=lambda other: found[other])
    baseline = best + (f"; without {', '.join(missing)}" if missing else "")
    return TargetResult(name, bound, at_least, "x", own.median / found[best], baseline)


def _images(results: Results) -> list[TargetResult]:
    case, quantity = f"{LARGE_BATCH} images", "images_per_second"
    ours = results.summary("images", LARGE.name, case, quantity)
    limit = results.summary("images", RUNTIMES["onnx"], case, quantity)
    value = ours.median / limit.median if ours and limit else None
    name = f"images/s, {LARGE_BATCH} images a request, V2 binary / in process"
    return [TargetResult(name, 0.7, True, "x", value, RUNTIMES["onnx"])]


def _workers(results: Results) -> list[TargetResult]:
    quantity = "requests_per_second"
    one = results.summary("workers", OURS.name, "1 worker", quantity)
    two = results.summary("workers", OURS.name, "2 workers", quantity)
    value = two.median / one.median if one and two else None
    return [TargetResult("requests/s, two workers / one", 1.5, True, "x", value)]


def _footprint(results: Results) -> list[TargetResult]:
    target_results = []
    for subject, bound in ((ONNX_ONLY, 300.0), (WITH_TORCH, 900.0)):
        for quantity, limit, unit in (("rss_mb", bound, "MB"), ("ready_seconds", 10.0, "s")):
            found = results.summary("footprint", subject, "one worker", quantity)
            name = f"{'memory (RSS)' if unit == 'MB' else 'time until ready'}, {subject}"
            value = found.median if found else None
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
        found = results.summary("soak", OURS.name, case, quantity)
        value = found.median if found else None
        target_results.append(TargetResult(f"soak of {case}, {name}", bound, at_least, unit, value))
    return target_results
