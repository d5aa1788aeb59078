"""A model whose batches take much longer than when it was loaded says so in log and metrics."""

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
from slow_runtime import SlowRuntime
from tiny import write_tiny

from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.inference.slowdown import BATCHES, COMPARISONS, SlowdownWatch
from service.settings import Settings
from service.telemetry.metrics import exposition


class Watched:
    """A watch over batches of which each row took 1 ms at the start."""

    def __init__(self, inline_rows: int = 8) -> None:
        self.shown: list[float] = []
        self.watch = SlowdownWatch(
            "line/1", inline_rows, lambda rows: rows / 1e3, self.shown.append
        )

    def compute(self, comparisons: int, ratio: float, rows: int = 1) -> None:
        """Observe the batches of some comparisons."""
        for _ in range(comparisons * BATCHES):
            self.watch.observe(rows, ratio * rows / 1e3)


def test_a_slow_model_is_logged_once_and_again_when_it_is_no_longer_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched()
    with caplog.at_level(logging.INFO):
        watched.compute(COMPARISONS - 1, ratio=8)
        assert not caplog.records
        watched.compute(COMPARISONS, ratio=8)
        watched.compute(COMPARISONS - 1, ratio=1)
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert "line/1 is slow: its batches take 8.0 times as long" in warning.getMessage()
        watched.compute(1, ratio=1)
    assert caplog.messages[1:] == ["line/1 is no longer slow"]
    assert watched.shown[-1] == pytest.approx(1)


def test_a_busy_moment_is_not_a_slow_model(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    for _ in range(20):
        watched.compute(COMPARISONS - 1, ratio=10)
        watched.compute(1, ratio=1)
        for batch in range(BATCHES):  # a few long batches in each comparison
            watched.watch.observe(1, 0.1 if batch % 3 == 0 else 0.001)
    assert not watched.watch.slow
    assert not caplog.records


def test_short_batches_of_a_thread_are_not_compared() -> None:
    watched = Watched(inline_rows=4)
    watched.compute(COMPARISONS, ratio=8, rows=5)  # 5 ms at the start, on a thread
    assert not watched.shown
    watched.compute(COMPARISONS, ratio=8, rows=12)
    assert watched.watch.slow


async def test_the_metrics_show_a_model_that_has_become_slow(tmp_path: Path) -> None:
    """The network takes 1 ms, and took 0.1 ms when it was timed."""
    runtime = SlowRuntime("onnx", "cpu", 0.001)
    placed = Placement(runtime, {"onnx": {1: 0.0001, 2: 0.0002}})
    predictor = Predictor(write_tiny(tmp_path, "crawl"), placed, Settings())
    for _ in range(BATCHES):
        await predictor.predict({"x": np.zeros((1, 1), np.float32)})
    await asyncio.sleep(0)
    await predictor.close()
    lines = exposition().decode().splitlines()
    name = 'fitserve_model_slowdown_ratio{model="crawl"} '
    (ratio,) = [float(line.removeprefix(name)) for line in lines if line.startswith(name)]
    assert ratio > 8
