"""The targets, and whether a run has met them."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.measures import (
    LARGE,
    LARGE_BATCH,
    ONNX_ONLY,
    RUNTIMES,
    WITH_TORCH,
    connections,
)
from benchmarks.serving.results import Results
from benchmarks.serving.servers import (
    BARE,
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
class Verdict:
    """One target: what, the bound, what was found, and against what.

    `value` is None, and so `met`, where a part of it was not measured or is void.
    """

    what: str
    bound: float
    at_least: bool
    unit: str
    value: float | None
    against: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is on the right side of the bound."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def judge(results: Results) -> list[Verdict]:
    """Every target of the measures that were run."""
    judges = {
        "throughput": _throughput,
        "images": _images,
        "workers": _workers,
        "footprint": _footprint,
        "soak": _soak,
    }
    ran = {sample.measure for sample in results.samples}
    return [
        verdict for name, judged in judges.items() if name in ran for verdict in judged(results)
    ]


def _throughput(results: Results) -> list[Verdict]:
    rate, p50, p99 = "requests_per_second", "p50_ms", "p99_ms"
    verdicts = []
    for count in (16, 64):
        case = connections(count)

        def ratio(
            what: str,
            quantity: str,
            bound: float,
            others: Sequence[str],
            ours: str = OURS.name,
            case: str = case,
        ) -> Verdict:
            return _ratio(results, f"{what}, {case}", quantity, bound, case, ours, others)

        verdicts += [
            ratio("requests/s, V2 JSON / best of four", rate, 5, FOUR),
            ratio("requests/s, V2 JSON / stock BentoML", rate, 6, [STOCK.name]),
            ratio("requests/s, V2 JSON / TorchServe", rate, 2.5, [TORCHSERVE.name]),
            ratio("requests/s, V2 JSON / bare uvicorn", rate, 0.55, [BARE.name]),
            ratio("requests/s, typed JSON / best of four", rate, 3, FOUR, TYPED_JSON.name),
            ratio("p99, V2 JSON / best peer", p99, 1, PEERS),
            ratio("p99, V2 JSON / bare uvicorn", p99, 2.5, [BARE.name]),
        ]
    case = connections(1)
    what = f"p50, V2 JSON / best peer, {case}"
    return [*verdicts, _ratio(results, what, p50, 0.5, case, OURS.name, PEERS)]


def _ratio(
    results: Results,
    what: str,
    quantity: str,
    bound: float,
    case: str,
    ours: str,
    others: Sequence[str],
) -> Verdict:
    """Ours over the best of others: the greatest rate, or the least latency."""
    larger = quantity == "requests_per_second"
    own = results.figure("throughput", ours, case, quantity)
    found = {
        name: figure.median
        for name in others
        if (figure := results.figure("throughput", name, case, quantity)) is not None
    }
    missing = [name for name in others if name not in found]
    if own is None or not found:
        return Verdict(what, bound, larger, "x", None, "not measured, or void")
    best = (max if larger else min)(found, key=lambda name: found[name])
    against = best + (f"; without {', '.join(missing)}" if missing else "")
    return Verdict(what, bound, larger, "x", own.median / found[best], against)


def _images(results: Results) -> list[Verdict]:
    case, quantity = f"{LARGE_BATCH} images", "images_per_second"
    ours = results.figure("images", LARGE.name, case, quantity)
    limit = results.figure("images", RUNTIMES["onnx"], case, quantity)
    value = ours.median / limit.median if ours and limit else None
    what = f"images/s, {LARGE_BATCH} images a request, V2 binary / in process"
    return [Verdict(what, 0.7, True, "x", value, RUNTIMES["onnx"])]


def _workers(results: Results) -> list[Verdict]:
    quantity = "requests_per_second"
    one = results.figure("workers", OURS.name, "1 worker", quantity)
    two = results.figure("workers", OURS.name, "2 workers", quantity)
    value = two.median / one.median if one and two else None
    return [Verdict("requests/s, two workers / one", 1.5, True, "x", value)]


def _footprint(results: Results) -> list[Verdict]:
    verdicts = []
    for subject, bound in ((ONNX_ONLY, 300.0), (WITH_TORCH, 900.0)):
        for quantity, limit, unit in (("rss_mb", bound, "MB"), ("ready_seconds", 10.0, "s")):
            found = results.figure("footprint", subject, "one worker", quantity)
            what = f"{'memory (RSS)' if unit == 'MB' else 'time until ready'}, {subject}"
            value = found.median if found else None
            verdicts.append(Verdict(what, limit, False, unit, value))
    return verdicts


def _soak(results: Results) -> list[Verdict]:
    (case,) = results.cases("soak", OURS.name)
    errors = results.errors("soak", OURS.name, case)
    verdicts = [Verdict(f"soak of {case}, errors", 0, False, "", float(errors))]
    for what, quantity, bound, at_least, unit in (
        ("requests answered / asked for", "kept_rate", 0.99, True, "x"),
        ("p99 / p50 in the worst window", "worst_window_ratio", 3.0, False, "x"),
        ("memory after the first minute, spread", "rss_spread_percent", 2.0, False, "%"),
    ):
        found = results.figure("soak", OURS.name, case, quantity)
        value = found.median if found else None
        verdicts.append(Verdict(f"soak of {case}, {what}", bound, at_least, unit, value))
    return verdicts
