"""What the micro-batcher promises, each promise a test that can fail.

Rows carry unique ids and the model's answer to a row is computed from its id, so an answer proves
whose it is. Compute is held at a gate where a test needs a busy batcher; no test measures time,
apart from deadlines that must have passed.
"""

import asyncio
import gc
import itertools
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batch import Part, Request, run_batch
from service.batching import Answer, Arrays, BatchReport, MicroBatcher
from service.callbacks import called_back
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    DeadlineExceededError,
    ModelFaultError,
    NotReadyError,
    QueueFullError,
    ServiceError,
)

LIMIT = 20.0  # seconds after which something hangs

GOOD, POISON, MISCOUNT = range(3)

numbers = itertools.count()


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on an event loop of its own; a hang fails it."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), LIMIT))

    return run


class Model:
    """A compute function that notes the ids of every batch and can be held at a gate."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault = fault or ValueError("secret path /srv/model.onnx")

    def __call__(self, inputs: Arrays) -> Arrays:
        """Answer the rows, unless one of them is marked."""
        ids, marks = inputs["id"], inputs["mark"]
        self.batches.append(ids.tolist())
        assert self.gate.wait(LIMIT)
        if POISON in marks:
            raise self.fault
        answers = answers_to(ids)
        if MISCOUNT in marks:
            answers["square"] = answers["square"][1:]
        return answers


def answers_to(ids: Any) -> dict[str, Any]:
    return {"next": ids + 1, "square": np.stack([ids, ids**2], axis=1)}


def rows(*ids: int, mark: int = GOOD) -> Arrays:
    """Make a request of these ids, the last of which carries the mark."""
    marks = np.zeros(len(ids), np.uint8)
    marks[-1:] = mark
    return {"id": np.array(ids, np.int64), "mark": marks}


def assert_answers(answer: Answer, *ids: int) -> None:
    expected = answers_to(np.array(ids, np.int64))
    assert answer.outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(answer.outputs[name], array)


class Awaited(MicroBatcher):
    """A batcher whose callers wait in coroutines."""

    async def submit(self, inputs: Arrays, *, timeout: float | None = None) -> Answer:  # noqa: ASYNC109
        """Enqueue, and give up where the caller is cancelled."""

        def begin(done: Callable[[Request], None]) -> Callable[[], None]:
            return partial(self.withdraw, self.enqueue(inputs, done, timeout=timeout))

        answer = self.answer(await called_back(begin))
        if isinstance(answer, Answer):
            return answer
        raise answer


@asynccontextmanager
async def batching(compute: Callable[[Arrays], Arrays], **options: Any) -> AsyncIterator[Any]:
    """Open a batcher that must be empty, and its thread ended, when it is closed."""
    name = f"test-{next(numbers)}"
    defaults: dict[str, Any] = {"max_batch_rows": 4, "max_queue_rows": 100, "name": name}
    batcher = Awaited(compute, **(defaults | options))
    assert threads(name)
    yield batcher
    await batcher.close()
    assert batcher.queued_rows == 0
    assert not threads(name)


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"batcher-{name}"]


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what it waits for happens on another thread
        await asyncio.sleep(0.001)


async def started(*submissions: Coroutine[Any, Any, Answer]) -> list[asyncio.Task[Answer]]:
    """Start the submissions in this order and let each of them run until it waits."""
    tasks = [asyncio.create_task(submission) for submission in submissions]
    await asyncio.sleep(0)
    return tasks


@asynccontextmanager
async def busy(model: Model, batcher: MicroBatcher) -> AsyncIterator[asyncio.Task[Answer]]:
    """Hold the batcher in the compute of one row, of id -1, until the block ends."""
    model.gate.clear()
    try:
        (task,) = await started(batcher.submit(rows(-1)))
        await until(lambda: model.batches)
        yield task
    finally:
        model.gate.set()
    assert_answers(await task, -1)


# Batches and rows


@on_a_loop
async def test_no_batch_has_more_rows_than_allowed_and_a_busy_batcher_fills_them() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(*range(i, i + 3))) for i in range(0, 30, 3)])
        assert batcher.queued_rows == 30
        model.gate.set()
        for i, task in enumerate(tasks):
            assert_answers(await task, *range(3 * i, 3 * i + 3))
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 4, 4, 4, 4, 4, 2]


@on_a_loop
async def test_requests_of_one_turn_of_the_loop_share_an_idle_batchers_first_batch() -> None:
    model = Model()
    async with batching(model) as batcher:
        answers = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(3)])
    for i, answer in enumerate(answers):
        assert_answers(answer, i)
    assert model.batches == [[0, 1, 2]]


@on_a_loop
async def test_an_idle_batcher_computes_without_waiting_for_a_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers: list[float] = []
    async with batching(Model()) as batcher:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda delay, *_: timers.append(delay))
        assert_answers(await batcher.submit(rows(1)), 1)
        monkeypatch.undo()
    assert timers == []


@on_a_loop
async def test_max_delay_lets_an_idle_batcher_wait_for_company() -> None:
    model = Model()
    async with batching(model, max_delay=0.5) as batcher:
        (first,) = await started(batcher.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert_answers(await batcher.submit(rows(2)), 2)
        assert_answers(await first, 1)
    assert model.batches == [[1, 2]]


@on_a_loop
async def test_max_delay_is_cut_short_by_a_full_batch_by_the_end_of_a_batch_and_by_close() -> None:
    model = Model()
    async with batching(model, max_delay=3600.0) as batcher:
        full = [batcher.submit(rows(i)) for i in range(4)]
        await asyncio.gather(*full)
        model.gate.clear()
        tasks = await started(batcher.submit(rows(10, 11, 12, 13)), batcher.submit(rows(14)))
        model.gate.set()
        assert_answers(await tasks[1], 14)
        (last,) = await started(batcher.submit(rows(20)))
        await batcher.close()
        assert_answers(await last, 20)
    assert model.batches == [[0, 1, 2, 3], [10, 11, 12, 13], [14], [20]]


@on_a_loop
async def test_a_large_request_is_split_and_joined_and_delays_others_by_no_more_than_its_rows() -> (
    None
):
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        tasks = await started(
            batcher.submit(rows(0)),
            batcher.submit(rows(*range(10, 19))),
            batcher.submit(rows(1)),
            batcher.submit(rows(2, 3)),
        )
        model.gate.set()
        for task, ids in zip(tasks, ([0], range(10, 19), [1], [2, 3]), strict=True):
            assert_answers(await task, *ids)
    assert model.batches[1:] == [[0, 10, 11, 12], [13, 14, 15, 16], [17, 18, 1, 2], [3]]


@on_a_loop
async def test_a_batch_of_one_request_is_not_copied_and_shared_outputs_are_views() -> None:
    seen: list[Arrays] = []
    made: list[Arrays] = []

    def compute(inputs: Arrays) -> Arrays:
        seen.append(inputs)
        made.append(answers_to(inputs["id"]))
        return made[-1]

    async with batching(compute) as batcher:
        inputs = rows(1, 2)
        answer = await batcher.submit(inputs)
        assert all(np.shares_memory(seen[0][name], inputs[name]) for name in inputs)
        assert all(np.shares_memory(answer.outputs[name], made[0][name]) for name in made[0])
        one, two = await asyncio.gather(batcher.submit(rows(1)), batcher.submit(rows(2)))
        assert len(made) == 2
        assert np.shares_memory(one.outputs["next"], made[1]["next"])
        assert np.shares_memory(two.outputs["next"], made[1]["next"])


@on_a_loop
async def test_a_batch_wakes_the_loop_once_whatever_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model()
    wakeups: list[Any] = []
    async with batching(model, max_batch_rows=50) as batcher:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def counted(callback: Any, *args: Any, **kwargs: Any) -> asyncio.Handle:
            wakeups.append(callback)
            return wake(callback, *args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(100)])
        monkeypatch.undo()
    assert [len(batch) for batch in model.batches] == [50, 50]
    assert len(wakeups) == 2


# The bound on the queue


@on_a_loop
async def test_a_full_queue_refuses_at_once_and_has_room_again_when_it_drains() -> None:
    model = Model()
    async with batching(model, max_queue_rows=6) as batcher:
        async with busy(model, batcher):
            tasks = await started(batcher.submit(rows(1, 2)), batcher.submit(rows(3, 4, 5)))
            with pytest.raises(QueueFullError):
                await batcher.submit(rows(6, 7))
            tasks += await started(batcher.submit(rows(8)))
            assert batcher.queued_rows == 6
            with pytest.raises(QueueFullError):
                await batcher.submit(rows(9))
        for task, ids in zip(tasks, ([1, 2], [3, 4, 5], [8]), strict=True):
            assert_answers(await task, *ids)
        assert_answers(await batcher.submit(rows(*range(6))), *range(6))
    assert not {6, 7, 9} & {i for batch in model.batches[:4] for i in batch}


@on_a_loop
async def test_a_request_larger_than_the_queue_is_refused_with_its_limit_idle_or_busy() -> None:
    model = Model()
    async with batching(model, max_queue_rows=6) as batcher:
        with pytest.raises(BodyTooLargeError, match=r"7 rows.* at most 6"):
            await batcher.submit(rows(*range(7)))
        async with busy(model, batcher):
            with pytest.raises(BodyTooLargeError, match=r"7 rows.* at most 6"):
                await batcher.submit(rows(*range(7)))


@on_a_loop
async def test_a_request_without_rows_is_refused() -> None:
    async with batching(Model()) as batcher:
        with pytest.raises(BadInputError):
            await batcher.submit(rows())


@pytest.mark.parametrize(("batch", "queue"), [(0, 5), (5, 4)])
@on_a_loop
async def test_limits_with_which_no_batch_is_ever_full_are_refused(batch: int, queue: int) -> None:
    with pytest.raises(ValueError, match="max_batch_rows"):
        MicroBatcher(Model(), max_batch_rows=batch, max_queue_rows=queue, name="test")


# Deadlines


@on_a_loop
async def test_a_waiting_request_is_answered_at_its_deadline_while_the_batcher_is_busy() -> None:
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


@on_a_loop
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


@on_a_loop
async def test_a_request_in_compute_at_its_deadline_gets_its_answer() -> None:
    model = Model()
    model.gate.clear()
    async with batching(model) as batcher:
        (task,) = await started(batcher.submit(rows(1), timeout=0.5))
        await until(lambda: model.batches)
        await asyncio.sleep(0.6)
        model.gate.set()
        assert_answers(await task, 1)


@on_a_loop
async def test_a_large_request_of_which_rows_still_wait_at_its_deadline_is_given_up() -> None:
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


@on_a_loop
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


@on_a_loop
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


@on_a_loop
async def test_a_caller_that_leaves_the_queue_frees_its_rows_and_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        before, leaver, after = await started(
            batcher.submit(rows(1)), batcher.submit(rows(2, 3, 4)), batcher.submit(rows(5))
        )
        assert batcher.queued_rows == 5
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert batcher.queued_rows == 2
        model.gate.set()
        assert_answers(await before, 1)
        assert_answers(await after, 5)
    assert model.batches == [[-1], [1, 5]]


@on_a_loop
async def test_a_caller_that_leaves_in_the_very_turn_of_the_dispatch_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        told: list[Request] = []
        leaver = batcher.enqueue(rows(1), told.append)
        stayer = batcher.enqueue(rows(2), told.append)
        batcher.withdraw(leaver)
        await until(lambda: told)
        assert_answers(batcher.answer(stayer), 2)
        assert told == [stayer]
    assert model.batches == [[2]]


@on_a_loop
async def test_a_caller_is_told_once_and_may_leave_afterwards() -> None:
    async with batching(Model()) as batcher:
        told: list[Request] = []
        request = batcher.enqueue(rows(1), told.append)
        assert_answers(await batcher.submit(rows(2)), 2)
        assert told == [request]
        batcher.withdraw(request)
        assert_answers(batcher.answer(request), 1)
        await batcher.submit(rows(3))
        assert told == [request]


@on_a_loop
@pytest.mark.parametrize("inline_rows", [0, 4])
async def test_a_caller_that_fails_on_its_answer_takes_nothing_from_its_neighbours(
    inline_rows: int,
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    mistake = RuntimeError("a mistake of the caller's")

    def fail(_: Request) -> None:
        raise mistake

    model = Model()
    async with batching(model, inline_rows=inline_rows) as batcher:
        batcher.enqueue(rows(1), fail)
        assert_answers(await batcher.submit(rows(2)), 2)
    assert model.batches == [[1, 2]]
    assert [told["exception"] for told in complaints] == [mistake]


@on_a_loop
async def test_a_caller_that_leaves_during_compute_takes_nothing_from_its_neighbours() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        before, leaver, after = await started(*[batcher.submit(rows(i)) for i in range(3)])
        await until(lambda: model.batches)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        model.gate.set()
        assert_answers(await before, 0)
        assert_answers(await after, 2)
    assert model.batches == [[0, 1, 2]]


@on_a_loop
async def test_a_caller_that_leaves_in_the_middle_of_its_rows_takes_the_rest_along() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        leaver, stayer = await started(batcher.submit(rows(*range(9))), batcher.submit(rows(20)))
        await until(lambda: model.batches)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert batcher.queued_rows == 1
        model.gate.set()
        assert_answers(await stayer, 20)
    assert model.batches == [[0, 1, 2, 3], [20]]


# Models that fail


@pytest.mark.parametrize(
    "fault", [ValueError("x"), MemoryError(), KeyboardInterrupt(), SystemExit(1)], ids=repr
)
@on_a_loop
async def test_only_the_guilty_request_fails_and_its_neighbours_are_computed_again(
    fault: BaseException,
) -> None:
    model = Model(fault)
    async with batching(model) as batcher:
        before, guilty, after = await started(
            batcher.submit(rows(1)), batcher.submit(rows(2, mark=POISON)), batcher.submit(rows(3))
        )
        assert_answers(await before, 1)
        assert_answers(await after, 3)
        with pytest.raises(ModelFaultError) as caught:
            await guilty
        assert caught.value.__cause__ is fault
        assert_answers(await batcher.submit(rows(4)), 4)
    assert model.batches == [[1, 2, 3], [1], [2, 3], [2], [3], [4]]


@on_a_loop
async def test_a_batch_of_one_request_that_fails_is_not_repeated_and_shows_no_internals() -> None:
    model = Model()
    async with batching(model) as batcher:
        with pytest.raises(ModelFaultError) as caught:
            await batcher.submit(rows(1, mark=POISON))
    assert model.batches == [[1]]
    assert "secret" not in str(caught.value)


@on_a_loop
async def test_a_large_request_that_fails_early_is_not_computed_to_its_end() -> None:
    model = Model()
    async with batching(model) as batcher:
        large = rows(*range(9))
        large["mark"][0] = POISON
        guilty, neighbour = await started(batcher.submit(large), batcher.submit(rows(20)))
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await neighbour, 20)
    assert model.batches == [[0, 1, 2, 3], [20]]


@on_a_loop
async def test_a_caller_that_leaves_before_a_failed_batch_is_repeated_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        guilty, leaver, stayer = await started(
            batcher.submit(rows(1, mark=POISON)), batcher.submit(rows(2)), batcher.submit(rows(3))
        )
        await until(lambda: model.batches)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        model.gate.set()
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await stayer, 3)
    assert model.batches == [[1, 2, 3], [1], [3]]


def test_a_caller_that_leaves_while_a_failed_batch_is_repeated_does_not_shift_the_answers() -> None:
    def compute(inputs: Arrays) -> Arrays:
        if POISON in inputs["mark"]:
            raise ValueError("poison")
        if 2 in inputs["id"]:
            requests[2].done = None  # the event loop's thread does so at any time
        return answers_to(inputs["id"])

    inputs = [rows(0, mark=POISON), rows(1), rows(2), rows(3)]
    requests = [Request(taken, 1, 0, 0.0, math.inf, lambda _: None) for taken in inputs]
    outcomes, _ = run_batch([Part(request, 0, 1) for request in requests], compute, "model")
    assert isinstance(outcomes[0], ModelFaultError)
    for number in (1, 3):
        outcome = outcomes[number]
        assert not isinstance(outcome, ServiceError)
        assert outcome["next"].tolist() == [number + 1]


@pytest.mark.parametrize("surplus", [-1, 1])
@on_a_loop
async def test_a_wrong_number_of_rows_in_any_output_fails_the_guilty_request_alone(
    surplus: int,
) -> None:
    batches: list[int] = []

    def compute(inputs: Arrays) -> Arrays:
        ids = inputs["id"]
        batches.append(len(ids))
        answers = answers_to(ids)
        if 1 in ids:
            answers["square"] = np.zeros((len(ids) + surplus, 2))
        return answers

    async with batching(compute) as batcher:
        before, guilty, after = await started(*[batcher.submit(rows(i)) for i in range(3)])
        with pytest.raises(ModelFaultError) as caught:
            await guilty
        assert "'square'" in str(caught.value.__cause__)
        assert "square" not in str(caught.value)
        assert_answers(await before, 0)
        assert_answers(await after, 2)
    assert batches == [3, 1, 2, 1, 1]


@pytest.mark.parametrize(
    "result", [None, {"y": np.float32(1)}, {"y": None}], ids=["nothing", "a scalar", "no array"]
)
@on_a_loop
async def test_a_model_that_returns_no_arrays_fails_and_nobody_hangs(result: Any) -> None:
    async with batching(lambda _: result) as batcher:
        for task in await started(*[batcher.submit(rows(i)) for i in range(3)]):
            with pytest.raises(ModelFaultError):
                await task


@on_a_loop
async def test_parts_of_an_answer_that_do_not_fit_together_fail_that_request_alone() -> None:
    async with batching(lambda inputs: {str(inputs["id"][0]): inputs["id"]}) as batcher:
        large, small = await started(batcher.submit(rows(*range(8))), batcher.submit(rows(9)))
        with pytest.raises(ModelFaultError):
            await large
        assert (await small).outputs["9"].tolist() == [9]


@on_a_loop
async def test_one_guilty_among_many_costs_two_computes_for_each_doubling() -> None:
    model = Model()
    async with batching(model, max_batch_rows=64) as batcher:
        tasks = await started(
            *[batcher.submit(rows(i, mark=POISON if i == 37 else GOOD)) for i in range(64)]
        )
        for i, task in enumerate(tasks):
            if i == 37:
                with pytest.raises(ModelFaultError):
                    await task
            else:
                assert_answers(await task, i)
    assert len(model.batches) == 1 + 2 * 6


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        OSError("BFCArena: Failed to allocate memory"),
    ],
    ids=["python", "torch", "onnx"],
)
@on_a_loop
async def test_a_batch_too_large_for_the_memory_is_computed_in_halves(error: Exception) -> None:
    sizes: list[int] = []

    def compute(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["id"]))
        if len(inputs["id"]) > 3:
            raise error
        return answers_to(inputs["id"])

    async with batching(compute, max_batch_rows=16) as batcher:
        large, small = await started(batcher.submit(rows(*range(10))), batcher.submit(rows(20)))
        assert_answers(await large, *range(10))
        assert_answers(await small, 20)
    assert sizes == [11, 10, 5, 2, 3, 5, 2, 3, 1]


@on_a_loop
async def test_one_row_too_large_for_the_memory_fails() -> None:
    def compute(inputs: Arrays) -> Arrays:
        raise MemoryError

    async with batching(compute) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, 2, 3))


# Computes that do not end


class Stuck(Model):
    """A model that never ends where a row is marked, until `end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Answer, or hang."""
        if POISON in inputs["mark"]:
            self.batches.append(inputs["id"].tolist())
            assert self.end.wait(LIMIT)
            return answers_to(inputs["id"])
        return super().__call__(inputs)


async def look_until(batcher: MicroBatcher, condition: Callable[[], Any]) -> None:
    while not condition():
        batcher.give_up_after(0.05)
        await asyncio.sleep(0.01)


@on_a_loop
async def test_only_the_request_that_hangs_fails_and_all_others_are_answered() -> None:
    model = Stuck()
    async with batching(model) as batcher:
        tasks = await started(
            batcher.submit(rows(1)),
            batcher.submit(rows(2, mark=POISON)),
            batcher.submit(rows(*range(3, 9))),
            batcher.submit(rows(9)),
        )
        before, guilty, across, after = tasks
        await look_until(batcher, lambda: all(task.done() for task in tasks))
        with pytest.raises(ModelFaultError) as caught:
            await guilty
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert_answers(await before, 1)
        assert_answers(await across, *range(3, 9))
        assert_answers(await after, 9)
        assert batcher.given_up == 2
        model.end.set()
        await until(lambda: len(threads(batcher._name)) == 1)
        assert_answers(await batcher.submit(rows(10)), 10)


@on_a_loop
async def test_a_compute_that_ends_in_time_is_not_given_up() -> None:
    model = Model()
    async with batching(model) as batcher:
        batcher.give_up_after(0.0)
        assert_answers(await batcher.submit(rows(1)), 1)
        batcher.give_up_after(0.0)
        async with busy(model, batcher):
            batcher.give_up_after(LIMIT)
        assert batcher.given_up == 0


@on_a_loop
async def test_a_queue_that_takes_too_long_refuses_and_takes_again_when_it_is_shorter() -> None:
    def compute(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return answers_to(inputs["id"])

    async with batching(compute, max_batch_rows=2, max_queue_rows=1_000, max_wait=0.12) as batcher:
        await asyncio.gather(*[batcher.submit(rows(i)) for i in range(8)])  # it learns its pace
        tasks = await started(*[batcher.submit(rows(i)) for i in range(100)])
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
        assert "rows waiting, which take" in str(refused[0])
        assert 2 <= len(answers) - len(refused) <= 20
        assert all(isinstance(answer, Answer | QueueFullError) for answer in answers)
        assert_answers(await batcher.submit(rows(1)), 1)


@on_a_loop
async def test_it_knows_before_the_first_full_batch_how_long_one_takes() -> None:
    model = Model()
    limits = {"max_batch_rows": 10, "max_queue_rows": 1_000, "max_wait": 1.0}
    async with batching(model, full_seconds=0.3, **limits) as batcher:
        model.gate.clear()
        tasks = await started(batcher.submit(rows(0)))  # in compute: 0.3 s at the most
        for i in range(1, 30):
            batcher.check_room()
            tasks += await started(batcher.submit(rows(i)))
        batcher.check_room()  # 29 wait: two full batches, and the one in compute
        tasks += await started(batcher.submit(rows(30)))
        with pytest.raises(QueueFullError, match=r"take 1\.2 seconds"):
            batcher.check_room()
        model.gate.set()
        for i, task in enumerate(tasks):
            assert_answers(await task, i)
        batcher.check_room()


# The end


@on_a_loop
async def test_close_refuses_new_requests_finishes_the_queued_and_ends_the_thread() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        tasks = await started(*[batcher.submit(rows(2 * i, 2 * i + 1)) for i in range(5)])
        closings = [asyncio.create_task(batcher.close()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await batcher.submit(rows(100))
        assert not any(closing.done() for closing in closings)
        model.gate.set()
        await asyncio.gather(*closings)
        for i, task in enumerate(tasks):
            assert_answers(await task, 2 * i, 2 * i + 1)
        await batcher.close()
        with pytest.raises(NotReadyError):
            await batcher.submit(rows(100))


@on_a_loop
async def test_a_close_that_was_given_up_can_be_repeated() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.close(), 0.01)
        model.gate.set()
        await batcher.close()


@on_a_loop
async def test_a_deadline_holds_while_close_waits() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        (task,) = await started(batcher.submit(rows(1), timeout=0.02))
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(DeadlineExceededError):
            await task
        assert not closing.done()
        model.gate.set()
        await closing


def test_a_loop_that_ends_first_does_not_break_the_thread() -> None:
    model = Model()
    model.gate.clear()

    async def abandon() -> None:
        batcher = Awaited(model, max_batch_rows=4, max_queue_rows=4, name="abandoned")
        asyncio.create_task(batcher.submit(rows(1)))  # noqa: RUF006 - asyncio.run cancels it
        await until(lambda: model.batches)

    asyncio.run(abandon())
    (thread,) = threads("abandoned")
    model.gate.set()
    thread.join(LIMIT)
    assert not thread.is_alive()


@on_a_loop
async def test_an_idle_batcher_keeps_no_arrays_alive() -> None:
    async with batching(Model()) as batcher:
        inputs = rows(1)
        answer = await batcher.submit(inputs, timeout=60.0)
        alive = [weakref.ref(inputs["id"]), weakref.ref(answer.outputs["next"].base)]
        del inputs, answer
        gc.collect()
        await until(lambda: not any(reference() is not None for reference in alive))


# Figures


@on_a_loop
async def test_each_batch_is_reported_and_each_caller_gets_its_own_figures() -> None:
    reports: list[BatchReport] = []
    model = Model()
    async with batching(model, on_batch=reports.append) as batcher:
        async with busy(model, batcher):
            tasks = await started(batcher.submit(rows(1, 2)), batcher.submit(rows(*range(3, 8))))
            await asyncio.sleep(0.05)
        small, large = [await task for task in tasks]
    assert [(report.rows, report.requests) for report in reports] == [(1, 1), (4, 2), (3, 1)]
    first, second, third = reports
    assert first.timings.compute >= 0.04
    assert all(seconds > 0 for report in reports for seconds in report.timings)
    assert second.queue_seconds >= 0.04
    assert small.queue_seconds == second.queue_seconds
    assert 0.04 <= large.queue_seconds < third.queue_seconds
    assert small.compute_seconds == sum(second.timings)
    assert large.compute_seconds == sum(second.timings) + sum(third.timings)
    assert (small.batch_rows, large.batch_rows) == (4, 3)


@pytest.mark.parametrize("inline_rows", [0, 4])
@on_a_loop
async def test_a_report_that_raises_harms_no_caller(inline_rows: int) -> None:
    def fail(_: BatchReport) -> None:
        raise RuntimeError

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with batching(Model(), on_batch=fail, inline_rows=inline_rows) as batcher:
        answers = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(9)])
    for i, answer in enumerate(answers):
        assert_answers(answer, i)


# Small batches, on the event loop


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


# Everything at once


class Visit(NamedTuple):
    """One caller of a random schedule; times in milliseconds."""

    rows: int
    mark: int
    arrives: int
    timeout: int | None
    leaves: int | None


moments = st.integers(0, 12)
visits = st.builds(
    Visit,
    rows=st.integers(1, 7),
    mark=st.sampled_from([GOOD] * 6 + [POISON, MISCOUNT]),
    arrives=moments,
    timeout=st.none() | moments,
    leaves=st.none() | st.none() | moments,
)


@settings(max_examples=150, deadline=None)
@given(
    schedule=st.lists(visits, min_size=1, max_size=25),
    max_batch_rows=st.integers(1, 6),
    spare_queue_rows=st.integers(0, 30),
    max_delay=st.sampled_from([0.0, 0.0, 0.002]),
    inline_rows=st.sampled_from([0, 0, 1, 3, 6]),
    compute_seconds=st.sampled_from([0.0, 0.0005, 0.003]),
    closes=st.none() | moments,
)
@on_a_loop
async def test_every_caller_gets_exactly_its_own_rows_or_one_error_that_it_could_expect(
    schedule: list[Visit],
    max_batch_rows: int,
    spare_queue_rows: int,
    max_delay: float,
    inline_rows: int,
    compute_seconds: float,
    closes: int | None,
) -> None:
    model = Model()

    def compute(inputs: Arrays) -> Arrays:
        time.sleep(compute_seconds)
        return model(inputs)

    max_queue_rows = max_batch_rows + spare_queue_rows

    async def call(batcher: MicroBatcher, index: int, visit: Visit) -> Answer | BaseException:
        inputs = rows(*range(100 * index, 100 * index + visit.rows), mark=visit.mark)
        timeout = None if visit.timeout is None else visit.timeout / 1000
        await asyncio.sleep(visit.arrives / 1000)
        task = asyncio.create_task(batcher.submit(inputs, timeout=timeout))
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
            case Answer():
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
