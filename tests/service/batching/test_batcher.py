"""The guarantees of the micro-batcher.

No test measures time, except deadlines that must have passed.
"""

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
from batchers import (
    LIMIT,
    Awaited,
    Model,
    answers_to,
    assert_answers,
    batching,
    busy,
    rows,
    started,
    threads,
    until,
)

from service.batching.batch import Arrays, InferenceRequest, InferenceResponse
from service.batching.batcher import BatchReport, MicroBatcher
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    DeadlineExceededError,
    ModelFaultError,
    NotReadyError,
    QueueFullError,
)

pytestmark = pytest.mark.timeout(20)  # a longer test hangs

# Batches and rows


async def test_no_batch_has_more_rows_than_allowed_and_a_busy_batcher_fills_them() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        tasks = await started(*[batcher.submit(rows(*range(i, i + 3))) for i in range(0, 30, 3)])
        assert batcher.queued_rows == 30
        model.gate.set()
        for i, task in enumerate(tasks):
            assert_answers(await task, *range(3 * i, 3 * i + 3))
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 4, 4, 4, 4, 4, 2]


async def test_requests_are_computed_with_those_of_their_shape() -> None:
    computed: list[tuple[int, ...]] = []

    def double(inputs: Arrays) -> Arrays:
        computed.append(inputs["x"].shape)
        return {"y": 2 * inputs["x"]}

    lengths = [3, 5, 3, 5, 3]
    sent = [np.full((1, length), length, np.float32) for length in lengths]
    async with batching(double, max_batch_rows=8) as batcher:
        responses = await asyncio.gather(
            *[batcher.submit({"x": array}, group=array.shape[1:]) for array in sent]
        )
    for response, array in zip(responses, sent, strict=True):
        np.testing.assert_array_equal(response.outputs["y"], 2 * array)
    assert computed == [(3, 3), (2, 5)]


async def test_a_request_that_fails_does_not_fail_those_of_another_shape() -> None:
    computed: list[tuple[int, ...]] = []

    def compute(inputs: Arrays) -> Arrays:
        computed.append(inputs["x"].shape)
        if inputs["x"].shape[1] == 5:
            raise ValueError("five is too long")
        return {"y": inputs["x"]}

    async with batching(compute, max_batch_rows=8) as batcher:
        outcomes = await asyncio.gather(
            *[
                batcher.submit({"x": np.zeros((1, length), np.float32)}, group=length)
                for length in (3, 5, 3)
            ],
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [
        InferenceResponse,
        ModelFaultError,
        InferenceResponse,
    ]
    assert sorted(computed) == [(1, 5), (2, 3)]


async def test_requests_of_one_loop_iteration_share_the_first_batch_of_an_idle_batcher() -> None:
    model = Model()
    async with batching(model) as batcher:
        responses = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(3)])
    for i, response in enumerate(responses):
        assert_answers(response, i)
    assert model.batches == [[0, 1, 2]]


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


async def test_max_delay_makes_an_idle_batcher_wait_for_more_requests() -> None:
    model = Model()
    async with batching(model, max_delay=0.5) as batcher:
        (first,) = await started(batcher.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert_answers(await batcher.submit(rows(2)), 2)
        assert_answers(await first, 1)
    assert model.batches == [[1, 2]]


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


async def test_the_outputs_of_a_split_request_are_gathered_by_the_thread() -> None:
    """The event loop gets them in one piece: copying 16 MB would hold it."""
    threads: set[int] = set()
    gather = InferenceRequest.gather

    def noted(request: InferenceRequest, start: int, stop: int, outputs: Arrays) -> Arrays:
        threads.add(threading.get_ident())
        return gather(request, start, stop, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InferenceRequest, "gather", noted)
        async with batching(Model(), max_batch_rows=4, inline_rows=4) as batcher:
            assert_answers(await batcher.submit(rows(*range(10))), *range(10))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_large_request_is_split_and_joined_and_takes_turns_with_others() -> None:
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
    assert model.batches[1:] == [[0, 10, 1, 2], [11, 12, 13, 3], [14, 15, 16, 17], [18]]


async def test_a_batch_of_one_request_is_not_copied_and_shared_outputs_are_views() -> None:
    seen: list[Arrays] = []
    made: list[Arrays] = []

    def compute(inputs: Arrays) -> Arrays:
        seen.append(inputs)
        made.append(answers_to(inputs["id"]))
        return made[-1]

    async with batching(compute) as batcher:
        inputs = rows(1, 2)
        response = await batcher.submit(inputs)
        assert all(np.shares_memory(seen[0][name], inputs[name]) for name in inputs)
        assert all(np.shares_memory(response.outputs[name], made[0][name]) for name in made[0])
        first, second = await asyncio.gather(batcher.submit(rows(1)), batcher.submit(rows(2)))
        assert len(made) == 2
        assert np.shares_memory(first.outputs["next"], made[1]["next"])
        assert np.shares_memory(second.outputs["next"], made[1]["next"])


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


async def test_a_full_queue_refuses_at_once_and_accepts_again_when_it_drains() -> None:
    model = Model()
    async with batching(model, max_queue_rows=6) as batcher:
        async with busy(model, batcher):
            tasks = await started(batcher.submit(rows(1, 2)), batcher.submit(rows(3, 4, 5)))
            with pytest.raises(QueueFullError):
                await batcher.submit(rows(6, 7))
            tasks += await started(*[batcher.submit(rows(i)) for i in range(10, 14)])
            assert batcher.queued_rows == 9  # those of one row wait for one of each other request
            with pytest.raises(QueueFullError):
                await batcher.submit(rows(9))
        for task, ids in zip(tasks, ([1, 2], [3, 4, 5], [10], [11], [12], [13]), strict=True):
            assert_answers(await task, *ids)
        assert_answers(await batcher.submit(rows(*range(6))), *range(6))
    assert not {6, 7, 9} & {i for batch in model.batches[:4] for i in batch}


async def test_a_request_larger_than_the_queue_is_refused_with_its_limit_idle_or_busy() -> None:
    model = Model()
    async with batching(model, max_queue_rows=6) as batcher:
        with pytest.raises(BodyTooLargeError, match=r"7 rows.* at most 6"):
            await batcher.submit(rows(*range(7)))
        async with busy(model, batcher):
            with pytest.raises(BodyTooLargeError, match=r"7 rows.* at most 6"):
                await batcher.submit(rows(*range(7)))


async def test_a_request_without_rows_is_refused() -> None:
    async with batching(Model()) as batcher:
        with pytest.raises(BadInputError):
            await batcher.submit(rows())


@pytest.mark.parametrize(("batch", "queue"), [(0, 5), (5, 4)])
async def test_limits_with_which_no_batch_is_ever_full_are_refused(batch: int, queue: int) -> None:
    with pytest.raises(ValueError, match="max_batch_rows"):
        MicroBatcher(Model(), max_batch_rows=batch, max_queue_rows=queue, name="test")


async def test_a_queue_with_a_long_wait_refuses_and_accepts_again_when_it_is_shorter() -> None:
    def compute(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return answers_to(inputs["id"])

    async with batching(compute, max_batch_rows=2, max_queue_rows=1_000, max_wait=0.12) as batcher:
        await asyncio.gather(
            *[batcher.submit(rows(i)) for i in range(8)]
        )  # it measures a full batch
        tasks = await started(*[batcher.submit(rows(i)) for i in range(100)])
        responses = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [response for response in responses if isinstance(response, QueueFullError)]
        assert "rows waiting, which take" in str(refused[0])
        assert 2 <= len(responses) - len(refused) <= 20
        assert all(
            isinstance(response, InferenceResponse | QueueFullError) for response in responses
        )
        assert_answers(await batcher.submit(rows(1)), 1)


async def test_the_duration_of_a_full_batch_is_known_before_the_first() -> None:
    model = Model()
    limits = {"max_batch_rows": 10, "max_queue_rows": 1_000, "max_wait": 1.0}
    async with batching(model, full_seconds=0.3, **limits) as batcher:
        model.gate.clear()
        tasks = await started(batcher.submit(rows(0)))  # in compute: at most 0.3 s
        for i in range(1, 30):
            batcher.check_capacity()
            tasks += await started(batcher.submit(rows(i)))
        batcher.check_capacity()  # 29 wait: two full batches, and the one in compute
        tasks += await started(batcher.submit(rows(30)))
        with pytest.raises(QueueFullError, match=r"take 1\.2 seconds"):
            batcher.check_capacity()
        model.gate.set()
        for i, task in enumerate(tasks):
            assert_answers(await task, i)
        batcher.check_capacity()


async def test_a_refusal_says_when_there_is_room_again() -> None:
    model = Model()
    limits = {"max_batch_rows": 10, "max_queue_rows": 100, "full_seconds": 2.0}
    async with batching(model, max_wait=6.5, **limits) as batcher:
        model.gate.clear()
        tasks = await started(batcher.submit(rows(0)))  # in compute
        tasks += await started(*(batcher.submit(rows(i)) for i in range(30)))
        with pytest.raises(QueueFullError, match=r"take 8\.0 seconds") as slow:
            batcher.check_capacity()
        with pytest.raises(QueueFullError, match="room for 100") as full:
            batcher.check_capacity(90)  # 20 rows too many: two batches, and the one in compute
        model.gate.set()
        await asyncio.gather(*tasks)
    assert slow.value.headers == (("Retry-After", "2"),)
    assert full.value.headers == (("Retry-After", "6"),)


# The end


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


async def test_a_cancelled_close_can_be_repeated() -> None:
    model = Model()
    async with batching(model) as batcher, busy(model, batcher):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.close(), 0.01)
        model.gate.set()
        await batcher.close()


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


async def test_an_idle_batcher_keeps_no_arrays_alive() -> None:
    async with batching(Model()) as batcher:
        inputs = rows(1)
        response = await batcher.submit(inputs, timeout=60.0)
        alive = [weakref.ref(inputs["id"]), weakref.ref(response.outputs["next"].base)]
        del inputs, response
        gc.collect()
        await until(lambda: not any(reference() is not None for reference in alive))


# Figures


async def test_each_batch_is_reported_and_each_caller_gets_its_own_timings() -> None:
    reports: list[BatchReport] = []
    model = Model()
    async with batching(model, on_batch=reports.append) as batcher:
        async with busy(model, batcher):
            tasks = await started(batcher.submit(rows(1, 2)), batcher.submit(rows(*range(3, 8))))
            await asyncio.sleep(0.05)
        small, large = [await task for task in tasks]
    assert [(report.rows, report.requests) for report in reports] == [(1, 1), (4, 2), (3, 1)]
    first, second, third = reports
    assert first.timings.compute_infer >= 0.04
    assert all(seconds > 0 for report in reports for seconds in report.timings)
    assert small.queue_seconds >= 0.04
    assert large.queue_seconds >= 0.04
    assert second.waits == [small.queue_seconds]  # a slice of the larger one still waited
    assert third.waits == [large.queue_seconds]
    assert (second.answered_rows, third.answered_rows) == (2, 5)
    assert small.queue_seconds + small.compute_seconds <= second.answered_seconds
    assert large.queue_seconds + large.compute_seconds <= third.answered_seconds
    assert small.compute_seconds == sum(second.timings)
    assert large.compute_seconds == sum(second.timings) + sum(third.timings)
    assert (small.batch_rows, large.batch_rows) == (4, 3)


@pytest.mark.parametrize("inline_rows", [0, 4])
async def test_a_report_that_raises_does_not_affect_callers(inline_rows: int) -> None:
    def fail(_: BatchReport) -> None:
        raise RuntimeError

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with batching(Model(), on_batch=fail, inline_rows=inline_rows) as batcher:
        responses = await asyncio.gather(*[batcher.submit(rows(i)) for i in range(9)])
    for i, response in enumerate(responses):
        assert_answers(response, i)
