"""Whoever goes away is not computed for; whoever stays is answered, however long it takes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from starlette.types import Message

from service.http.departures import PATIENCE_SECONDS, Departures
from service.http.exchange import Exchange

Receive = Callable[[], Awaitable[Message]]


class Connection:
    """A caller, who may go away."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.asked = 0

    async def receive(self) -> Message:
        """Wait until they do."""
        self.asked += 1
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def answer(departures: Departures, exchange: Exchange, work: Coroutine[Any, Any, str]) -> str:
    """What the front does with a request."""
    task = departures.enter(exchange)
    try:
        return await work
    except asyncio.CancelledError:
        if not exchange.departed:
            raise
        return "departed"
    finally:
        departures.leave(task)


async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "answered"


def exchange_of(receive: Receive | None) -> Exchange:
    return Exchange("1", "POST", "/", receive=receive)


def test_the_work_for_a_caller_who_has_gone_is_ended() -> None:
    async def run() -> None:
        departures, caller, other = Departures(), Connection(), Connection()
        tasks = [
            asyncio.create_task(answer(departures, exchange_of(connection.receive), work(seconds)))
            for connection, seconds in ((caller, 60), (other, 4 * PATIENCE_SECONDS))
        ]
        await asyncio.sleep(PATIENCE_SECONDS / 2)
        caller.gone.set()
        assert await asyncio.wait_for(tasks[0], 5) == "departed"
        assert await tasks[1] == "answered"

    asyncio.run(run())


def test_a_request_that_is_soon_answered_has_no_watcher() -> None:
    async def run() -> None:
        departures, caller = Departures(), Connection()
        for _ in range(5):
            assert await answer(departures, exchange_of(caller.receive), work(0.001)) == "answered"
        await asyncio.sleep(2 * PATIENCE_SECONDS)
        assert caller.asked == 0

    asyncio.run(run())


def test_a_request_whose_body_is_still_read_is_left_alone() -> None:
    async def run() -> None:
        work_done = answer(Departures(), exchange_of(None), work(3 * PATIENCE_SECONDS))
        assert await work_done == "answered"

    asyncio.run(run())


def test_a_patient_caller_is_watched_once_and_the_watcher_ends_with_the_answer() -> None:
    async def run() -> None:
        caller = Connection()
        before = len(asyncio.all_tasks())
        done = await answer(Departures(), exchange_of(caller.receive), work(5 * PATIENCE_SECONDS))
        assert (done, caller.asked) == ("answered", 1)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == before

    asyncio.run(run())


def test_whoever_else_cancels_a_request_is_heard() -> None:
    async def run() -> None:
        caller = Connection()
        request = asyncio.create_task(answer(Departures(), exchange_of(caller.receive), work(60)))
        await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(run())
