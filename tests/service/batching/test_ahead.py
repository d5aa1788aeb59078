"""A full batch lies ready while another is computed, where that takes short."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from batchers import LIMIT, Model, assert_answers, batching, busy, on_a_loop, rows, started, until

from service.errors import QueueFullError

QUICK: dict[str, Any] = {"ahead_seconds": 1.0, "full_seconds": 0.001}


def stand_still_until(condition: Callable[[], Any]) -> None:
    """Keep the event loop from turning meanwhile."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@on_a_loop
async def test_the_worker_goes_on_with_a_full_batch_while_the_event_loop_is_held_up() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(12)]
        await asyncio.sleep(0)
        stand_still_until(lambda: len(model.batches) == 2)
        for i, task in enumerate(tasks):
            assert_answers(await task, i)
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@on_a_loop
async def test_the_rest_of_a_large_request_lies_ready_too() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        (large,) = await started(batcher.submit(rows(*range(9))))
        stand_still_until(lambda: len(model.batches) == 2)
        assert_answers(await large, *range(9))
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("pace", "count"),
    [
        ({"ahead_seconds": 0.001, "full_seconds": 0.1}, 4),
        ({"ahead_seconds": 1.0, "full_seconds": 0.0}, 4),
        (QUICK, 3),
    ],
    ids=["a slow one", "one of unknown pace", "one not full"],
)
@on_a_loop
async def test_others_wait_in_the_queue(pace: dict[str, float], count: int) -> None:
    model = Model()
    async with batching(model, **pace) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(count)])
        assert batcher.queued_rows == count
    for i, task in enumerate(tasks):
        assert_answers(await task, i)


@on_a_loop
async def test_no_more_than_one_lies_ready_and_the_others_take_turns() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(11)])
        assert batcher.queued_rows == 7
    for i, task in enumerate(tasks):
        assert_answers(await task, i)
    assert model.batches == [[-1], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@on_a_loop
async def test_what_lies_ready_counts_in_how_long_the_queue_takes() -> None:
    model = Model()
    pace = {"ahead_seconds": 1.0, "full_seconds": 0.3, "max_wait": 0.8}
    async with batching(model, **pace) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(i)) for i in range(8)])
        with pytest.raises(QueueFullError, match=r"4 rows waiting, which take 0\.9 seconds"):
            batcher.check_room()
    await asyncio.gather(*tasks)


@on_a_loop
async def test_what_lies_ready_is_computed_whole_where_the_one_before_it_is_given_up() -> None:
    model = Model()
    async with batching(model, **QUICK) as batcher:
        model.gate.clear()
        first = await started(*[batcher.submit(rows(i)) for i in range(4)])
        await until(lambda: model.batches)
        large, last = await started(batcher.submit(rows(4, 5, 6)), batcher.submit(rows(7)))
        assert batcher.queued_rows == 0
        batcher.give_up_after(0.0)
        model.gate.set()
        for i, task in enumerate(first):
            assert_answers(await task, i)
        assert_answers(await large, 4, 5, 6)
        assert_answers(await last, 7)
    assert model.batches == [[0, 1, 2, 3], [0], [1], [2], [3], [4, 5, 6, 7]]


@on_a_loop
async def test_who_asks_again_when_a_compute_is_given_up_does_not_fill_the_worker() -> None:
    told: list[object] = []
    model = Model()
    async with batching(model, full_seconds=1.0) as batcher:
        model.gate.clear()
        batcher.enqueue(rows(*range(4)), lambda _: batcher.enqueue(rows(20), told.append))
        await until(lambda: model.batches)
        for i in range(4, 20):
            batcher.enqueue(rows(i), told.append)
        batcher.give_up_after(0.0)
        assert batcher.queued_rows == 13
        model.gate.set()
        await until(lambda: len(told) == 17)


@on_a_loop
async def test_closing_ends_the_worker_only_once_it_has_nothing_left() -> None:
    told: list[object] = []
    model, held = Model(), threading.Event()
    async with batching(model, **QUICK) as batcher:
        model.gate.clear()
        for i in range(8):
            batcher.enqueue(rows(i), told.append)
        for i in range(8, 14):
            batcher.enqueue(rows(i), told.append, timeout=0.001)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        time.sleep(0.002)  # noqa: ASYNC251 - beyond the deadlines, before they are looked at
        first, model.gate = model.gate, held
        first.set()
        stand_still_until(lambda: len(model.batches) == 2)
        await until(lambda: len(told) >= 10)  # the first batch, and all who were too late
        held.set()
        time.sleep(0.05)  # noqa: ASYNC251 - the second one ends, and the event loop does not know
        batcher.give_up_after(0.0)
        await closing
    assert len(told) == 14
