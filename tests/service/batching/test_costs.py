"""The costs of batches: first as timed at the start, then as the batches that are computed."""

import asyncio
import random
import threading
import time
from collections import Counter

import pytest
from batchers import Model, batching, busy, rows, started, until
from hypothesis import given
from hypothesis import strategies as st

from service.batching.batch import Arrays
from service.batching.batcher import MicroBatcher
from service.batching.costs import CostModel
from service.errors import DeadlineExceededError, QueueFullError

TIMED = {1: 0.001, 2: 0.001, 4: 0.002, 8: 0.004}


def test_the_first_costs_are_those_of_the_start_and_grow_in_proportion_beyond() -> None:
    costs = CostModel(TIMED)
    assert [costs.seconds(count) for count in (1, 2, 3, 8)] == [0.001, 0.001, 0.0015, 0.004]
    assert costs.seconds(16) == pytest.approx(0.008)
    assert costs.seconds(1, size=32.0) == pytest.approx(0.016)
    assert [costs.rows_within(seconds) for seconds in (0.0005, 0.001, 0.003, 1.0)] == [0, 2, 6, 8]


def test_without_timings_the_first_batches_are_the_start() -> None:
    costs = CostModel()
    assert costs.seconds(4) == 0.0
    costs.observe(2, 0.002)
    assert costs.seconds(2) == pytest.approx(0.002)
    assert costs.seconds(4) == pytest.approx(0.004)
    costs.observe(4, 0.003)
    assert costs.seconds(4) == pytest.approx(0.003)


@given(
    ratio=st.floats(0.1, 10), noise=st.floats(0, 0.3), outliers=st.floats(0, 0.3),
    count=st.integers(1, 8), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_costs_follow_the_median_whatever_the_outliers(
    ratio: float, noise: float, outliers: float, count: int, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    costs, true = CostModel(TIMED), ratio * CostModel(TIMED).seconds(count)
    for _ in range(300):
        is_outlier = chance.random() < outliers
        costs.observe(count, true * chance.lognormvariate(0, noise) * (100 if is_outlier else 1))
    assert true / 2 < costs.seconds(count) < 2 * true


def test_rows_of_unusual_size_cost_what_the_first_of_them_took() -> None:
    costs = CostModel(TIMED)
    costs.observe(1, 1.0, size=60.0)  # attention: quadratic in the length
    assert costs.seconds(1, size=60.0) == pytest.approx(1.0)
    assert costs.seconds(1) == pytest.approx(0.001)


def test_a_size_that_is_not_computed_any_more_is_expected_as_at_the_start() -> None:
    costs = CostModel(TIMED)
    for _ in range(50):
        costs.observe(8, 0.04)
    costs.forget()
    assert costs.seconds(8) == pytest.approx(0.04, rel=0.1)
    for _ in range(500):
        costs.forget()
    assert costs.seconds(8) == pytest.approx(0.004, rel=0.1)


def test_other_sizes_are_expected_to_be_as_slow_as_those_that_are_computed() -> None:
    costs = CostModel(TIMED)
    for _ in range(50):
        costs.observe(1, 0.003)
    costs.forget()
    assert costs.seconds(8) == pytest.approx(0.012, rel=0.1)


class Slow(Model):
    """A model that takes some seconds, and records the threads that compute."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.on_the_loop: list[bool] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs after the seconds."""
        self.on_the_loop.append(threading.current_thread() is threading.main_thread())
        time.sleep(self.seconds)
        return super().__call__(inputs)


async def test_batches_get_fewer_rows_while_they_take_too_long() -> None:
    model = Slow(0.05)
    options = {"costs": CostModel({1: 0.001, 8: 0.008}), "batch_seconds": 0.01}
    async with batching(model, max_batch_rows=8, **options) as batcher:
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(80)])
        assert max(map(len, model.batches)) == 8
        batcher.adapt()
        model.batches.clear()
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(8)])
        assert max(map(len, model.batches)) < 8
        for _ in range(500):
            batcher.adapt()  # nobody asks for anything for some minutes
        model.batches.clear()
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(80)])
        assert max(map(len, model.batches)) == 8


async def test_the_event_loop_computes_no_batches_that_have_become_slow() -> None:
    model = Slow(0.0)
    options = {"inline_rows": 4, "inline_seconds": 0.001, "costs": CostModel({1: 1e-5, 4: 2e-5})}
    async with batching(model, **options) as batcher:
        await batcher.submit(rows(1))
        model.seconds = 0.003
        for i in range(60):
            await batcher.submit(rows(i))
        batcher.adapt()
        model.on_the_loop.clear()
        await batcher.submit(rows(1))
        assert model.on_the_loop == [False]


async def finish_order(batcher: MicroBatcher, sizes: dict[str, float], each: int) -> list[str]:
    """Return the callers in the order of the responses to their whole requests of one row."""
    order: list[str] = []
    for caller, size in sizes.items():
        for i in range(each):
            batcher.enqueue(
                rows(i), lambda _, caller=caller: order.append(caller),  # type: ignore[misc]
                whole=True, caller=caller, size=size,
            )  # fmt: skip
    await until(lambda: len(order) == each * len(sizes))
    return order


async def test_callers_share_the_seconds_if_their_rows_differ_in_size() -> None:
    model = Model()
    costs = CostModel({1: 0.0001, 16: 0.0016})
    async with batching(model, max_batch_rows=16, costs=costs) as batcher:
        async with busy(model, batcher):
            order_task = asyncio.create_task(
                finish_order(batcher, {"long": 10.0, "short": 1.0}, each=40)
            )
            await asyncio.sleep(0)
        order = await order_task
    first = Counter(order[:40])
    assert first["short"] >= 5 * first["long"]


async def test_short_requests_are_admitted_where_long_ones_would_wait_too_long() -> None:
    model = Model()
    costs = CostModel({1: 0.1, 16: 1.6})
    limits = {"max_batch_rows": 16, "max_wait": 4.0}
    async with batching(model, costs=costs, **limits) as batcher, busy(model, batcher):

        def admitted(size: float, caller: str) -> int:
            """Return the requests of one row that are admitted until the first refusal."""
            options = {"whole": True, "size": size, "caller": caller}
            for count in range(100):
                try:
                    batcher.enqueue(rows(count), lambda _: None, **options)
                except QueueFullError:
                    return count
            return 100

        long = admitted(16.0, "long")
        assert long in (2, 3)
        assert admitted(1.0, "short") >= 5 * long


async def test_a_request_that_would_wait_beyond_its_deadline_is_refused_at_once() -> None:
    model = Model()
    async with batching(model, max_batch_rows=4, full_seconds=0.5) as batcher:
        async with busy(model, batcher):
            tasks = await started(*[batcher.submit(rows(i)) for i in range(8)])
            with pytest.raises(DeadlineExceededError, match=r"1\.5 seconds.* may wait for 1\."):
                await batcher.submit(rows(9), timeout=1)
            tasks += await started(batcher.submit(rows(9), timeout=2))
        await asyncio.gather(*tasks)
