"""Callers with deadlines, and callers that are cancelled, raise or enqueue again at once."""

import asyncio
import time
from typing import Any

import pytest
from batchers import (
    POISON,
    Model,
    assert_answers,
    batching,
    busy,
    leave,
    rows,
    started,
    until,
)

from service.errors import DeadlineExceededError, ModelFaultError

pytestmark = pytest.mark.timeout(20)  # a longer test hangs

# Deadlines


async def test_a_waiting_request_fails_at_its_deadline_while_the_batcher_is_busy() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher) as computing:
        patient, hurried, later = await started(
            batcher.submit(rows(1), timeout=60.0),
            batcher.submit(rows(2, 3), timeout=0.02),
            batcher.submit(rows(4), timeout=0.04),
        )
        with pytest.raises(DeadlineExceededError):
            await hurried
        with pytest.raises(DeadlineExceededError):
            await later
        assert batcher.queued_rows == 1
        assert not computing.done()
        model.gate.set()
        assert_answers(await patient, 1)
    assert model.batches == [[-1], [1]]


async def test_a_request_that_is_late_when_its_batch_forms_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        late, punctual = await started(
            batcher.submit(rows(1), timeout=0.0), batcher.submit(rows(2), timeout=60.0)
        )
        with pytest.raises(DeadlineExceededError):
            await late
        assert_answers(await punctual, 2)
    assert model.batches == [[2]]


async def test_a_request_in_compute_at_its_deadline_gets_its_response() -> None:
    model = Model()
    model.gate.clear()
    async with batching(model) as batcher:
        (task,) = await started(batcher.submit(rows(1), timeout=0.5))
        await until(lambda: model.batches)
        await asyncio.sleep(0.6)
        model.gate.set()
        assert_answers(await task, 1)


async def test_a_large_request_with_waiting_rows_at_its_deadline_fails() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        (task,) = await started(batcher.submit(rows(*range(9)), timeout=0.5))
        await until(lambda: model.batches)
        assert batcher.queued_rows == 5
        with pytest.raises(DeadlineExceededError):
            await task
        assert batcher.queued_rows == 0
        model.gate.set()
    assert model.batches == [[0, 1, 2, 3]]


async def test_a_neighbour_that_is_late_when_a_failed_batch_is_repeated_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        guilty, hurried, patient = await started(
            batcher.submit(rows(1, mark=POISON)),
            batcher.submit(rows(2), timeout=0.5),
            batcher.submit(rows(3), timeout=60.0),
        )
        await until(lambda: model.batches)
        await asyncio.sleep(0.6)
        model.gate.set()
        with pytest.raises(ModelFaultError):
            await guilty
        with pytest.raises(DeadlineExceededError):
            await hurried
        assert_answers(await patient, 3)
    assert model.batches == [[1, 2, 3], [1], [3]]


async def test_a_thousand_deadlines_take_a_handful_of_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handles: list[asyncio.TimerHandle] = []
    async with batching(Model()) as batcher:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
            handles.append(call_later(delay, callback, *args))
            return handles[-1]

        monkeypatch.setattr(loop, "call_later", noted)
        for i in range(100):
            await asyncio.gather(*[batcher.submit(rows(i), timeout=60.0) for i in range(10)])
        monkeypatch.undo()
        assert 1 <= len(handles) <= 3
    assert all(handle.cancelled() for handle in handles)


# Callers that go away


async def test_a_caller_cancelled_in_the_queue_frees_its_rows_and_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        before, leaver, after = await started(
            batcher.submit(rows(1)), batcher.submit(rows(2, 3, 4)), batcher.submit(rows(5))
        )
        assert batcher.queued_rows == 5
        await leave(leaver)
        assert batcher.queued_rows == 2
        model.gate.set()
        assert_answers(await before, 1)
        assert_answers(await after, 5)
    assert model.batches == [[-1], [1, 5]]


async def test_a_caller_cancelled_in_the_loop_iteration_of_the_dispatch_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        responses: list[Any] = []
        leaver = batcher.enqueue(rows(1), responses.append)
        batcher.enqueue(rows(2), responses.append)
        leaver.cancel()
        await until(lambda: responses)
        (response,) = responses
        assert_answers(response, 2)
    assert model.batches == [[2]]


async def test_a_retry_after_a_deadline_does_not_affect_others() -> None:
    responses: list[Any] = []

    def ask_again(error: object) -> None:
        responses.append(error)
        batcher.enqueue(rows(3, 4, 5, 6), responses.append)

    async with batching(Model()) as batcher:
        batcher.enqueue(rows(1), responses.append)
        batcher.enqueue(rows(2), ask_again, timeout=0.001)
        time.sleep(0.005)  # noqa: ASYNC251 - blocks the event loop beyond the deadline
        await until(lambda: len(responses) == 3)
    late, first, again = responses
    assert isinstance(late, DeadlineExceededError)
    assert_answers(first, 1)
    assert_answers(again, 3, 4, 5, 6)


async def test_a_callback_runs_once_and_a_later_cancel_does_nothing() -> None:
    async with batching(Model()) as batcher:
        responses: list[Any] = []
        request = batcher.enqueue(rows(1), responses.append)
        assert_answers(await batcher.submit(rows(2)), 2)
        request.cancel()
        await batcher.submit(rows(3))
        (response,) = responses
        assert_answers(response, 1)


@pytest.mark.parametrize("inline_rows", [0, 4])
@pytest.mark.parametrize("mistake", [RuntimeError("x"), asyncio.CancelledError()], ids=repr)
async def test_a_callback_that_raises_does_not_affect_its_neighbours(
    inline_rows: int, mistake: BaseException
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    def fail(_: object) -> None:
        raise mistake

    model = Model()
    async with batching(model, inline_rows=inline_rows) as batcher:
        batcher.enqueue(rows(1), fail)
        assert_answers(await batcher.submit(rows(2)), 2)
    assert model.batches == [[1, 2]]
    assert [context["exception"] for context in complaints] == [mistake]


async def test_a_caller_cancelled_during_compute_does_not_affect_its_neighbours() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        before, leaver, after = await started(*[batcher.submit(rows(i)) for i in range(3)])
        await until(lambda: model.batches)
        await leave(leaver)
        model.gate.set()
        assert_answers(await before, 0)
        assert_answers(await after, 2)
    assert model.batches == [[0, 1, 2]]


async def test_a_caller_cancelled_between_its_slices_removes_the_rest() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        leaver, stayer = await started(batcher.submit(rows(*range(9))), batcher.submit(rows(20)))
        await until(lambda: model.batches)
        await leave(leaver)
        assert batcher.queued_rows == 1
        model.gate.set()
        assert_answers(await stayer, 20)
    assert model.batches == [[0, 1, 2, 3], [20]]
