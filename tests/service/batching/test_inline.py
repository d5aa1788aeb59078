"""Small batches are computed on the event loop, which turns between them."""

import asyncio
import threading
from functools import partial

import pytest
from batchers import Awaited, Model, assert_answers, batching, on_a_loop, rows, started, until

from service.batching.batch import Answer, Arrays


@on_a_loop
async def test_a_small_batch_is_computed_on_the_loop_and_a_larger_one_is_not() -> None:
    seen: list[tuple[int, bool]] = []

    def compute(inputs: Arrays) -> Arrays:
        on_loop = threading.current_thread() is threading.main_thread()
        seen.append((len(next(iter(inputs.values()))), on_loop))
        return model(inputs)

    model = Model()
    async with batching(compute, inline_rows=2) as batcher:
        assert_answers(await batcher.submit(rows(1, 2)), 1, 2)
        assert_answers(await batcher.submit(rows(3, 4, 5)), 3, 4, 5)
    assert seen == [(2, True), (3, False)]


@on_a_loop
async def test_small_batches_may_have_a_compute_of_their_own() -> None:
    small, model = Model(), Model()
    async with batching(model, inline_rows=2, inline_compute=small) as batcher:
        assert_answers(await batcher.submit(rows(1, 2)), 1, 2)
        assert_answers(await batcher.submit(rows(3, 4, 5)), 3, 4, 5)
    assert (small.batches, model.batches) == ([[1, 2]], [[3, 4, 5]])


@on_a_loop
async def test_as_many_requests_as_the_loop_computes_at_once_do_not_wait_for_more() -> None:
    told: list[Answer] = []
    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=40) as batcher:
        for i in range(0, 46, 2):
            batcher.enqueue(rows(i, i + 1), told.append)
            assert len(told) == (20 if i >= 40 else 0)
    assert model.batches == [[*range(40)], [*range(40, 46)]]
    for i, answer in enumerate(told):
        assert_answers(answer, 2 * i, 2 * i + 1)


@on_a_loop
@pytest.mark.parametrize(("each", "inline_rows"), [(1, 10), (10, 40)])
async def test_others_wait_for_the_end_of_the_turn(each: int, inline_rows: int) -> None:
    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=inline_rows) as batcher:
        requests = [rows(*range(start, start + each)) for start in range(0, 60, each)]
        for inputs in requests:
            batcher.enqueue(inputs, lambda _: None)
    assert model.batches == [[*range(60)]]


@on_a_loop
async def test_who_asks_when_it_is_answered_waits_for_the_next_batch() -> None:
    told: list[Answer] = []

    def ask_again(_: object) -> None:
        batcher.enqueue(rows(100), told.append)

    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=20) as batcher:
        for i in range(21):
            batcher.enqueue(rows(i), ask_again)
        assert model.batches == [[*range(20)]]
        await until(lambda: len(told) == 21)
    assert model.batches == [[*range(20)], [100] * 20 + [20], [100]]


@on_a_loop
async def test_a_long_queue_of_small_batches_lets_the_loop_turn_between_them() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with batching(Model(), max_batch_rows=1, max_queue_rows=5_000, inline_rows=1) as batcher:
        turning = asyncio.create_task(turn())
        answers = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(5_000)])
        turning.cancel()
    for i, answer in enumerate(answers):
        assert_answers(answer, i)
    assert turns >= 5_000


@on_a_loop
async def test_closing_finishes_what_waits_for_the_loop() -> None:
    batcher = Awaited(Model(), max_batch_rows=2, max_queue_rows=50, inline_rows=2, name="closing")
    tasks = await started(*[batcher.submit(rows(i)) for i in range(9)])
    await batcher.close()
    for i, task in enumerate(tasks):
        assert_answers(await task, i)


@on_a_loop
async def test_who_asks_again_does_not_overtake_the_parts_of_a_large_request() -> None:
    told: list[Answer] = []
    model, small = Model(), Model()
    limits = {"max_batch_rows": 40, "inline_rows": 20, "inline_compute": small}
    async with batching(model, **limits) as batcher:
        model.gate.clear()
        again = partial(batcher.enqueue, rows(200), lambda _: None)
        batcher.enqueue(rows(*range(10)), lambda _: again())
        batcher.enqueue(rows(*range(100, 135)), told.append)  # five of its rows wait on
        await until(lambda: model.batches)
        for i in range(15):
            batcher.enqueue(rows(i), lambda _: None)
        model.gate.set()
        await until(lambda: told)
    (answer,) = told
    assert_answers(answer, *range(100, 135))
