"""A batcher with coroutine callers, and a model that can be held and can fail.

Rows have unique IDs, and the model's output for a row depends on its ID, so an output shows which
row it belongs to. A test can hold the compute at a gate to keep the batcher busy.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from service.batching.batch import Arrays, InferenceRequest, InferenceResponse
from service.batching.batcher import MicroBatcher
from service.batching.costs import CostModel
from service.concurrency import wait_for_callback
from service.errors import ServiceError

LIMIT = 20.0  # seconds; a longer test hangs

GOOD, POISON, MISCOUNT = range(3)

numbers = itertools.count()


class Model:
    """A compute function that records the IDs of every batch, and can be held at a gate."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault = fault or ValueError("secret path /srv/model.onnx")

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs, unless a row is marked."""
        ids, marks = inputs["id"], inputs["mark"]
        self.batches.append(ids.tolist())
        assert self.gate.wait(LIMIT)
        if POISON in marks:
            raise self.fault
        outputs = answers_to(ids)
        if MISCOUNT in marks:
            outputs["square"] = outputs["square"][1:]
        return outputs


def answers_to(ids: Any) -> dict[str, Any]:
    return {"next": ids + 1, "square": np.stack([ids, ids**2], axis=1)}


def rows(*ids: int, mark: int = GOOD) -> Arrays:
    """Return a request of these IDs, the last of which carries the mark."""
    marks = np.zeros(len(ids), np.uint8)
    marks[-1:] = mark
    return {"id": np.array(ids, np.int64), "mark": marks}


def assert_answers(response: InferenceResponse, *ids: int) -> None:
    expected = answers_to(np.array(ids, np.int64))
    assert response.outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(response.outputs[name], array)


class Awaited(MicroBatcher):
    """A batcher whose callers wait in coroutines."""

    async def submit(
        self,
        inputs: Arrays,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        caller: str = "",
        group: Hashable = None,
    ) -> InferenceResponse:
        """Enqueue the request, and cancel it if the caller is cancelled."""

        def begin(done: Callable[[InferenceResponse | ServiceError], None]) -> InferenceRequest:
            return self.enqueue(inputs, done, timeout=timeout, caller=caller, group=group)

        response = await wait_for_callback(begin)
        if isinstance(response, InferenceResponse):
            return response
        raise response


@asynccontextmanager
async def batching(compute: Callable[[Arrays], Arrays], **options: Any) -> AsyncIterator[Any]:
    """Open a batcher without a thread; at the end it must be empty, and have none again."""
    name = f"test-{next(numbers)}"
    defaults: dict[str, Any] = {"max_batch_rows": 4, "max_queue_rows": 100, "name": name}
    batcher = Awaited(compute, **with_costs(defaults | options))
    assert not threads(name)
    yield batcher
    await batcher.close()
    assert batcher.queued_rows == 0
    await until(lambda: not threads(name))


def with_costs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the costs of a model in place of the seconds of a full batch."""
    full_seconds = options.pop("full_seconds", 0.0)
    if full_seconds:
        options["costs"] = CostModel({options["max_batch_rows"]: full_seconds})
    return options


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"batcher-{name}"]


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition changes on another thread
        await asyncio.sleep(0.001)


async def started(
    *submissions: Coroutine[Any, Any, InferenceResponse],
) -> list[asyncio.Task[InferenceResponse]]:
    """Start the submissions in this order, and run each until it waits."""
    tasks = [asyncio.create_task(submission) for submission in submissions]
    await asyncio.sleep(0)
    return tasks


async def leave(task: asyncio.Task[InferenceResponse]) -> None:
    """Cancel a caller, as a client that disconnects."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def busy(
    model: Model, batcher: MicroBatcher
) -> AsyncIterator[asyncio.Task[InferenceResponse]]:
    """Hold the batcher in the compute of one row, with ID -1, during the block."""
    model.gate.clear()
    try:
        (task,) = await started(batcher.submit(rows(-1)))
        await until(lambda: model.batches)
        yield task
    finally:
        model.gate.set()
    assert_answers(await task, -1)
