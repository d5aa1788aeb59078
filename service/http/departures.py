"""Ends the work for callers who have gone away.

To watch a connection while its request is computed takes as long as a small prediction. So only
those are watched that have waited for a while, and a request that is soon answered costs nothing.
"""

import asyncio
from time import monotonic

from service.http.exchange import Exchange

PATIENCE_SECONDS = 0.1
"""How long a request waits before its caller is watched."""


class Departures:
    """The requests in progress on one event loop, each in its own task."""

    def __init__(self) -> None:
        self._present: dict[asyncio.Task[None], Exchange] = {}  # the oldest first
        self._watchers: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        self._round: asyncio.Handle | None = None

    def enter(self, exchange: Exchange) -> asyncio.Task[None]:
        """The current task answers `exchange`; it is cancelled if the caller goes away.

        From when `exchange.receive` is set, ASGI's `receive` has nothing to tell but that.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: coroutines run in tasks
        self._present[task] = exchange
        if self._round is None:
            self._round = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look)
        return task

    def leave(self, task: asyncio.Task[None]) -> None:
        """The task's request has been answered, or given up."""
        del self._present[task]
        watcher = self._watchers.pop(task, None)
        if watcher is not None:
            watcher.cancel()

    def _look(self) -> None:
        late = monotonic() - PATIENCE_SECONDS
        for task, exchange in self._present.items():
            if exchange.started > late:
                break
            if exchange.receive is not None and task not in self._watchers:
                watch = _watch(task, exchange)
                self._watchers[task] = asyncio.get_running_loop().create_task(watch)
        self._round = None
        if self._present:
            self._round = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look)


async def _watch(task: asyncio.Task[None], exchange: Exchange) -> None:
    if exchange.receive is not None:
        await exchange.receive()
        exchange.departed = True
        task.cancel()
