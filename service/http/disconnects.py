"""Cancel requests whose clients have disconnected.

Watching a connection takes as long as a small prediction. Only requests that have waited for a
while are therefore watched; a fast request costs nothing.
"""

import asyncio
from time import monotonic

from service.telemetry.request_context import RequestContext

PATIENCE_SECONDS = 0.1
"""How long a request waits before its connection is watched."""


class DisconnectWatcher:
    """The requests in progress on one event loop, each in its own task."""

    def __init__(self) -> None:
        self._requests: dict[asyncio.Task[None], RequestContext] = {}  # oldest first
        self._watchers: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        self._timer: asyncio.Handle | None = None

    def watch(self, context: RequestContext) -> asyncio.Task[None]:
        """Watch the request of the current task, which is cancelled if the client disconnects.

        Once `context.receive` is set, ASGI's `receive` can only return a disconnect.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: coroutines run in tasks
        self._requests[task] = context
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._check)
        return task

    def unwatch(self, task: asyncio.Task[None]) -> None:
        """Stop watching a request that has ended."""
        del self._requests[task]
        watcher = self._watchers.pop(task, None)
        if watcher is not None:
            watcher.cancel()

    def _check(self) -> None:
        late = monotonic() - PATIENCE_SECONDS
        for task, context in self._requests.items():
            if context.started > late:
                break
            if context.receive is not None and task not in self._watchers:
                watch = _cancel_on_disconnect(task, context)
                self._watchers[task] = asyncio.get_running_loop().create_task(watch)
        self._timer = None
        if self._requests:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._check)


async def _cancel_on_disconnect(task: asyncio.Task[None], context: RequestContext) -> None:
    if context.receive is not None:
        await context.receive()
        context.disconnected = True
        task.cancel()
