"""Small batches are computed on the event loop, one loop iteration each."""

import asyncio
import threading
from functools import partial

import pytest
from batchers import Awaited, Model, assert_answers, batching, rows, started, until

from service.batching.batch import Arrays, InferenceResponse

pytestmark = pytest.mark.timeout(20)  # a longer test hangs


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


async def test_a_whole_request_of_larger_rows_is_kept_off_the_loop() -> None:
    threads: list[bool] = []

    def compute(inputs: Arrays) -> Arrays:
        threads.append(threading.current_thread() is threading.main_thread())
        return model(inputs)

    model = Model()
    async with batching(compute, inline_rows=2) as batcher:
        for size in (0.5, 1.0, 2.0):
            done: asyncio.Future[InferenceResponse] = asyncio.Future()
            batcher.enqueue(rows(1), done.set_result, whole=True, size=size)  # type: ignore[arg-type]  # no error here
            assert_answers(await done, 1)
    assert threads == [True, True, False]


async def test_small_batches_may_have_their_own_compute() -> None:
    small, model = Model(), Model()
    async with batching(model, inline_rows=2, inline_compute=small) as batcher:
        assert_answers(await batcher.submit(rows(1, 2)), 1, 2)
        assert_answers(await batcher.submit(rows(3, 4, 5)), 3, 4, 5)
    assert (small.batches, model.batches) == ([[1, 2]], [[3, 4, 5]])


async def test_enough_requests_for_one_inline_batch_do_not_wait_for_more() -> None:
    responses: list[InferenceResponse] = []
    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=40) as batcher:
        for i in range(0, 46, 2):
            batcher.enqueue(rows(i, i + 1), responses.append)
            assert len(responses) == (20 if i >= 40 else 0)
    assert model.batches == [[*range(40)], [*range(40, 46)]]
    for i, response in enumerate(responses):
        assert_answers(response, 2 * i, 2 * i + 1)


@pytest.mark.parametrize(("each", "inline_rows"), [(1, 10), (10, 40)])
async def test_fewer_requests_wait_for_the_end_of_the_loop_iteration(
    each: int, inline_rows: int
) -> None:
    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=inline_rows) as batcher:
        requests = [rows(*range(start, start + each)) for start in range(0, 60, each)]
        for inputs in requests:
            batcher.enqueue(inputs, lambda _: None)
    assert model.batches == [[*range(60)]]


async def test_a_request_from_a_callback_waits_for_the_next_batch() -> None:
    responses: list[InferenceResponse] = []

    def ask_again(_: object) -> None:
        batcher.enqueue(rows(100), responses.append)

    model = Model()
    async with batching(model, max_batch_rows=100, inline_rows=20) as batcher:
        for i in range(21):
            batcher.enqueue(rows(i), ask_again)
        assert model.batches == [[*range(20)]]
        await until(lambda: len(responses) == 21)
    assert model.batches == [[*range(20)], [100] * 20 + [20], [100]]


@pytest.mark.slow
async def test_the_loop_runs_between_the_batches_of_a_long_queue() -> None:
    iterations = 0

    async def count_iterations() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    async with batching(Model(), max_batch_rows=1, max_queue_rows=5_000, inline_rows=1) as batcher:
        counting = asyncio.create_task(count_iterations())
        responses = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(5_000)])
        counting.cancel()
    for i, response in enumerate(responses):
        assert_answers(response, i)
    assert iterations >= 5_000


async def test_closing_completes_inline_batches() -> None:
    batcher = Awaited(Model(), max_batch_rows=2, max_queue_rows=50, inline_rows=2, name="closing")
    tasks = await started(*[batcher.submit(rows(i)) for i in range(9)])
    await batcher.close()
    for i, task in enumerate(tasks):
        assert_answers(await task, i)


async def test_a_request_from_a_callback_does_not_overtake_the_slices_of_a_large_one() -> None:
    responses: list[InferenceResponse] = []
    model, small = Model(), Model()
    limits = {"max_batch_rows": 40, "inline_rows": 20, "inline_compute": small}
    async with batching(model, **limits) as batcher:
        model.gate.clear()
        again = partial(batcher.enqueue, rows(200), lambda _: None)
        batcher.enqueue(rows(*range(10)), lambda _: again())
        batcher.enqueue(rows(*range(100, 135)), responses.append)  # five of its rows still wait
        await until(lambda: model.batches)
        for i in range(15):
            batcher.enqueue(rows(i), lambda _: None)
        model.gate.set()
        await until(lambda: responses)
    (response,) = responses
    assert_answers(response, *range(100, 135))
