"""A model whose rows depend on each other: each request is one compute, as it came."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from batchers import on_a_loop
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.batch import Answer, Arrays
from service.batching.batcher import MicroBatcher
from service.callbacks import called_back
from service.errors import ModelFaultError, QueueFullError, ServiceError

MOST_ROWS = 4
QUEUE_ROWS = 1_000


class Mixing:
    """Tells every row the sum of all that were computed with it; fails where it is asked to."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.sizes: list[int] = []
        self._fault = fault

    def __call__(self, inputs: Arrays) -> Arrays:
        """Compute one batch."""
        x = inputs["x"]
        self.sizes.append(len(x))
        if self._fault is not None:
            raise self._fault
        return {"y": np.full(len(x), x.sum())}


def batcher(model: Mixing, **options: Any) -> MicroBatcher:
    sizes = {"max_batch_rows": MOST_ROWS, "max_queue_rows": QUEUE_ROWS}
    return MicroBatcher(model, **{**sizes, "name": "mixing", "whole": True, **options})


async def ask(asked: MicroBatcher, x: Sequence[float]) -> Answer | ServiceError:
    inputs = {"x": np.array(x, np.float64)}
    answer: Answer | ServiceError
    answer = await called_back(lambda done: _given_up(asked.enqueue(inputs, done)))
    return answer


def _given_up(_: object) -> Any:
    return lambda: None


@given(
    requests=st.lists(
        st.lists(st.integers(-99, 99), min_size=1, max_size=3 * MOST_ROWS), min_size=1, max_size=12
    ),
    inline=st.sampled_from([0, 2, MOST_ROWS, 100]),
    delay=st.sampled_from([0.0, 0.001]),
)
@settings(max_examples=60, deadline=None)
def test_whoever_asks_at_once_gets_what_the_request_alone_gives(
    requests: list[list[int]], inline: int, delay: float
) -> None:
    @on_a_loop
    async def run() -> None:
        model = Mixing()
        asked = batcher(model, inline_rows=inline, max_delay=delay)
        answers = await asyncio.gather(*(ask(asked, x) for x in requests))
        await asked.close()
        for x, answer in zip(requests, answers, strict=True):
            assert isinstance(answer, Answer)
            assert answer.outputs["y"].tolist() == [sum(x)] * len(x)
            assert answer.batch_rows == len(x)
        assert sorted(model.sizes) == sorted(map(len, requests))

    run()


@on_a_loop
async def test_one_that_is_too_large_for_the_memory_is_not_computed_in_halves() -> None:
    model = Mixing(MemoryError("out of memory"))
    asked = batcher(model)
    assert isinstance(await ask(asked, [1, 2, 3]), ModelFaultError)
    await asked.close()
    assert model.sizes == [3]


@on_a_loop
async def test_the_wait_is_reckoned_in_requests() -> None:
    asked = batcher(Mixing(), full_seconds=1.0, max_wait=2.5)
    waiting = [asyncio.create_task(ask(asked, [1])) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="which take"):
        asked.check_room()
    assert all(isinstance(one, Answer) for one in await asyncio.gather(*waiting))
    await asked.close()


@on_a_loop
async def test_it_does_not_wait_for_company() -> None:
    asked = batcher(Mixing(), max_delay=math.inf)
    assert isinstance(await ask(asked, [1]), Answer)
    await asked.close()
