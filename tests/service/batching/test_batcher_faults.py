"""What the micro-batcher saves where a model fails, or does not come back: all but the guilty."""

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
    on_a_loop,
    rows,
    started,
    threads,
    until,
)

from service.batching.batch import Answer, Judge, Part, Request, run_batch
from service.batching.batcher import Arrays, MicroBatcher
from service.batching.worker import Worker
from service.errors import BadInputError, ModelFaultError, ServiceError

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


def blaming(asked: list[Exception]) -> Judge:
    """A judge that notes what it is asked, and finds it to be the caller's fault."""

    def judge(compute: Callable[[Arrays], Arrays], error: Exception) -> ServiceError:
        asked.append(error)
        assert_answers(Answer(compute(rows(7)), 0.0, 0.0, 1), 7)
        return BadInputError("yours")

    return judge


@pytest.mark.parametrize("inline_rows", [0, 4])
@on_a_loop
async def test_a_judge_says_whose_fault_it_is_that_a_request_fails_alone(inline_rows: int) -> None:
    model, asked = Model(), list[Exception]()
    async with batching(model, judge=blaming(asked), inline_rows=inline_rows) as batcher:
        before, guilty, after = await started(
            batcher.submit(rows(1)), batcher.submit(rows(2, mark=POISON)), batcher.submit(rows(3))
        )
        assert_answers(await before, 1)
        assert_answers(await after, 3)
        with pytest.raises(BadInputError, match="yours"):
            await guilty
    assert asked == [model.fault]
    assert model.batches == [[1, 2, 3], [1], [2, 3], [2], [7], [3]]


@pytest.mark.parametrize(
    ("fault", "mark"),
    [(MemoryError(), POISON), (MemoryError("CUDA out of memory"), POISON),
     (KeyboardInterrupt(), POISON), (None, MISCOUNT)],
    ids=repr,
)  # fmt: skip
@on_a_loop
async def test_a_judge_is_not_asked_where_it_is_never_the_caller(
    fault: BaseException | None, mark: int
) -> None:
    asked = list[Exception]()
    async with batching(Model(fault), judge=blaming(asked)) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, mark=mark))
    assert asked == []


@on_a_loop
async def test_a_judge_that_fails_leaves_nobody_waiting() -> None:
    def judge(compute: object, error: Exception) -> ServiceError:
        raise LookupError("no verdict")

    async with batching(Model(), judge=judge) as batcher:
        with pytest.raises(ModelFaultError) as caught:
            await batcher.submit(rows(1, mark=POISON))
    assert isinstance(caught.value.__cause__, LookupError)


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
        await leave(leaver)
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


@on_a_loop
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
@on_a_loop
async def test_halves_that_do_not_fit_together_fail_and_nobody_hangs(inline_rows: int) -> None:
    def compute(inputs: Arrays) -> Arrays:
        if len(inputs["id"]) > 3:
            raise MemoryError
        return {"y": np.zeros((len(inputs["id"]), inputs["id"].max()))}

    async with batching(compute, max_batch_rows=16, inline_rows=inline_rows) as batcher:
        with pytest.raises(ModelFaultError):
            await batcher.submit(rows(1, 2, 3, 4))
        assert (await batcher.submit(rows(5))).outputs["y"].shape == (1, 5)


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


@pytest.mark.parametrize("ahead_seconds", [0.0, 1.0])
@on_a_loop
async def test_only_the_request_that_hangs_fails_and_all_others_are_answered(
    ahead_seconds: float,
) -> None:
    model = Stuck()
    async with batching(model, ahead_seconds=ahead_seconds, full_seconds=0.001) as batcher:
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
async def test_a_lost_compute_that_ends_late_holds_no_thread_and_does_not_end_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Stuck()
    hire = Worker._hire

    def hire_late(worker: Worker) -> None:
        """Let the lost compute end while another thread takes its place."""
        model.end.set()
        time.sleep(0.05)
        hire(worker)

    async with batching(model) as batcher:
        guilty, other = await started(
            batcher.submit(rows(1, 2, 3, 4, mark=POISON)), batcher.submit(rows(5))
        )
        await until(lambda: model.batches)
        monkeypatch.setattr(Worker, "_hire", hire_late)
        model.gate.clear()
        batcher.give_up_after(0.0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        assert batcher.given_up == 0
        model.gate.set()
        await closing
        with pytest.raises(ModelFaultError):
            await guilty
        assert_answers(await other, 5)


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
