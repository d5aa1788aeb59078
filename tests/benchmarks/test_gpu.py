"""Tests of the GPU benchmark: its logic without a GPU, and a run with a GPU."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import check, check_placement, main, on_gpu, show, staged
from benchmarks.serving.load import LoadError
from benchmarks.serving.processes import marked, running
from benchmarks.serving.servers import FITSERVE


class FakeStage:
    """A stage that records the start of each batch and the wait for its result."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen
        self._batch: Any = None

    def begin(self, batch: Any) -> None:
        """Record the start; no other batch may be in progress."""
        assert self._batch is None
        self._seen.append(f"begin {batch}")
        self._batch = batch

    def end(self) -> Any:
        """Record the wait, and return the batch itself."""
        batch, self._batch = self._batch, None
        self._seen.append(f"end {batch}")
        return batch


def fakes(count: int) -> tuple[list[Any], list[str]]:
    seen: list[str] = []
    return [FakeStage(seen) for _ in range(count)], seen


@given(st.integers(1, 3), st.integers(0, 10))
def test_batches_are_returned_in_order(stages: int, batches: int) -> None:
    outcomes, seen = fakes(stages)
    assert list(staged(outcomes)(range(batches))) == list(range(batches))
    assert len(seen) == 2 * batches


def test_a_batch_starts_before_the_wait_for_the_previous_batch() -> None:
    stages, seen = fakes(2)
    list(staged(stages)(range(3)))
    assert seen == ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]
    stages, seen = fakes(1)
    list(staged(stages)(range(2)))
    assert seen == ["begin 0", "end 0", "begin 1", "end 1"]


def test_check_returns_the_largest_difference_and_0_without_outputs() -> None:
    batches: list[Any] = [np.zeros((2, 28, 28), np.uint8)] * 2
    expected: list[Any] = [np.zeros((2, 10), np.float32)] * 2

    def wrong(given: Any) -> Iterator[Any]:
        for index, _ in enumerate(given):
            yield np.full((2, 10), 0.25 * index, np.float32)

    def silent(given: Any) -> Iterator[Any]:
        for _ in given:
            yield np.empty((0, 10), np.float32)

    assert check(wrong, batches, expected) == 0.25
    assert check(silent, batches, expected) == 0.0


def test_a_table_has_a_row_for_each_method_with_median_and_range(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show("Images a second", {"onnx, pinned": {1: [3.0, 1.0, 2.0], 64: [10.0]}})
    assert capsys.readouterr().out.splitlines()[1:] == [
        "### Images a second",
        "",
        "|  | 1 | 64 |",
        "| --- | --- | --- |",
        "| onnx, pinned | 2 (1 to 3) | 10 (10 to 10) |",
    ]


@pytest.mark.parametrize(("mine", "seen"), [(None, "0"), ("MIG-12-34", "MIG-12-34")])
def test_only_the_service_has_access_to_the_gpu(
    mine: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mine is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)
    for server, expected in ((on_gpu("onnx"), seen), (FITSERVE, "")):
        page = "{bin}/python -m http.server --bind 127.0.0.1 {port}"  # it has the same environment
        with running(replace(server, command=page, ready="/")) as running_server:
            (process,) = marked(running_server.mark)
            assert process.environ()["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(
    ("runtime", "device", "fits"),
    [("onnx", "cuda:0", True), ("onnx", "cpu", False), ("torchscript", "cuda:0", False)],
)
def test_a_service_on_another_device_or_runtime_is_not_measured(
    runtime: str, device: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"serving": {"runtime": runtime, "device": device}}
    monkeypatch.setattr("httpx.get", lambda *_, **__: httpx.Response(200, json=card))
    if fits:
        check_placement("http://localhost", "onnx")
    else:
        with pytest.raises(LoadError, match=f"computes with {runtime} on {device}, not onnx on"):
            check_placement("http://localhost", "onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_exits_with_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == "There is no CUDA device on this machine.\n"


@pytest.mark.gpu
def test_every_method_agrees_with_the_cpu_and_is_measured_on_a_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--sizes", "1", "8", "--rounds", "1", "--seconds", "0.05"]) == 0
    output = capsys.readouterr().out
    for runtime in ("onnx", "torchscript"):
        for method in ("as served", "pinned", "overlapped", "graph", "in process"):
            assert output.count(f"| {runtime}, {method} |") == 2
