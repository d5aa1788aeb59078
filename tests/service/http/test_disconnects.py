"""Requests of disconnected clients are cancelled; others get responses, however slow."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from starlette.types import Message

from service.http.disconnects import PATIENCE_SECONDS, DisconnectWatcher
from service.telemetry.request_context import RequestContext

Receive = Callable[[], Awaitable[Message]]


class Connection:
    """A connection whose client may disconnect."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.asked = 0

    async def receive(self) -> Message:
        """Wait until the client disconnects."""
        self.asked += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def handle(
    watcher: DisconnectWatcher, context: RequestContext, work: Coroutine[Any, Any, str]
) -> str:
    """Watch the request while it is handled, as the app does."""
    task = watcher.watch(context)
    try:
        return await work
    except asyncio.CancelledError:
        if not context.disconnected:
            raise
        return "disconnected"
    finally:
        watcher.unwatch(task)


async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "answered"


def context_of(receive: Receive | None) -> RequestContext:
    return RequestContext("1", "POST", "/", receive=receive)


async def test_a_request_of_a_disconnected_client_is_cancelled() -> None:
    watcher, caller, other = DisconnectWatcher(), Connection(), Connection()
    tasks = [
        asyncio.create_task(handle(watcher, context_of(connection.receive), work(seconds)))
        for connection, seconds in ((caller, 60), (other, 4 * PATIENCE_SECONDS))
    ]
    await asyncio.sleep(PATIENCE_SECONDS / 2)
    caller.gone.set()
    assert await asyncio.wait_for(tasks[0], 5) == "disconnected"
    assert await tasks[1] == "answered"


async def test_a_fast_request_has_no_watcher() -> None:
    watcher, caller = DisconnectWatcher(), Connection()
    for _ in range(5):
        assert await handle(watcher, context_of(caller.receive), work(0.001)) == "answered"
    await asyncio.sleep(2 * PATIENCE_SECONDS)
    assert caller.asked == 0


async def test_a_request_whose_body_is_being_read_is_not_watched() -> None:
    work_done = handle(DisconnectWatcher(), context_of(None), work(3 * PATIENCE_SECONDS))
    assert await work_done == "answered"


async def test_a_slow_request_is_watched_once_and_the_watcher_ends_with_the_response() -> None:
    caller = Connection()
    before = len(asyncio.all_tasks())
    done = await handle(DisconnectWatcher(), context_of(caller.receive), work(5 * PATIENCE_SECONDS))
    assert (done, caller.asked) == ("answered", 1)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before


async def test_a_cancellation_from_elsewhere_is_not_swallowed() -> None:
    caller = Connection()
    request = asyncio.create_task(handle(DisconnectWatcher(), context_of(caller.receive), work(60)))
    await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
