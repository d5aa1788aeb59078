"""Connections come in at the pace of time, not at that of the event loop's turns."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from service.http.arrivals import SECONDS_OF_ONE, Arrivals

CLIENTS = 200


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listening:
        yield listening


class Greeter(asyncio.Protocol):
    """Greets who is accepted, and keeps count."""

    def __init__(self) -> None:
        self.met = 0

    def connection_made(self, transport: Any) -> None:
        """Greet."""
        self.met += 1
        transport.write(b"welcome")


async def turn(seconds: float) -> None:
    """Let the loop turn once, for so long."""
    time.sleep(seconds)  # noqa: ASYNC251 - nothing else happens meanwhile
    await asyncio.sleep(0)


def connected(stack: ExitStack, listening: socket.socket, number: int) -> list[socket.socket]:
    """Clients whom nobody has accepted yet."""
    address = listening.getsockname()
    return [stack.enter_context(socket.create_connection(address, 5)) for _ in range(number)]


@pytest.mark.parametrize("turn_seconds", [0.0, 0.005])
def test_each_turn_accepts_as_many_as_it_has_lasted_and_no_more(
    listening: socket.socket, turn_seconds: float
) -> None:
    greeter, turns = Greeter(), 0

    async def serve() -> None:
        nonlocal turns
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: greeter, sock=listening)
        arrivals = Arrivals(listening, lambda: greeter, None)
        started = time.monotonic()
        while greeter.met < CLIENTS:
            assert turns < 10 * CLIENTS
            await turn(turn_seconds)
            turns += 1
            assert greeter.met <= 2 + turns + (time.monotonic() - started) / SECONDS_OF_ONE
        server.close()
        await arrivals.close()

    with ExitStack() as stack:
        clients = connected(stack, listening, CLIENTS)
        uvloop.run(serve())
        assert all(client.recv(7) == b"welcome" for client in clients)
    assert greeter.met == CLIENTS
    if turn_seconds:
        assert turns < CLIENTS / 4


def test_who_was_accepted_when_it_closes_is_served_and_who_comes_later_is_not(
    listening: socket.socket,
) -> None:
    greeter = Greeter()

    async def serve(stack: ExitStack) -> None:
        arrivals = Arrivals(listening, lambda: greeter, None)
        (client,) = connected(stack, listening, 1)
        while not arrivals._serving:
            await turn(2 * SECONDS_OF_ONE)
        assert greeter.met == 0
        await arrivals.close()
        assert client.recv(7) == b"welcome"
        connected(stack, listening, 1)
        for _ in range(10):
            await turn(2 * SECONDS_OF_ONE)
        assert greeter.met == 1

    with ExitStack() as stack:
        uvloop.run(serve(stack))


def test_who_was_not_accepted_when_it_closes_is_left_to_the_other_workers(
    listening: socket.socket,
) -> None:
    greeter = Greeter()

    async def serve(stack: ExitStack) -> None:
        arrivals = Arrivals(listening, lambda: greeter, None)
        connected(stack, listening, 1)
        while arrivals._end_of_turn is None:  # noqa: ASYNC110 - the loop looks at its sockets
            await asyncio.sleep(0)
        await arrivals.close()
        for _ in range(10):
            await turn(2 * SECONDS_OF_ONE)

    with ExitStack() as stack:
        uvloop.run(serve(stack))
        assert greeter.met == 0
        listening.setblocking(False)
        listening.accept()[0].close()
