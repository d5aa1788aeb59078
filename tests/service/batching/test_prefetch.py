"""Prefetching: a full batch is ready while another is computed, if computes are short."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from batchers import LIMIT, Model, assert_answers, batching, busy, rows, started, until

from service.errors import QueueFullError

pytestmark = pytest.mark.timeout(20)  # a longer test hangs

QUICK: dict[str, Any] = {"prefetch_seconds": 1.0, "full_seconds": 0.001}


def block_until(condition: Callable[[], Any]) -> None:
    """Block the event loop until the condition holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def test_the_worker_continues_with_a_full_batch_while_the_event_loop_is_blocked() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(12)]
        await asyncio.sleep(0)
        block_until(lambda: len(model.batches) == 2)
        for i, task in enumerate(tasks):
            assert_answers(await task, i)
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


async def test_the_rest_of_a_large_request_is_prefetched_too() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        (large,) = await started(batcher.submit(rows(*range(9))))
        block_until(lambda: len(model.batches) == 2)
        assert_answers(await large, *range(9))
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("timing", "count"),
    [
        ({"prefetch_seconds": 0.001, "full_seconds": 0.1}, 4),
        ({"prefetch_seconds": 1.0, "full_seconds": 0.0}, 4),
        (QUICK, 3),
    ],
    ids=["a slow one", "one of unknown timing", "one not full"],
)
async def test_further_batches_wait_in_the_queue(timing: dict[str, float], count: int) -> None:
    model = Model()
    async with batching(model, **timing) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(count)])
        assert batcher.queued_rows == count
    for i, task in enumerate(tasks):
        assert_answers(await task, i)


async def test_at_most_one_batch_is_prefetched_and_others_follow_in_order() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(11)])
        assert batcher.queued_rows == 7
    for i, task in enumerate(tasks):
        assert_answers(await task, i)
    assert model.batches == [[-1], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


async def test_a_prefetched_batch_counts_in_the_expected_wait() -> None:
    model = Model()
    timing = {"prefetch_seconds": 1.0, "full_seconds": 0.3, "max_wait": 0.8}
    async with batching(model, **timing) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(8)])
        with pytest.raises(QueueFullError, match=r"4 rows waiting, which take 0\.9 seconds"):
            batcher.check_capacity()
    await asyncio.gather(*tasks)


async def test_a_prefetched_batch_is_computed_whole_if_the_one_before_it_is_abandoned() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        model.gate.clear()
        first = await started(*[batcher.submit(rows(i)) for i in range(4)])
        await until(lambda: model.batches)
        large, last = await started(batcher.submit(rows(4, 5, 6)), batcher.submit(rows(7)))
        assert batcher.queued_rows == 0
        batcher.abandon_hung(0.0)
        model.gate.set()
        for i, task in enumerate(first):
            assert_answers(await task, i)
        assert_answers(await large, 4, 5, 6)
        assert_answers(await last, 7)
    assert model.batches == [[0, 1, 2, 3], [0], [1], [2], [3], [4, 5, 6, 7]]


async def test_retries_after_an_abandoned_compute_do_not_fill_the_worker() -> None:
    responses: list[object] = []
    model = Model()
    async with batching(model, full_seconds=1.0) as batcher:
        model.gate.clear()
        batcher.enqueue(rows(*range(4)), lambda _: batcher.enqueue(rows(20), responses.append))
        await until(lambda: model.batches)
        for i in range(4, 20):
            batcher.enqueue(rows(i), responses.append)
        batcher.abandon_hung(0.0)
        assert batcher.queued_rows == 13
        model.gate.set()
        await until(lambda: len(responses) == 17)


async def test_closing_ends_the_worker_after_its_last_batch() -> None:
    responses: list[object] = []
    model, held = Model(), threading.Event()
    async with batching(model, prefetch_seconds=1.0, full_seconds=1e-6) as batcher:
        model.gate.clear()
        for i in range(8):
            batcher.enqueue(rows(i), responses.append)
        for i in range(8, 14):
            batcher.enqueue(rows(i), responses.append, timeout=0.001)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        time.sleep(0.002)  # noqa: ASYNC251 - beyond the deadlines, before they are checked
        first, model.gate = model.gate, held
        first.set()
        block_until(lambda: len(model.batches) == 2)
        await until(lambda: len(responses) >= 10)  # the first batch, and all late requests
        held.set()
        time.sleep(0.05)  # noqa: ASYNC251 - the second batch ends, and the event loop does not know
        batcher.abandon_hung(0.0)
        await closing
    assert len(responses) == 14
