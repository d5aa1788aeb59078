"""The weights of models: the priorities of their threads."""

import asyncio
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tiny import write_tiny

from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.inference.weights import add_niceness, niceness
from service.settings import Settings


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, {"a": 0, "b": 0}),
        ({"a": 1.25}, {"a": 0, "b": 1}),
        ({"a": 10}, {"a": 0, "b": 10}),
        ({"b": 0.5}, {"a": 0, "b": 3}),
        ({"a": 10, "b": 0.1}, {"a": 0, "b": 19}),
    ],
)
def test_the_heaviest_model_keeps_its_priority_and_the_others_are_below_it(
    weights: dict[str, float], expected: dict[str, int]
) -> None:
    assert {name: niceness(weights, name) for name in expected} == expected


def test_niceness_is_added_to_that_of_the_thread_alone() -> None:
    nicenesses: list[int] = []

    def run() -> None:
        add_niceness(2)
        add_niceness(3)
        nicenesses.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert nicenesses == [min(before + 5, 19)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


class Recording:
    """A runtime that records the niceness of the thread that computes."""

    name, device, cost_varies = "onnx", "cpu", False

    def __init__(self) -> None:
        self.found: list[int] = []

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        """Return the inputs."""
        self.found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return {"y": inputs["x"]}


async def test_batches_of_a_light_model_are_computed_on_a_thread_of_less_priority(
    tmp_path: Path,
) -> None:
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    for weights, steps in (({"other": 2.0}, 3), ({"line": 2.0}, 0)):
        runtime = Recording()
        placement = Placement(runtime, {})  # type: ignore[arg-type]
        predictor = Predictor(package, placement, Settings(model_weights=weights))
        await predictor.predict({"x": np.zeros((1, 1), np.float32)})
        await predictor.close()
        assert runtime.found == [before + steps]


async def test_a_model_is_served_where_priorities_cannot_be_set(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbid)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placement = Placement(Recording(), {})  # type: ignore[arg-type]
    predictor = Predictor(package, placement, Settings(model_weights={"other": 2.0}))
    async with asyncio.timeout(10):
        await predictor.predict({"x": np.zeros((1, 1), np.float32)})
    await predictor.close()
    assert "FITSERVE_MODEL_WEIGHTS has no effect: priorities cannot be set" in caplog.text


async def test_a_weight_of_a_model_that_does_not_exist_is_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    registry = ModelRegistry(
        Settings(model_repository=tmp_path, device="cpu", model_weights={"lime": 2.0})
    )
    with caplog.at_level(logging.WARNING):
        await registry.open()
    await registry.close()
    assert "FITSERVE_MODEL_WEIGHTS names 'lime', which is not in the repository" in caplog.text


def test_weights_are_read_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_MODEL_WEIGHTS", '{"mnist-cnn": 4, "curve": 0.5}')
    assert Settings().model_weights == {"mnist-cnn": 4.0, "curve": 0.5}
    monkeypatch.setenv("FITSERVE_MODEL_WEIGHTS", '{"mnist-cnn": 0}')
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.1"):
        Settings()
