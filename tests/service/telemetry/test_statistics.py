"""Statistics of a model: the counts match the requests, and durations are within the test's own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from gated import GUILTY, Gated
from tiny import write_tiny

from models.package.model_package import ModelPackage
from service.batching.batch import Timings
from service.batching.batcher import BatchReport
from service.errors import QueueFullError
from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.settings import Settings
from service.telemetry.statistics import Duration, ModelStatistics

pytestmark = pytest.mark.timeout(60)  # a longer test hangs

PARTS = ("compute_input", "compute_infer", "compute_output")


def test_a_duration_has_a_count_and_a_total() -> None:
    duration = Duration()
    assert duration.to_json() == {"count": 0, "ns": 0}
    duration.add(0.5)
    duration.add(1.0, times=4)
    assert duration.to_json() == {"count": 5, "ns": 1_500_000_000}


def test_before_the_first_request_every_count_is_zero() -> None:
    text = ModelStatistics().to_json("line", "3")
    zero = {"count": 0, "ns": 0}
    parts = ("success", "fail", "queue", *PARTS, "cache_hit", "cache_miss")
    assert text == {
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


def test_batches_are_counted_by_request_and_by_size() -> None:
    statistics = ModelStatistics()
    statistics.executed(
        BatchReport(8, 3, Timings(0.001, 0.010, 0.002), [0.125, 0.25], 4, answered_seconds=0.5)
    )
    statistics.executed(BatchReport(2, 1, Timings(0.002, 0.020, 0.003)))
    statistics.executed(
        BatchReport(8, 2, Timings(0.003, 0.030, 0.004), [0.5], 10, answered_seconds=0.75)
    )
    statistics.failed(2.0)
    text = statistics.to_json("line", "3")
    assert (text["inference_count"], text["execution_count"]) == (14, 3)
    spent = text["inference_stats"]
    assert spent["success"] == {"count": 3, "ns": 1_250_000_000}
    assert spent["queue"] == {"count": 3, "ns": 875_000_000}
    assert spent["fail"] == {"count": 1, "ns": 2_000_000_000}
    # Each request counts its whole batch: 3 of the first, 1 of the second, 2 of the third.
    assert spent["compute_input"] == {"count": 6, "ns": 11_000_000}
    assert spent["compute_infer"] == {"count": 6, "ns": 110_000_000}
    assert spent["compute_output"] == {"count": 6, "ns": 17_000_000}
    assert text["batch_stats"] == [
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


@asynccontextmanager
async def measured(
    package: ModelPackage, **settings: Any
) -> AsyncIterator[tuple[Predictor, Gated, dict[str, Any]]]:
    """Open a predictor; after the block, check its statistics and write them to the dictionary."""
    runtime = Gated()
    predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
    text: dict[str, Any] = {}
    started = time.monotonic()
    try:
        yield predictor, runtime, text
    finally:
        runtime.gate.set()
        await predictor.close()
    took = (time.monotonic() - started) * 1e9
    text |= predictor.statistics.to_json("counted", "1")
    by_size = text["batch_stats"]
    # One thread computes, so batches follow each other.
    assert sum(size[part]["ns"] for size in by_size for part in PARTS) <= took
    assert sum(size["compute_infer"]["count"] for size in by_size) == text["execution_count"]
    for part in ("success", "queue", *PARTS):
        spent = text["inference_stats"][part]
        assert 0 <= spent["ns"] <= spent["count"] * took
    waited = text["inference_stats"]["queue"]
    assert waited["count"] == text["inference_stats"]["success"]["count"]
    assert waited["ns"] <= text["inference_stats"]["success"]["ns"]


def column(*rows: float) -> dict[str, Any]:
    return {"x": np.array(rows, np.float32).reshape(-1, 1)}


async def test_the_counts_match_the_requests(package: ModelPackage) -> None:
    sizes = [1 + number % 5 for number in range(50)]
    before = time.time_ns() // 1_000_000

    async with measured(package, max_batch_rows=8) as (predictor, runtime, text):
        runtime.gate.set()
        await asyncio.gather(*(predictor.predict(column(*range(size))) for size in sizes))
    assert text["inference_count"] == sum(sizes)
    assert text["inference_stats"]["success"]["count"] == len(sizes)
    assert text["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert text["last_inference"] >= before
    rows = sum(size["batch_size"] * size["compute_infer"]["count"] for size in text["batch_stats"])
    assert rows == sum(sizes)


async def test_a_slow_compute_counts_as_compute_and_as_wait_of_the_next_requests(
    package: ModelPackage,
) -> None:
    async with measured(package) as (predictor, runtime, text):
        first = asyncio.create_task(predictor.predict(column(1)))
        await asyncio.to_thread(runtime.entered.wait)
        second = asyncio.create_task(predictor.predict(column(2, 3)))
        await asyncio.sleep(0.05)
        runtime.gate.set()
        await asyncio.gather(first, second)
    by_size = {size["batch_size"]: size for size in text["batch_stats"]}
    assert by_size.keys() == {1, 2}
    assert by_size[1]["compute_infer"]["ns"] >= 50_000_000
    assert by_size[2]["compute_infer"]["ns"] < by_size[1]["compute_infer"]["ns"]
    assert text["inference_stats"]["queue"]["ns"] >= 50_000_000


async def test_failures_are_counted_and_their_rows_are_not(package: ModelPackage) -> None:
    async with measured(package, max_batch_rows=8, max_queue_rows=10) as (predictor, runtime, text):
        first = asyncio.create_task(predictor.predict(column(0)))
        await asyncio.to_thread(runtime.entered.wait)
        tasks = [
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
        outcomes = await asyncio.gather(first, *tasks, left, late, return_exceptions=True)
        assert [isinstance(outcome, BaseException) for outcome in outcomes] == [
            *(False, False, True, False),
            *(True, True),
        ]
    assert text["inference_stats"]["success"]["count"] == 3
    assert text["inference_count"] == 1 + 2 + 1
    # The request that fails, the cancelled one, the late one, and the one refused by the full
    # queue.
    assert text["inference_stats"]["fail"]["count"] == 4
    assert text["inference_stats"]["fail"]["ns"] >= 50_000_000
    # The batch with the failing request counts once; its repetitions are part of its compute.
    assert text["execution_count"] == 2


async def test_a_split_request_counts_once_and_each_of_its_batches_too(
    package: ModelPackage,
) -> None:
    async with measured(package, max_batch_rows=4) as (predictor, runtime, text):
        runtime.gate.set()
        await predictor.predict(column(*range(10)))
    assert (text["inference_count"], text["execution_count"]) == (10, 3)
    assert text["inference_stats"]["success"]["count"] == 1
    assert [size["batch_size"] for size in text["batch_stats"]] == [2, 4]
