"""Where a model computes if memory is small: which of its runtimes, and in how large batches."""

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paced import Paced
from tiny import write_tiny

from models.card import RuntimeName
from models.package import PackageError
from service import placement
from service.placement import place


class Bounded(Paced):
    """A runtime whose device has memory for so many rows."""

    def __init__(self, name: RuntimeName, device: str, most: int) -> None:
        super().__init__(name, device, 0)
        self._most = most

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the line, if it is short enough."""
        if len(inputs["x"]) > self._most:
            raise MemoryError(f"{self.device} has too little memory")
        return super().__call__(inputs)


def with_memory(
    monkeypatch: pytest.MonkeyPatch, **most: int
) -> dict[RuntimeName, "weakref.ref[Bounded]"]:
    """Have each runtime hold so many rows. On a GPU, none is opened while another is there."""
    opened: dict[RuntimeName, weakref.ref[Bounded]] = {}

    def open_bounded(package: Any, name: RuntimeName, device: str, threads: int) -> Bounded:
        assert device == "cpu" or not any(other() for other in opened.values())
        runtime = Bounded(name, device, most[name])
        opened[name] = weakref.ref(runtime)
        return runtime

    monkeypatch.setattr(placement, "open_runtime", open_bounded)
    return opened


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(
    ("most", "timed"), [(256, [1, 16, 256]), (255, [1, 16, 128]), (20, [1, 16]), (5, [1, 4])]
)
def test_batches_are_as_large_as_memory_holds(
    device: str, most: int, timed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, onnx=most)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "auto", device, threads=1, max_batch_rows=256)
    assert list(placed.seconds["onnx"]) == timed
    assert placed.most_rows == timed[-1]
    assert not placed.unused


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize(("small", "large"), [("onnx", "torchscript"), ("torchscript", "onnx")])
def test_a_runtime_for_which_memory_is_too_small_leaves_the_model_to_the_other(
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
    """And whichever is the faster is there in the end, warm at every size."""
    opened = with_memory(monkeypatch, onnx=64, torchscript=64)
    monkeypatch.setattr(
        placement, "_seconds", lambda runtime, example, rows: runtime({"x": np.zeros((rows, 1))})
        and (1.0 if runtime.name == first else 2.0),
    )  # fmt: skip
    placed = place(write_tiny(tmp_path, "line"), "auto", "cuda:0", threads=1, max_batch_rows=64)
    assert placed.runtime.name == first
    assert placed.runtime is opened[first]()
    assert placed.runtime.batches == [1, 16, 64]
    assert set(placed.seconds) == {"onnx", "torchscript"}


def test_runtimes_are_compared_at_the_batch_sizes_that_both_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, onnx=16, torchscript=256)
    monkeypatch.setattr(
        placement, "_seconds", lambda runtime, example, rows: runtime({"x": np.zeros((rows, 1))})
        and (0.01 if runtime.name == "onnx" else 0.001),
    )  # fmt: skip
    placed = place(write_tiny(tmp_path, "line"), "auto", "cpu", threads=1, max_batch_rows=256)
    assert placed.runtime.name == "torchscript"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_network_that_fails_on_a_large_batch_is_at_fault_on_a_cpu_alone(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Paced):
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
        said = "cuda:0 fails on a batch of 16 rows (too many blocks)"
        assert placed.unused == {"onnx": said}
