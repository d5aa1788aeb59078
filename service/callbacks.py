"""Callbacks where a prediction passes, coroutines where somebody can wait.

A task, its context and its futures cost more than all that a small prediction needs of Python. So
what lies between the socket and the model calls back, and this turns it into an `await` for others.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def called_back(begin: Callable[[Callable[[Result], None]], Callable[[], None]]) -> Result:
    """What `begin(done)` calls `done` with.

    Args:
        begin: gives what gives it up. That is called at the end, also where it was cancelled, and
            does nothing where `done` has been called.
    """
    found: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(result: Result) -> None:
        if not found.done():
            found.set_result(result)

    give_up = begin(done)
    try:
        return await found
    finally:
        give_up()
