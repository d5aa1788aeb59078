"""Callers share the batches equally, and a large request does not lock out small ones."""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from batchers import Model, assert_answers, batching, busy, rows, started
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batch import InferenceRequest, Slice
from service.batching.batcher import MAX_QUEUE_RATIO
from service.batching.request_queue import MAX_IDLE_CALLERS, RequestQueue
from service.errors import QueueFullError

pytestmark = pytest.mark.timeout(60)  # a longer test hangs

property_test = settings(max_examples=150, deadline=None)
sizes = st.integers(1, 4) | st.integers(1, 200)


def request_of(rows: int, caller: str = "", *, whole: bool = False) -> InferenceRequest:
    inputs = {"x": np.empty((rows, 0))}
    return InferenceRequest(inputs, rows, rows, 0.0, math.inf, lambda _: None, caller, whole=whole)


def queue_of(max_rows: int) -> RequestQueue:
    return RequestQueue(lambda _: None, max_rows)


def rows_by_caller(batch: Sequence[Slice]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for request, start, stop in batch:
        counts[request.caller] += stop - start
    return counts


# Callers


@property_test
@given(
    sent=st.lists(st.lists(sizes, min_size=1, max_size=5), min_size=2, max_size=5),
    max_rows=st.integers(1, 100),
    batches=st.integers(1, 60),
)
async def test_callers_that_keep_the_queue_full_get_equal_rows(
    sent: list[list[int]], max_rows: int, batches: int
) -> None:
    queue = queue_of(max_rows)
    served: Counter[str] = Counter()
    names = [f"caller {number}" for number in range(len(sent))]
    for _ in range(batches):
        for name, requests in zip(names, sent, strict=True):
            while (caller := queue._callers.get(name)) is None or caller.rows < 2 * max_rows:
                for size in requests:
                    queue.add(request_of(size, name))
        batch, _late = queue.next_batch()
        served += rows_by_caller(batch)
        assert served.total() % max_rows == 0
        least = min(served[name] for name in names)
        assert max(served.values()) - least <= queue.quantum


@property_test
@given(size=st.integers(1, 2_000), max_rows=st.integers(1, 100))
async def test_a_caller_alone_gets_whole_batches_each_of_one_slice(
    size: int, max_rows: int
) -> None:
    queue = queue_of(max_rows)
    queue.add(request_of(size))
    order = []
    while queue.rows:
        ((_, start, stop),), _late = queue.next_batch()
        order.append((start, stop))
    assert order == [(i, min(i + max_rows, size)) for i in range(0, size, max_rows)]


@property_test
@given(whole_rows=st.integers(1, 300), max_rows=st.integers(1, 64), senders=st.integers(1, 4))
async def test_a_whole_request_costs_its_caller_as_many_rows_and_at_least_a_batch(
    whole_rows: int, max_rows: int, senders: int
) -> None:
    queue = queue_of(max_rows)
    served: Counter[str] = Counter()
    for _ in range(40):
        for number in range(senders):  # each sends the next one when it has the response
            name = f"whole {number}"
            if name not in queue._callers or not queue._callers[name].requests:
                queue.add(request_of(whole_rows, name, whole=True))
        while "rows" not in queue._callers or queue._callers["rows"].rows < 2 * max_rows:
            queue.add(request_of(3, "rows"))
        batch, _late = queue.next_batch()
        for name, count in rows_by_caller(batch).items():
            served[name] += count if name == "rows" else max(count, max_rows)
    # One whole request may be ahead of its share, and no caller is behind by more than its turns.
    assert max(served.values()) - served["rows"] <= max(whole_rows, max_rows) + queue.quantum
    if len(served) > senders:
        allowed = max(whole_rows, max_rows) + 2 * queue.quantum
        assert all(served["rows"] - served[name] <= allowed for name in served)


async def test_callers_that_are_all_in_debt_are_served_at_once() -> None:
    queue = queue_of(8)
    for name in "abc":
        for _ in range(2):
            queue.add(request_of(10**9, name, whole=True))
    order = [queue.next_batch()[0][0].request.caller for _ in range(6)]
    assert order == ["a", "b", "c"] * 2


async def test_the_queue_forgets_callers_without_requests() -> None:
    queue = queue_of(4)
    for number in range(3 * MAX_IDLE_CALLERS):
        queue.add(request_of(1, str(number)))
        queue.next_batch()
    assert len(queue._callers) <= MAX_IDLE_CALLERS
    assert not queue._ring


# Requests


@property_test
@given(steps=st.lists(st.integers(1, 30) | st.none(), max_size=40), max_rows=st.integers(1, 40))
async def test_one_row_requests_of_one_caller_are_first_come_first_served(
    steps: list[int | None], max_rows: int
) -> None:
    queue = queue_of(max_rows)
    added, served = [], []
    for count in [*steps, *[None] * 1_300]:
        if count is None:
            batch, _late = queue.next_batch()
            served += [part.request for part in batch]
        else:
            new = [request_of(1) for _ in range(count)]
            added += new
            for request in new:
                queue.add(request)
    assert served == added


@property_test
@given(
    size=st.integers(1, 400),
    own=st.lists(sizes, max_size=6),
    others=st.lists(st.lists(sizes, min_size=1, max_size=4), max_size=4),
    max_rows=st.integers(1, 100),
)
async def test_no_request_starves(
    size: int, own: list[int], others: list[list[int]], max_rows: int
) -> None:
    """Each request that is computed is followed by another one of its caller and size."""
    queue = queue_of(max_rows)
    for name, limit in enumerate([own, *others]):
        for row_count in limit:
            queue.add(request_of(row_count, str(name)))
    target = request_of(size, "0")
    queue.add(target)
    turns = math.ceil(size / queue.quantum)
    limit = (turns + 1) * (1 + len(own)) * queue.quantum
    bound = math.ceil(limit * (1 + len(others)) / max_rows) + 1
    for _ in range(bound):
        batch, _late = queue.next_batch()
        if not target.waiting:
            return
        for request, _, stop in batch:
            if stop == request.rows:
                queue.add(request_of(request.rows, request.caller))
    pytest.fail(f"{target.waiting} of {size} rows wait after {bound} batches")


@pytest.mark.parametrize("caller", ["", "another"])
async def test_a_small_request_enters_the_next_batch_beside_a_large_one(
    caller: str,
) -> None:
    model = Model()
    async with batching(model, max_batch_rows=8) as batcher:
        model.gate.clear()
        (large,) = await started(batcher.submit(rows(*range(40))))  # its first batch is computed
        (small,) = await started(batcher.submit(rows(100), caller=caller))
        model.gate.set()
        assert_answers(await small, 100)
        assert not large.done()
        assert_answers(await large, *range(40))
    (place,) = [i for i, batch in enumerate(model.batches) if 100 in batch]
    assert place == 1


# Admission


LIMITS: dict[str, Any] = {"max_batch_rows": 16, "max_queue_rows": 160}  # a turn has two rows


async def test_a_large_request_does_not_use_up_the_room_of_others() -> None:
    model = Model()
    async with batching(model, **LIMITS) as batcher, busy(model, batcher):
        tasks = await started(batcher.submit(rows(*range(160)), caller="a"))
        for caller in "ab":
            tasks += await started(
                *[batcher.submit(rows(1_000 + i), caller=caller) for i in range(30)]
            )
        tasks += await started(batcher.submit(rows(*range(2_000, 2_040)), caller="b"))
        with pytest.raises(QueueFullError, match="260 rows waiting and room for 160"):
            batcher.check_capacity(3, "a")  # all rows of a's are computed before its last one
        with pytest.raises(QueueFullError):
            batcher.check_capacity(50, "b")
        batcher.check_capacity(50, "c")
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)


async def test_a_caller_that_fills_the_room_is_refused_before_others() -> None:
    model = Model()
    async with batching(model, **LIMITS) as batcher, busy(model, batcher):
        tasks = []
        with pytest.raises(QueueFullError):  # noqa: PT012 - it ends the loop
            while True:
                batcher.check_capacity(1, "a")
                tasks += await started(batcher.submit(rows(1), caller="a"))
        assert batcher.queued_rows == 160
        tasks += await started(*[batcher.submit(rows(2), caller="b") for _ in range(80)])
        with pytest.raises(QueueFullError):
            batcher.check_capacity(1, "b")
        batcher.check_capacity(1, "c")
    await asyncio.gather(*tasks)


async def test_all_callers_together_have_a_bounded_number_of_rows_waiting() -> None:
    model = Model()
    async with batching(model, **LIMITS) as batcher, busy(model, batcher):
        done = partial(batcher.enqueue, done_callback=lambda _: None)
        for number in range(200):
            for size in (160, 40, 10, 2, 1):
                try:
                    while True:
                        done(rows(*range(size)), caller=str(number))
                except QueueFullError:
                    pass
            assert batcher.queued_rows <= MAX_QUEUE_RATIO * 160
        assert batcher.queued_rows > 2 * 160


async def test_a_caller_waits_for_its_own_rows_and_as_many_of_each_other_caller() -> None:
    model = Model()
    limits = {"max_queue_rows": 10_000, "full_seconds": 1.0, "max_wait": 2.5}
    async with batching(model, max_batch_rows=16, **limits) as batcher, busy(model, batcher):
        tasks = await started(batcher.submit(rows(*range(160)), caller="a"))
        # Of a's next request, those of one turn follow one turn of the first, which is two rows.
        batcher.check_capacity(2, "a")
        with pytest.raises(QueueFullError, match=r"160 rows waiting, which take 11\.0 seconds"):
            batcher.check_capacity(160, "a")
        batcher.check_capacity(30, "b")
        with pytest.raises(QueueFullError, match=r"32 rows waiting, which take 3\.0 seconds"):
            batcher.check_capacity(32, "b")
    await asyncio.gather(*tasks)


async def test_whole_requests_of_one_caller_do_not_add_to_the_wait_of_another() -> None:
    model = Model()
    limits = {"max_batch_rows": 16, "full_seconds": 1.0, "max_wait": 2.5}
    async with batching(model, **limits) as batcher, busy(model, batcher):
        for _ in range(2):
            batcher.enqueue(rows(1), lambda _: None, whole=True, caller="a")
        with pytest.raises(QueueFullError, match=r"2 rows waiting, which take 3\.0 seconds"):
            batcher.check_capacity(1, "a")
        batcher.check_capacity(1, "b")


@pytest.mark.slow
async def test_the_next_row_is_found_in_constant_time() -> None:
    async def seconds(callers: int) -> float:
        queue = queue_of(256)
        for number in range(8_192):
            queue.add(request_of(1, str(number % callers)))
        started = time.process_time()
        while queue.rows:
            queue.next_batch()
        return time.process_time() - started

    measured: dict[int, list[float]] = defaultdict(list)
    for _ in range(5):
        for callers in (64, 4_096):
            measured[callers].append(await seconds(callers))
    assert min(measured[4_096]) < 5 * min(measured[64])
