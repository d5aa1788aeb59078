"""A batcher that is asked from coroutines, and a model that can be held and can fail.

Rows carry unique ids and the model's answer to a row is computed from its id, so an answer proves
whose it is. Compute is held at a gate where a test needs a busy batcher.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest

from service.batching.batch import Answer, Arrays
from service.batching.batcher import MicroBatcher
from service.callbacks import called_back
from service.errors import ServiceError

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

        def begin(done: Callable[[Answer | ServiceError], None]) -> Callable[[], None]:
            return partial(self.withdraw, self.enqueue(inputs, done, timeout=timeout))

        answer = await called_back(begin)
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


async def leave(task: asyncio.Task[Answer]) -> None:
    """Go away, as a caller does whose client has hung up."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


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
