"""The costs of batches: first as timed at the start, then as the batches that are computed."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from batchers import GOOD, POISON, Model, batching, busy, rows, started, until
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


def test_one_batch_that_is_somewhat_too_slow_changes_little() -> None:
    costs = CostModel({1: 0.001, 256: 0.1})
    costs.observe(256, 0.101)
    assert costs.rows_within(0.1) > 200
    costs.observe(1, 0.0011)
    assert costs.seconds(1) < 0.0013


def test_rows_of_unusual_size_cost_what_the_first_of_them_took() -> None:
    costs = CostModel(TIMED)
    costs.observe(1, 1.0, size=60.0)  # attention: quadratic in the length
    assert costs.seconds(1, size=60.0) == pytest.approx(1.0)
    assert costs.seconds(1) == pytest.approx(0.001)


def test_rows_of_unusual_size_say_nothing_of_usual_rows() -> None:
    costs = CostModel(TIMED)
    for _ in range(10):
        costs.observe(1, 1.0, size=60.0)
        costs.forget()
    assert costs.seconds(8) == pytest.approx(0.004)
    assert costs.rows_within(1.0) == 8


def test_what_rows_of_unusual_size_take_is_not_forgotten_while_nobody_sends_any() -> None:
    costs = CostModel(TIMED)
    costs.observe(1, 1.0, size=60.0)
    for _ in range(500):
        costs.forget()
    assert costs.seconds(1, size=60.0) == pytest.approx(1.0)


def test_a_clock_of_low_resolution_does_no_lasting_harm() -> None:
    costs = CostModel({1: 0.0, 8: 0.001})
    costs.observe(1, 0.0, size=4.0)
    for _ in range(20_000):
        costs.observe(8, 0.0)
    for _ in range(300):
        costs.observe(8, 0.001)
    assert costs.seconds(8) == pytest.approx(0.001, rel=0.1)


def test_unusual_sizes_do_not_make_the_usual_ones_slow_to_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs, interpolated = CostModel(TIMED), []
    for i in range(2_000):
        costs.seconds(1, size=1.0 + i / 1_000)
    interp = np.interp
    monkeypatch.setattr(np, "interp", lambda *given: interpolated.append(1) or interp(*given))
    for _ in range(100):
        costs.seconds(3)
    assert len(interpolated) <= 1


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


async def test_batches_keep_their_rows_while_they_take_about_as_long_as_they_may() -> None:
    model, costs = Model(), CostModel({1: 0.1, 64: 0.11, 256: 0.138})  # few rows are as slow
    limits = {"max_batch_rows": 166, "max_queue_rows": 1000, "batch_seconds": 0.125}
    async with batching(model, costs=costs, **limits) as batcher:
        for ratio in (1.02, 0.99, 1.05, 1.01, 1.03):
            for count, seconds in ((64, 0.11), (166, 0.125), (256, 0.138)):
                costs.observe(count, ratio * seconds)
            batcher.adapt()
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(332)])
    assert max(map(len, model.batches)) == 166


async def test_batches_keep_their_rows_if_a_row_alone_is_nearly_as_slow() -> None:
    model, costs = Model(), CostModel({1: 0.1, 64: 0.11, 256: 0.12})
    limits = {"max_batch_rows": 256, "max_queue_rows": 1000, "batch_seconds": 0.125}
    async with batching(model, costs=costs, **limits) as batcher:
        for _ in range(20):
            costs.observe(256, 0.2)  # another program takes cores
            costs.observe(1, 0.16)
        batcher.adapt()
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(512)])
    assert max(map(len, model.batches)) == 256


async def test_the_event_loop_computes_no_batches_that_have_become_slow() -> None:
    model = Slow(0.0)
    options = {"inline_rows": 4, "inline_seconds": 0.001, "costs": CostModel({1: 1e-5, 4: 2e-5})}
    async with batching(model, **options) as batcher:
        await batcher.submit(rows(1))
        model.seconds = 0.003
        for i in range(100):
            await batcher.submit(rows(i))
        batcher.adapt()
        model.on_the_loop.clear()
        await batcher.submit(rows(1))
        assert model.on_the_loop == [False]


async def test_without_timings_batches_stay_as_large_as_they_may_be() -> None:
    model = Model()
    async with batching(model, max_batch_rows=8, batch_seconds=1.0) as batcher:
        batcher.adapt()
        await batcher.submit(rows(1))
        batcher.adapt()
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(16)])
    assert max(map(len, model.batches)) == 8


class Sleeping(Model):
    """A model that takes as many milliseconds as the first ID says."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs after the time; fail as the model does."""
        time.sleep(int(inputs["id"][0]) / 1_000)
        return super().__call__(inputs)


class Sent(NamedTuple):
    """Whole requests of one row by one caller.

    Attributes:
        caller: their name.
        milliseconds: that each takes.
        size: as the batcher is told.
        mark: whether they fail.
    """

    caller: str
    milliseconds: int
    size: float
    mark: int = GOOD


async def finish_order(batcher: MicroBatcher, sent: Sequence[Sent], count: int) -> list[str]:
    """Return the callers in the order of the responses to their requests."""
    order: list[str] = []
    for caller, milliseconds, size, mark in sent:
        for _ in range(count):
            batcher.enqueue(
                rows(milliseconds, mark=mark), lambda _, caller=caller: order.append(caller),  # type: ignore[misc]
                whole=True, caller=caller, size=size,
            )  # fmt: skip
    await until(lambda: len(order) == count * len(sent))
    return order


@pytest.mark.parametrize(
    "long",
    [
        Sent("long", 50, 10.0),
        Sent("long", 50, 1.5),  # many times what the size lets expect
        Sent("long", 50, 1.0, mark=POISON),
    ],
    ids=["expected", "unexpected", "failing"],
)
async def test_callers_share_the_seconds_if_their_rows_differ_in_size(long: Sent) -> None:
    costs = CostModel({1: 0.005, 16: 0.08})
    async with batching(Sleeping(), max_batch_rows=16, costs=costs) as batcher:
        order = await finish_order(batcher, [long, Sent("short", 5, 1.0)], count=30)
    first = Counter(order[:30])
    assert first["short"] >= 3 * first["long"]


async def test_one_very_long_batch_does_not_lock_its_caller_out() -> None:
    costs = CostModel({1: 0.001, 16: 0.016})
    limits = {"max_batch_rows": 16, "max_queue_rows": 200}
    async with batching(Sleeping(), costs=costs, **limits) as batcher:
        await finish_order(batcher, [Sent("once slow", 400, 10.0)], count=1)
        sent = [Sent("once slow", 1, 10.0), Sent("other", 1, 1.0)]
        order = await finish_order(batcher, sent, count=90)
    assert order[:90].count("once slow") > 30


async def test_one_moment_without_cores_does_not_lock_its_caller_out() -> None:
    costs = CostModel({1: 0.001, 16: 0.016})
    limits = {"max_batch_rows": 16, "max_wait": 0.1}
    order: list[str] = []
    async with batching(Sleeping(), costs=costs, **limits) as batcher:

        def send(caller: str, milliseconds: int = 1) -> None:
            batcher.enqueue(
                rows(milliseconds), lambda _: answered(caller),
                whole=True, caller=caller, size=1.0,
            )  # fmt: skip

        def answered(caller: str) -> None:
            order.append(caller)
            if caller == "other" and "again" not in order and len(order) < 400:
                send("other")
            elif caller == "once slow" and order.count(caller) == 1:
                send(caller)

        for _ in range(3):
            send("other")
        send("once slow", 500)
        await until(lambda: order.count("once slow") == 2)
        order.append("again")
    first = order.index("once slow")
    assert order.index("once slow", first + 1) - first < 200


async def test_long_rows_cost_what_they_take_on_the_thread_though_short_ones_need_none() -> None:
    model = Sleeping()
    limits = {"max_batch_rows": 16, "max_wait": 0.2, "inline_rows": 4}
    costs = {"costs": CostModel({1: 0.001, 16: 0.016}), "inline_costs": CostModel({1: 0.001})}
    async with batching(model, **costs, **limits) as batcher:
        long = {"whole": True, "size": 10.0}
        await finish_order(batcher, [Sent("", 300, 10.0)], count=1)
        model.gate.clear()
        batcher.enqueue(rows(1), lambda _: None, **long)
        await until(lambda: len(model.batches) == 2)
        batcher.enqueue(rows(1), lambda _: None, **long)
        with pytest.raises(QueueFullError):
            batcher.enqueue(rows(1), lambda _: None, **long)
        model.gate.set()


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
            with pytest.raises(DeadlineExceededError, match=r"1\.[45]\d* seconds.* allows 1\."):
                await batcher.submit(rows(9), timeout=1)
            tasks += await started(batcher.submit(rows(9), timeout=2))
        await asyncio.gather(*tasks)


async def test_the_wait_for_a_long_batch_becomes_shorter_while_it_computes() -> None:
    model = Model()
    async with batching(model, max_batch_rows=4, full_seconds=0.5, max_wait=0.7) as batcher:
        async with busy(model, batcher):
            tasks = await started(*[batcher.submit(rows(i)) for i in range(4)])
            await asyncio.sleep(0.4)
            assert 0.4 < batcher.expected_wait < 0.7
            tasks += await started(batcher.submit(rows(4)))
            await asyncio.sleep(0.2)
            assert 0.5 <= batcher.expected_wait < 0.7
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(("seconds", "accepted"), [(0.01, 16), (0.2, 8), (0.5, 3), (5.0, 1)])
async def test_some_batches_may_wait_of_a_model_that_has_become_slow(
    seconds: float, accepted: int
) -> None:
    """As many as without a delay, up to twice the longest wait; one in any case."""
    model, costs = Model(), CostModel({1: 0.01})
    for _ in range(500):
        costs.observe(1, seconds)
    limits = {"max_batch_rows": 1, "max_wait": 1.0, "least_batches": 9}
    async with batching(model, costs=costs, **limits) as batcher:
        async with busy(model, batcher):
            tasks = await started(*[batcher.submit(rows(i)) for i in range(16)])
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [result for result in results if isinstance(result, QueueFullError)]
    assert abs(len(results) - len(refused) - accepted) <= 1
