"""The guarantees of the micro-batcher under random schedules."""

import asyncio
import math
import time
from collections import Counter
from typing import NamedTuple

import pytest
from batchers import GOOD, MISCOUNT, POISON, Model, assert_answers, batching, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batch import Arrays, InferenceResponse
from service.batching.batcher import MicroBatcher
from service.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    ModelFaultError,
    NotReadyError,
    QueueFullError,
)

pytestmark = pytest.mark.timeout(100)  # a longer test hangs


class Visit(NamedTuple):
    """One caller of a random schedule; times in milliseconds."""

    rows: int
    mark: int
    arrives: int
    timeout: int | None
    leaves: int | None
    caller: str


moments = st.integers(0, 12)
visits = st.builds(
    Visit,
    rows=st.integers(1, 7),
    mark=st.sampled_from([GOOD] * 6 + [POISON, MISCOUNT]),
    arrives=moments,
    timeout=st.none() | moments,
    leaves=st.none() | st.none() | moments,
    caller=st.sampled_from("abc"),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(visits, min_size=1, max_size=25),
    max_batch_rows=st.integers(1, 6),
    spare_queue_rows=st.integers(0, 30),
    max_delay=st.sampled_from([0.0, 0.0, 0.002]),
    inline_rows=st.sampled_from([0, 0, 1, 3, 6]),
    enough_requests=st.sampled_from([1, 2, 16]),
    prefetch_seconds=st.sampled_from([0.0, 0.002, 1.0]),
    compute_seconds=st.sampled_from([0.0, 0.0005, 0.003]),
    closes=st.none() | moments,
)
async def test_every_caller_gets_exactly_its_own_rows_or_one_expected_error(
    schedule: list[Visit],
    max_batch_rows: int,
    spare_queue_rows: int,
    max_delay: float,
    inline_rows: int,
    enough_requests: int,
    prefetch_seconds: float,
    compute_seconds: float,
    closes: int | None,
) -> None:
    model = Model()

    def compute(inputs: Arrays) -> Arrays:
        time.sleep(compute_seconds)
        return model(inputs)

    max_queue_rows = max_batch_rows + spare_queue_rows

    async def call(
        batcher: MicroBatcher, index: int, visit: Visit
    ) -> InferenceResponse | BaseException:
        inputs = rows(*range(100 * index, 100 * index + visit.rows), mark=visit.mark)
        timeout = None if visit.timeout is None else visit.timeout / 1000
        await asyncio.sleep(visit.arrives / 1000)
        task = asyncio.create_task(batcher.submit(inputs, timeout=timeout, caller=visit.caller))
        if visit.leaves is not None:
            await asyncio.sleep(visit.leaves / 1000)
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async with batching(
        compute,
        max_batch_rows=max_batch_rows,
        max_queue_rows=max_queue_rows,
        max_delay=max_delay,
        inline_rows=inline_rows,
        enough_requests=enough_requests,
        prefetch_seconds=prefetch_seconds,
        full_seconds=0.001,
    ) as batcher:
        calls = asyncio.gather(*[call(batcher, *numbered) for numbered in enumerate(schedule)])
        if closes is not None:
            await asyncio.sleep(closes / 1000)
            await batcher.close()
        outcomes = await calls

    computed = Counter(i for batch in model.batches for i in batch)
    halvings = math.ceil(math.log2(max_batch_rows))
    assert all(times <= 1 + halvings for times in computed.values())
    assert all(len(batch) <= max_batch_rows for batch in model.batches)
    for index, (visit, outcome) in enumerate(zip(schedule, outcomes, strict=True)):
        match outcome:
            case InferenceResponse():
                assert visit.mark == GOOD
                assert_answers(outcome, *range(100 * index, 100 * index + visit.rows))
            case ModelFaultError():
                assert visit.mark != GOOD
            case DeadlineExceededError():
                assert visit.timeout is not None
            case asyncio.CancelledError():
                assert visit.leaves is not None
            case NotReadyError():
                assert closes is not None
            case BodyTooLargeError():
                assert visit.rows > max_queue_rows
            case QueueFullError():
                assert sum(other.rows for other in schedule) > max_queue_rows >= visit.rows
            case _:
                pytest.fail(f"unexpected {outcome!r}")
