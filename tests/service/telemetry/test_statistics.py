"""What a model has done: the counts are what was sent, and the times lie within the test's own."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from gated import GUILTY, Gated
from tiny import write_tiny

from models.package import ModelPackage
from service.batching.batch import Timings
from service.batching.batcher import BatchReport
from service.errors import QueueFullError
from service.placement import Placement
from service.predictor import Predictor
from service.settings import Settings
from service.telemetry.statistics import Duration, ModelStatistics

PARTS = ("compute_input", "compute_infer", "compute_output")


def test_a_duration_is_how_often_and_how_long_in_all() -> None:
    duration = Duration()
    assert duration.describe() == {"count": 0, "ns": 0}
    duration.add(0.5)
    duration.add(1.0, times=4)
    assert duration.describe() == {"count": 5, "ns": 1_500_000_000}


def test_before_the_first_request_every_count_is_there_and_zero() -> None:
    said = ModelStatistics().describe("line", "3")
    zero = {"count": 0, "ns": 0}
    parts = ("success", "fail", "queue", *PARTS, "cache_hit", "cache_miss")
    assert said == {
        "name": "line",
        "version": "3",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": dict.fromkeys(parts, zero),
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def test_known_batches_are_counted_by_request_and_by_size() -> None:
    statistics = ModelStatistics()
    statistics.executed(
        BatchReport(8, 3, Timings(0.001, 0.010, 0.002), [0.125, 0.25], 4, answered_seconds=0.5)
    )
    statistics.executed(BatchReport(2, 1, Timings(0.002, 0.020, 0.003)))
    statistics.executed(
        BatchReport(8, 2, Timings(0.003, 0.030, 0.004), [0.5], 10, answered_seconds=0.75)
    )
    statistics.failed(2.0)
    said = statistics.describe("line", "3")
    assert (said["inference_count"], said["execution_count"]) == (14, 3)
    spent = said["inference_stats"]
    assert spent["success"] == {"count": 3, "ns": 1_250_000_000}
    assert spent["queue"] == {"count": 3, "ns": 875_000_000}
    assert spent["fail"] == {"count": 1, "ns": 2_000_000_000}
    # Each request counts with its whole batch: 3 of the first, 1 of the second, 2 of the third.
    assert spent["compute_input"] == {"count": 6, "ns": 11_000_000}
    assert spent["compute_infer"] == {"count": 6, "ns": 110_000_000}
    assert spent["compute_output"] == {"count": 6, "ns": 17_000_000}
    assert said["batch_stats"] == [
        {
            "batch_size": 2,
            "compute_input": {"count": 1, "ns": 2_000_000},
            "compute_infer": {"count": 1, "ns": 20_000_000},
            "compute_output": {"count": 1, "ns": 3_000_000},
        },
        {
            "batch_size": 8,
            "compute_input": {"count": 2, "ns": 4_000_000},
            "compute_infer": {"count": 2, "ns": 40_000_000},
            "compute_output": {"count": 2, "ns": 6_000_000},
        },
    ]


# With the batcher and the predictor.


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_tiny(tmp_path_factory.mktemp("packages"), "counted", runtimes=("onnx",))


def after(
    package: ModelPackage, work: Callable[[Predictor, Gated], Awaitable[None]], **settings: Any
) -> dict[str, Any]:
    """What is said of a model after this work; it took as long as the work at most."""

    async def run() -> dict[str, Any]:
        runtime = Gated()
        predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
        started = time.monotonic()
        try:
            await work(predictor, runtime)
        finally:
            runtime.gate.set()
            await predictor.close()
        took = (time.monotonic() - started) * 1e9
        said = predictor.statistics.describe("counted", "1")
        by_size = said["batch_stats"]
        # One thread computes: the batches follow each other.
        assert sum(size[part]["ns"] for size in by_size for part in PARTS) <= took
        assert sum(size["compute_infer"]["count"] for size in by_size) == said["execution_count"]
        for part in ("success", "queue", *PARTS):
            spent = said["inference_stats"][part]
            assert 0 <= spent["ns"] <= spent["count"] * took
        waited = said["inference_stats"]["queue"]
        assert waited["count"] == said["inference_stats"]["success"]["count"]
        assert waited["ns"] <= said["inference_stats"]["success"]["ns"]
        return said

    return asyncio.run(asyncio.wait_for(run(), 60))


def column(*rows: float) -> dict[str, Any]:
    return {"x": np.array(rows, np.float32).reshape(-1, 1)}


def test_the_counts_are_what_was_sent(package: ModelPackage) -> None:
    sizes = [1 + number % 5 for number in range(50)]
    before = time.time_ns() // 1_000_000

    async def work(predictor: Predictor, runtime: Gated) -> None:
        runtime.gate.set()
        await asyncio.gather(*(predictor.predict(column(*range(size))) for size in sizes))

    said = after(package, work, max_batch_rows=8)
    assert said["inference_count"] == sum(sizes)
    assert said["inference_stats"]["success"]["count"] == len(sizes)
    assert said["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert said["last_inference"] >= before
    rows = sum(size["batch_size"] * size["compute_infer"]["count"] for size in said["batch_stats"])
    assert rows == sum(sizes)


def test_a_held_compute_is_time_of_the_compute_and_of_the_queue_behind_it(
    package: ModelPackage,
) -> None:
    async def work(predictor: Predictor, runtime: Gated) -> None:
        first = asyncio.create_task(predictor.predict(column(1)))
        await asyncio.to_thread(runtime.entered.wait)
        second = asyncio.create_task(predictor.predict(column(2, 3)))
        await asyncio.sleep(0.05)
        runtime.gate.set()
        await asyncio.gather(first, second)

    said = after(package, work)
    by_size = {size["batch_size"]: size for size in said["batch_stats"]}
    assert by_size.keys() == {1, 2}
    assert by_size[1]["compute_infer"]["ns"] >= 50_000_000
    assert by_size[2]["compute_infer"]["ns"] < by_size[1]["compute_infer"]["ns"]
    assert said["inference_stats"]["queue"]["ns"] >= 50_000_000


def test_failures_are_counted_and_their_rows_are_not(package: ModelPackage) -> None:
    async def work(predictor: Predictor, runtime: Gated) -> None:
        first = asyncio.create_task(predictor.predict(column(0)))
        await asyncio.to_thread(runtime.entered.wait)
        asked = [
            asyncio.create_task(predictor.predict(column(*rows)))
            for rows in ((1, 2), (GUILTY, 3, 4), (5,))
        ]
        await asyncio.sleep(0)
        left = asyncio.create_task(predictor.predict(column(6)))
        late = asyncio.create_task(predictor.predict(column(7), timeout=0.01))
        with pytest.raises(QueueFullError):
            await predictor.predict(column(*range(5)))
        await asyncio.sleep(0.05)
        left.cancel()
        runtime.gate.set()
        outcomes = await asyncio.gather(first, *asked, left, late, return_exceptions=True)
        assert [isinstance(outcome, BaseException) for outcome in outcomes] == [
            *(False, False, True, False),
            *(True, True),
        ]

    said = after(package, work, max_batch_rows=8, max_queue_rows=10)
    assert said["inference_stats"]["success"]["count"] == 3
    assert said["inference_count"] == 1 + 2 + 1
    # The guilty, the one that was cancelled, the late, and the one that found the queue full.
    assert said["inference_stats"]["fail"]["count"] == 4
    assert said["inference_stats"]["fail"]["ns"] >= 50_000_000
    # The batch with the guilty one counts once, with its repetitions within its compute.
    assert said["execution_count"] == 2


def test_a_request_that_is_split_counts_once_and_its_batches_each(package: ModelPackage) -> None:
    async def work(predictor: Predictor, runtime: Gated) -> None:
        runtime.gate.set()
        await predictor.predict(column(*range(10)))

    said = after(package, work, max_batch_rows=4)
    assert (said["inference_count"], said["execution_count"]) == (10, 3)
    assert said["inference_stats"]["success"]["count"] == 1
    assert [size["batch_size"] for size in said["batch_stats"]] == [2, 4]
