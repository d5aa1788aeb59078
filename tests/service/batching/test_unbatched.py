"""A request whose rows may depend on each other is one compute, as it came."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from batchers import with_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batch import Arrays, InferenceResponse
from service.batching.batcher import MicroBatcher
from service.concurrency import wait_for_callback
from service.errors import ModelFaultError, QueueFullError, ServiceError

pytestmark = pytest.mark.timeout(20)  # a longer test hangs

MAX_ROWS = 4
QUEUE_ROWS = 1_000


class Mixing:
    """Gives each row itself, and the sum of all rows of the batch; or fails."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.sizes: list[int] = []
        self._fault = fault

    def __call__(self, inputs: Arrays) -> Arrays:
        """Compute one batch."""
        x = inputs["x"]
        self.sizes.append(len(x))
        if self._fault is not None:
            raise self._fault
        return {"y": np.full(len(x), x.sum()), "x": x.copy()}


def batcher(model: Mixing, **options: Any) -> MicroBatcher:
    sizes = {"max_batch_rows": MAX_ROWS, "max_queue_rows": QUEUE_ROWS}
    return MicroBatcher(model, **with_costs({**sizes, "name": "mixing", **options}))


async def ask(
    micro_batcher: MicroBatcher, x: Sequence[float], *, whole: bool = True
) -> InferenceResponse | ServiceError:
    inputs = {"x": np.array(x, np.float64)}
    response: InferenceResponse | ServiceError
    response = await wait_for_callback(
        lambda done: micro_batcher.enqueue(inputs, done, whole=whole)
    )
    return response


@given(
    requests=st.lists(
        st.tuples(st.lists(st.integers(-99, 99), min_size=1, max_size=3 * MAX_ROWS), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    inline=st.sampled_from([0, 2, MAX_ROWS, 100]),
    delay=st.sampled_from([0.0, 0.001]),
)
@settings(max_examples=100, deadline=None)
async def test_a_whole_request_is_never_batched_with_others(
    requests: list[tuple[list[int], bool]], inline: int, delay: float
) -> None:
    model = Mixing()
    micro_batcher = batcher(model, inline_rows=inline, max_delay=delay)
    responses = await asyncio.gather(*(ask(micro_batcher, x, whole=whole) for x, whole in requests))
    assert micro_batcher._queue.count_batches() == 0
    await micro_batcher.close()
    for (x, whole), response in zip(requests, responses, strict=True):
        assert isinstance(response, InferenceResponse)
        assert response.outputs["x"].tolist() == x
        if whole:
            assert response.outputs["y"].tolist() == [sum(x)] * len(x)
            assert response.batch_rows == len(x)
    whole_rows = [len(x) for x, whole in requests if whole]
    assert all(model.sizes.count(size) >= whole_rows.count(size) for size in whole_rows)
    assert all(size in whole_rows for size in model.sizes if size > MAX_ROWS)


async def test_a_request_too_large_for_the_memory_is_not_computed_in_halves() -> None:
    model = Mixing(MemoryError("out of memory"))
    micro_batcher = batcher(model)
    assert isinstance(await ask(micro_batcher, [1, 2, 3]), ModelFaultError)
    await micro_batcher.close()
    assert model.sizes == [3]


async def test_another_one_is_halved_beside_it() -> None:
    model = Mixing(MemoryError("out of memory"))
    micro_batcher = batcher(model)
    assert isinstance(await ask(micro_batcher, [1, 2], whole=False), ModelFaultError)
    await micro_batcher.close()
    assert model.sizes == [2, 1]


async def test_the_wait_is_reckoned_in_requests() -> None:
    micro_batcher = batcher(Mixing(), full_seconds=1.0, max_wait=2.5)
    waiting = [asyncio.create_task(ask(micro_batcher, [1])) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="which take"):
        micro_batcher.check_capacity()
    assert all(
        isinstance(response, InferenceResponse) for response in await asyncio.gather(*waiting)
    )
    await micro_batcher.close()


async def test_a_request_does_not_wait_for_others() -> None:
    micro_batcher = batcher(Mixing(), max_delay=math.inf)
    assert isinstance(await ask(micro_batcher, [1]), InferenceResponse)
    await micro_batcher.close()


async def test_others_wait_for_company_no_longer_than_until_it_comes() -> None:
    micro_batcher = batcher(Mixing(), max_delay=math.inf)
    waiting = asyncio.create_task(ask(micro_batcher, [1], whole=False))
    await asyncio.sleep(0)
    responses = await asyncio.gather(ask(micro_batcher, [2]), waiting)
    assert [
        response.batch_rows for response in responses if isinstance(response, InferenceResponse)
    ] == [1, 1]
    await micro_batcher.close()
