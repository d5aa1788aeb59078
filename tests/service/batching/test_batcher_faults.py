"""Models that fail or hang: only the failing request fails."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batchers import (
    GOOD,
    LIMIT,
    MISCOUNT,
    POISON,
    Model,
    answers_to,
    assert_answers,
    batching,
    busy,
    leave,
    rows,
    started,
    threads,
    until,
)

from service.batching.batch import InferenceRequest, InferenceResponse, Judge, Slice, run_batch
from service.batching.batcher import Arrays, MicroBatcher
from service.batching.worker import Worker
from service.errors import BadInputError, ModelFaultError, ServiceError

pytestmark = pytest.mark.timeout(20)  # a longer test hangs

# Models that fail


@pytest.mark.parametrize(
    "fault", [ValueError("x"), MemoryError(), KeyboardInterrupt(), SystemExit(1)], ids=repr
)
async def test_only_the_failing_request_fails_and_its_neighbours_are_computed_again(
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


async def test_a_batch_of_one_request_that_fails_is_not_repeated_and_shows_no_internals() -> None:
    model = Model()
    async with batching(model) as batcher:
        with pytest.raises(ModelFaultError) as caught:
            await batcher.submit(rows(1, mark=POISON))
    assert model.batches == [[1]]
    assert "secret" not in str(caught.value)


def blaming(judged: list[Exception]) -> Judge:
    """Return a judge that records its arguments, and blames the request."""

    def judge(compute: Callable[[Arrays], Arrays], error: Exception) -> ServiceError:
        judged.append(error)
        assert_answers(InferenceResponse(compute(rows(7)), 0.0, 0.0, 1), 7)
        return BadInputError("yours")

    return judge


@pytest.mark.parametrize("inline_rows", [0, 4])
async def test_a_judge_decides_the_error_of_a_request_that_fails_alone(inline_rows: int) -> None:
    model, judged = Model(), list[Exception]()
    async with batching(model, judge=blaming(judged), inline_rows=inline_rows) as batcher:
        before, guilty, after = await started(
            batcher.submit(rows(1)), batcher.submit(rows(2, mark=POISON)), batcher.submit(rows(3))
        )
        assert_answers(await before, 1)
        assert_answers(await after, 3)
        with pytest.raises(BadInputError, match="yours"):
            await guilty
    assert judged == [model.fault]
    assert model.batches == [[1, 2, 3], [1], [2, 3], [2], [7], [3]]


@pytest.mark.parametrize(
    ("fault", "mark"),
    [(KeyboardInterrupt(), POISON), (None, MISCOUNT)],
    ids=repr,
)  # fmt: skip
async def test_a_judge_is_not_called_for_faults_that_are_never_the_request(
    fault: BaseException | None, mark: int
) -> None:
    judged = list[Exception]()
    async with batching(Model(fault), judge=blaming(judged)) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, mark=mark))
    assert judged == []


async def test_a_judge_that_raises_leaves_no_caller_waiting() -> None:
    def judge(compute: object, error: Exception) -> ServiceError:
        raise LookupError("no verdict")

    async with batching(Model(), judge=judge) as batcher:
        with pytest.raises(ModelFaultError) as caught:
            await batcher.submit(rows(1, mark=POISON))
    assert isinstance(caught.value.__cause__, LookupError)


async def test_the_rest_of_a_failed_large_request_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        large = rows(*range(9))
        large["mark"][0] = POISON
        guilty, neighbour = await started(batcher.submit(large), batcher.submit(rows(20)))
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await neighbour, 20)
    assert model.batches == [[0, 1, 2, 3], [20]]


async def test_a_caller_cancelled_before_a_failed_batch_is_repeated_is_not_computed() -> None:
    model = Model()
    async with batching(model) as batcher:
        model.gate.clear()
        guilty, leaver, stayer = await started(
            batcher.submit(rows(1, mark=POISON)), batcher.submit(rows(2)), batcher.submit(rows(3))
        )
        await until(lambda: model.batches)
        await leave(leaver)
        model.gate.set()
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await stayer, 3)
    assert model.batches == [[1, 2, 3], [1], [3]]


def test_a_caller_cancelled_while_a_failed_batch_is_repeated_does_not_shift_outputs() -> None:
    def compute(inputs: Arrays) -> Arrays:
        if POISON in inputs["mark"]:
            raise ValueError("poison")
        if 2 in inputs["id"]:
            requests[2].done_callback = None  # as the thread of the event loop may at any time
        return answers_to(inputs["id"])

    inputs = [rows(0, mark=POISON), rows(1), rows(2), rows(3)]
    requests = [InferenceRequest(arrays, 1, 0, 0.0, math.inf, lambda _: None) for arrays in inputs]
    outcomes, _ = run_batch([Slice(request, 0, 1) for request in requests], compute, "model")
    assert isinstance(outcomes[0], ModelFaultError)
    for number in (1, 3):
        outcome = outcomes[number]
        assert not isinstance(outcome, ServiceError)
        assert outcome["next"].tolist() == [number + 1]


@pytest.mark.parametrize("surplus", [-1, 1])
async def test_a_wrong_number_of_rows_fails_only_the_failing_request(
    surplus: int,
) -> None:
    batches: list[int] = []

    def compute(inputs: Arrays) -> Arrays:
        ids = inputs["id"]
        batches.append(len(ids))
        responses = answers_to(ids)
        if 1 in ids:
            responses["square"] = np.zeros((len(ids) + surplus, 2))
        return responses

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
async def test_a_model_that_returns_no_arrays_fails_and_no_caller_hangs(result: Any) -> None:
    async with batching(lambda _: result) as batcher:
        for task in await started(*[batcher.submit(rows(i)) for i in range(3)]):
            with pytest.raises(ModelFaultError):
                await task


async def test_slices_that_cannot_be_joined_fail_only_their_request() -> None:
    async with batching(lambda inputs: {str(inputs["id"][0]): inputs["id"]}) as batcher:
        large, small = await started(batcher.submit(rows(*range(8))), batcher.submit(rows(9)))
        with pytest.raises(ModelFaultError):
            await large
        assert (await small).outputs["4"].tolist() == [9]  # it shares a batch


async def test_one_failing_request_among_many_takes_two_computes_per_doubling() -> None:
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


async def test_a_batch_too_large_for_the_memory_is_computed_in_halves() -> None:
    sizes: list[int] = []

    def compute(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["id"]))
        if len(inputs["id"]) > 3:
            raise MemoryError
        return answers_to(inputs["id"])

    async with batching(compute, max_batch_rows=16) as batcher:
        large, small = await started(batcher.submit(rows(*range(10))), batcher.submit(rows(20)))
        assert_answers(await large, *range(10))
        assert_answers(await small, 20)
    assert sizes == [11, 10, 5, 2, 3, 5, 2, 3, 1]


@pytest.mark.parametrize("inline_rows", [0, 16])
async def test_halves_that_cannot_be_joined_fail_and_no_caller_hangs(inline_rows: int) -> None:
    def compute(inputs: Arrays) -> Arrays:
        if len(inputs["id"]) > 3:
            raise MemoryError
        return {"y": np.zeros((len(inputs["id"]), inputs["id"].max()))}

    async with batching(compute, max_batch_rows=16, inline_rows=inline_rows) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, 2, 3, 4))
        assert (await batcher.submit(rows(5))).outputs["y"].shape == (1, 5)


async def test_one_row_too_large_for_the_memory_fails() -> None:
    def compute(inputs: Arrays) -> Arrays:
        raise MemoryError

    async with batching(compute) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, 2, 3))


# Computes that do not end


class Stuck(Model):
    """A model that hangs if a row is marked, until `end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs, or hang."""
        if POISON in inputs["mark"]:
            self.batches.append(inputs["id"].tolist())
            assert self.end.wait(LIMIT)
            return answers_to(inputs["id"])
        return super().__call__(inputs)


async def check_until(batcher: MicroBatcher, condition: Callable[[], Any]) -> None:
    while not condition():
        batcher.abandon_hung(0.05)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("prefetch_seconds", [0.0, 1.0])
async def test_only_the_request_that_hangs_fails_and_all_others_succeed(
    prefetch_seconds: float,
) -> None:
    model = Stuck()
    async with batching(model, prefetch_seconds=prefetch_seconds, full_seconds=0.001) as batcher:
        tasks = await started(
            batcher.submit(rows(1)),
            batcher.submit(rows(2, mark=POISON)),
            batcher.submit(rows(*range(3, 9))),
            batcher.submit(rows(9)),
        )
        before, guilty, across, after = tasks
        await check_until(batcher, lambda: all(task.done() for task in tasks))
        with pytest.raises(ModelFaultError) as caught:
            await guilty
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert_answers(await before, 1)
        assert_answers(await across, *range(3, 9))
        assert_answers(await after, 9)
        assert batcher.hung == 2
        model.end.set()
        await until(lambda: len(threads(batcher._name)) == 1)
        assert_answers(await batcher.submit(rows(10)), 10)


async def test_an_abandoned_compute_that_ends_late_frees_its_thread_and_keeps_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Stuck()
    hire = Worker._start_thread

    def hire_late(worker: Worker) -> None:
        """Let the abandoned compute end while another thread replaces it."""
        model.end.set()
        time.sleep(0.05)
        hire(worker)

    async with batching(model) as batcher:
        guilty, other = await started(
            batcher.submit(rows(1, 2, 3, 4, mark=POISON)), batcher.submit(rows(5))
        )
        await until(lambda: model.batches)
        monkeypatch.setattr(Worker, "_start_thread", hire_late)
        model.gate.clear()
        batcher.abandon_hung(0.0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        assert batcher.hung == 0
        model.gate.set()
        await closing
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await other, 5)


async def test_a_compute_that_ends_in_time_is_not_abandoned() -> None:
    model = Model()
    async with batching(model) as batcher:
        batcher.abandon_hung(0.0)
        assert_answers(await batcher.submit(rows(1)), 1)
        batcher.abandon_hung(0.0)
        async with busy(model, batcher):
            batcher.abandon_hung(LIMIT)
        assert batcher.hung == 0
