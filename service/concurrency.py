"""Callbacks on the path of a prediction, coroutines everywhere else.

A task with its context and futures costs more than the rest of a small prediction. The code between
the socket and the model therefore uses callbacks; `wait_for_callback` awaits one of them.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Cancellable(Protocol):
    """A handle of work in progress, such as an `asyncio.Task`."""

    def cancel(self) -> object:
        """Cancel the work: its callback is not called then. Does nothing after its end."""


async def wait_for_callback(start: Callable[[Callable[[Result], None]], Cancellable]) -> Result:
    """Return the value that `start(done)` calls `done` with.

    Args:
        start: starts the work and returns its handle, which is cancelled if this is cancelled.
    """
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(result: Result) -> None:
        if not future.done():
            future.set_result(result)

    handle = start(done)
    try:
        return await future
    finally:
        handle.cancel()
