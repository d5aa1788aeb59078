"""Placement if memory is scarce: the runtime, and the largest batch."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slow_runtime import SlowRuntime
from tiny import write_tiny

from models.package.card import RuntimeName
from models.package.model_package import PackageError
from service.inference import placement, warm_up
from service.inference.placement import place


class Bounded(SlowRuntime):
    """A runtime whose device has memory for a limited number of rows."""

    def __init__(self, name: RuntimeName, device: str, most: int) -> None:
        super().__init__(name, device, 0)
        self._most = most

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the line, if the batch is small enough."""
        if len(inputs["x"]) > self._most:
            raise MemoryError(f"{self.device} has too little memory")
        return super().__call__(inputs)


def with_memory(
    monkeypatch: pytest.MonkeyPatch, **most: int
) -> dict[RuntimeName, "weakref.ref[Bounded]"]:
    """Limit the rows of each runtime. On a GPU, only one runtime may be open at a time."""
    opened: dict[RuntimeName, weakref.ref[Bounded]] = {}

    def open_bounded(package: Any, name: RuntimeName, device: str, threads: int) -> Bounded:
        assert device == "cpu" or not any(other() for other in opened.values())
        runtime = Bounded(name, device, most[name])
        opened[name] = weakref.ref(runtime)
        return runtime

    monkeypatch.setattr(placement, "open_runtime", open_bounded)
    return opened


def with_times(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> None:
    """Let each batch of a runtime take these seconds on a fake clock, whatever its rows."""
    now = [0.0]

    def compute(self: Bounded, inputs: Mapping[str, Any]) -> dict[str, Any]:
        now[0] += seconds[self.name]
        return original(self, inputs)

    original = Bounded.__call__
    monkeypatch.setattr(Bounded, "__call__", compute)
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(warm_up, "time", clock)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(("most", "largest"), [(256, 256), (255, 128), (20, 16), (5, 4), (1, 1)])
def test_batches_are_as_large_as_memory_holds(
    device: str, most: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, onnx=most)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "auto", device, threads=1, max_batch_rows=256)
    assert max(placed.seconds["onnx"]) == placed.most_rows == largest
    assert not placed.unused


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(("small", "large"), [("onnx", "torchscript"), ("torchscript", "onnx")])
def test_the_other_runtime_is_used_if_one_lacks_memory(
    device: str,
    small: RuntimeName,
    large: RuntimeName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_memory(monkeypatch, **{small: 0, large: 64})
    package = write_tiny(tmp_path, "line")
    placed = place(package, "auto", device, threads=1, max_batch_rows=64)
    assert placed.runtime.name == large
    assert placed.unused == {small: f"{device} has too little memory"}
    del placed
    with pytest.raises(PackageError, match="has too little memory"):
        place(package, small, device, threads=1, max_batch_rows=64)


@pytest.mark.parametrize("first", ["onnx", "torchscript"])
def test_the_runtimes_are_opened_one_after_the_other_on_a_gpu(
    first: RuntimeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster runtime is open at the end, and warm at every size."""
    opened = with_memory(monkeypatch, onnx=64, torchscript=64)
    freed: list[int] = []

    def free_memory() -> None:
        freed.append(len(opened))
        assert not any(runtime() for runtime in opened.values())

    monkeypatch.setattr(placement.devices, "free_memory", free_memory)
    with_times(monkeypatch, {"onnx": 0.2, "torchscript": 0.2} | {first: 0.1})
    placed = place(write_tiny(tmp_path, "line"), "auto", "cuda:0", threads=1, max_batch_rows=64)
    assert placed.runtime.name == first
    assert placed.runtime is opened[first]()
    assert set(placed.runtime.batches) == {1, 2, 8, 32, 64}
    assert set(placed.seconds) == {"onnx", "torchscript"}
    assert freed == ([0, 1, 2] if first == "onnx" else [0, 1])  # each loser's memory


def test_runtimes_are_compared_at_the_batch_sizes_that_both_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, onnx=16, torchscript=256)
    with_times(monkeypatch, {"onnx": 0.01, "torchscript": 0.001})
    placed = place(write_tiny(tmp_path, "line"), "auto", "cpu", threads=1, max_batch_rows=256)
    assert placed.runtime.name == "torchscript"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_failure_on_a_large_batch_is_a_fault_of_the_network_only_on_a_cpu(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(SlowRuntime):
        def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
            if self.name == "onnx" and len(inputs["x"]) > 1:
                raise ValueError("too many blocks")
            return super().__call__(inputs)

    monkeypatch.setattr(
        placement, "open_runtime", lambda package, name, device, threads: Failing(name, device, 0)
    )
    package = write_tiny(tmp_path, "line")
    if device == "cpu":
        with pytest.raises(ValueError, match="too many blocks"):
            place(package, "auto", device, threads=1, max_batch_rows=16)
    else:
        placed = place(package, "auto", device, threads=1, max_batch_rows=16)
        text = "cuda:0 fails on a batch of 2 rows (too many blocks)"
        assert placed.unused == {"onnx": text}
