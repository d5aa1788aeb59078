"""The warm-up: which batches are run and timed, within bounds of time and memory."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from faulty_networks import write_large
from slow_runtime import SlowRuntime
from tiny import write_tiny

from models.package.card import RuntimeName
from models.package.model_package import ModelPackage
from service.inference import placement, warm_up
from service.inference.placement import place
from service.inference.warm_up import Bounds

MIB = 2**20


class Clock:
    """A fake clock, and runtimes whose computations take time on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cpu = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now, process_time=lambda: self.cpu)
        monkeypatch.setattr(warm_up, "time", clock)

    def runtime(self, name: RuntimeName, seconds: Callable[[int], float]) -> SlowRuntime:
        """Return a runtime; `seconds` of a batch by its rows."""
        clock = self

        class Timed(SlowRuntime):
            def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
                batch_seconds = seconds(len(inputs["x"]))
                clock.now += batch_seconds
                clock.cpu += batch_seconds
                return super().__call__(inputs)

        return Timed(name, "cpu", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return write_tiny(tmp_path, "line")


def warm(package: ModelPackage, *runtimes: SlowRuntime, **bounds: float) -> dict[str, Any]:
    limits = Bounds(
        int(bounds.get("rows", 256)), bounds.get("seconds", 0.125), bounds.get("bytes", 1e9)
    )
    return dict(
        warm_up.warm_up({runtime.name: runtime for runtime in runtimes}, package.card, limits)
    )


@pytest.mark.parametrize("row_seconds", [1e-5, 0.001, 0.011, 0.11, 3.0])
def test_no_batch_is_run_that_takes_much_longer_than_it_may(
    row_seconds: float, clock: Clock, package: ModelPackage
) -> None:
    """The whole warm-up takes two seconds at most, or twice a row."""
    runtime = clock.runtime("onnx", lambda rows: rows * row_seconds)
    timings = warm(package, runtime)["onnx"]
    assert timings.seconds == pytest.approx({rows: rows * row_seconds for rows in timings.seconds})
    *smaller, largest = timings.seconds
    if row_seconds < 0.125 / 256:
        assert (largest, timings.limit) == (256, "rows")
    else:
        assert timings.limit == "time"
        assert all(timings.seconds[rows] <= 0.125 for rows in smaller)
        assert timings.seconds[largest] > 0.125
        assert largest == 1 or timings.seconds[largest] <= 0.25
    assert clock.now <= max(2.0, 2 * row_seconds)


def test_a_batch_that_a_large_batch_hardly_slows_down_is_run(
    clock: Clock, package: ModelPackage
) -> None:
    """As with weights that take longer to read than to multiply."""
    timings = warm(package, clock.runtime("onnx", lambda rows: 0.1 + rows * 1e-5))["onnx"]
    assert max(timings.seconds) == 256


def memory_per_row(monkeypatch: pytest.MonkeyPatch, row_bytes: int, *, kept: bool) -> None:
    """Let each row take memory, which the runtime keeps for the next batch or releases."""
    held_bytes = [row_bytes if kept else 0]  # of the recorded prediction

    def measured(compute: Callable[[], None], runtime: Any) -> tuple[None, int, int]:
        compute()
        needed = runtime.batches[-1] * row_bytes
        if not kept:
            return None, needed, 0
        growth = max(needed - held_bytes[0], 0)
        held_bytes[0] += growth
        return None, growth, growth

    monkeypatch.setattr(
        warm_up, "measured", lambda compute, **_: measured(compute, compute.__self__._runtime)
    )


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("row_mib", "largest", "limit"),
    [(1, 256, "rows"), (16, 64, "memory"), (100, 8, "memory"), (600, 1, "memory")],
)
def test_no_batch_is_run_whose_memory_is_expected_to_exceed_the_bound(
    row_mib: int,
    largest: int,
    limit: str,
    kept: bool,
    package: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory_per_row(monkeypatch, row_mib * MIB, kept=kept)
    runtime = SlowRuntime("onnx", "cpu", 0)
    timings = warm(package, runtime, bytes=1100 * MIB)["onnx"]
    if row_mib == 600 and kept:
        largest = 2  # only the second row shows the memory of one
    assert (max(timings.seconds), timings.limit) == (largest, limit)
    assert max(runtime.batches) == largest


@pytest.mark.slow
def test_a_network_of_64_mb_per_row_has_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_large(tmp_path, "large", 64 * MIB)
    monkeypatch.setattr(placement, "available_bytes", lambda: 8 * 512 * MIB)
    before = psutil.Process().memory_info().rss
    placed = place(package, "auto", "cpu", threads=1, max_batch_rows=256, batch_seconds=100)
    assert placed.limit == "memory"
    assert placed.most_rows in (2, 4, 8)
    assert psutil.Process().memory_info().rss - before < 1024 * MIB


def test_the_runtimes_compute_in_turns(package: ModelPackage) -> None:
    order: list[str] = []

    class Noted(SlowRuntime):
        def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
            order.append(self.name)
            return super().__call__(inputs)

    warm(package, Noted("onnx", "cpu", 0), Noted("torchscript", "cpu", 0), rows=1)
    turns = [name for name, _ in itertools.groupby(order)]
    assert len(turns) >= 10
    assert turns == ["onnx", "torchscript"] * (len(turns) // 2)


def test_a_run_without_the_core_is_repeated(clock: Clock, package: ModelPackage) -> None:
    """For 0.5 s, each run takes 100 ms of which the process has the core for 10."""
    busy = clock.runtime("onnx", lambda rows: 0.01)

    def compute(inputs: Mapping[str, Any]) -> None:
        clock.now += 0.09 if clock.now < 0.5 else 0

    original = type(busy).__call__
    type(busy).__call__ = lambda self, inputs: (compute(inputs), original(self, inputs))[1]  # type: ignore[method-assign]
    assert warm(package, busy, rows=1)["onnx"].seconds == pytest.approx({1: 0.01})


@pytest.mark.parametrize(
    ("onnx", "torchscript", "chosen"),
    [
        (0.0105, 0.01, "onnx"),
        (0.01, 0.0105, "onnx"),
        (0.02, 0.01, "torchscript"),
        (0.01, 0.02, "onnx"),
    ],
)
def test_the_first_runtime_is_used_unless_the_other_is_clearly_faster(
    onnx: float,
    torchscript: float,
    chosen: str,
    clock: Clock,
    package: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"onnx": onnx, "torchscript": torchscript}
    monkeypatch.setattr(
        placement,
        "open_runtime",
        lambda package, name, device, threads: clock.runtime(name, lambda rows: seconds[name]),
    )
    placed = place(package, "auto", "cpu", threads=1, max_batch_rows=16)
    assert placed.runtime.name == chosen
