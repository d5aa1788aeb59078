"""A batcher has a thread only where there is work."""

import pytest
from batchers import Model, assert_answers, batching, busy, rows, threads, until

from service.batching import worker

pytestmark = pytest.mark.timeout(20)  # a longer test hangs


async def test_a_batcher_whose_batches_are_computed_on_the_event_loop_has_no_thread() -> None:
    async with batching(Model(), inline_rows=4) as batcher:
        assert_answers(await batcher.submit(rows(1, 2)), 1, 2)
        assert not threads(batcher._name)
        assert_answers(await batcher.submit(rows(1, 2, 3, 4, 5)), 1, 2, 3, 4, 5)


async def test_the_thread_starts_with_its_first_batch_and_is_kept_while_there_is_work() -> None:
    async with batching(Model()) as batcher:
        assert_answers(await batcher.submit(rows(1)), 1)
        (thread,) = threads(batcher._name)
        batcher.end_idle_thread()
        assert_answers(await batcher.submit(rows(2)), 2)
        assert threads(batcher._name) == [thread]


async def test_an_idle_thread_ends_and_the_next_batch_starts_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.0)
    async with batching(Model()) as batcher:
        for number in range(3):
            assert_answers(await batcher.submit(rows(number)), number)
            batcher.end_idle_thread()
            await until(lambda: not threads(batcher._name))
            assert batcher.hung == 0


async def test_a_thread_that_computes_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.0)
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        batcher.end_idle_thread()
        assert len(threads(batcher._name)) == 1
