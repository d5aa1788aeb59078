"""The number of accepted connections depends on the duration of a loop iteration."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from service.transport.acceptor import SECONDS_PER_CONNECTION, Acceptor

CLIENTS = 200


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listening:
        yield listening


class Greeter(asyncio.Protocol):
    """A protocol that greets its client, and counts connections."""

    def __init__(self) -> None:
        self.met = 0

    def connection_made(self, transport: Any) -> None:
        """Send the greeting."""
        self.met += 1
        transport.write(b"welcome")


async def iterate(seconds: float) -> None:
    """Run one iteration of the loop of this duration."""
    time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs
    await asyncio.sleep(0)


def connected(stack: ExitStack, listening: socket.socket, number: int) -> list[socket.socket]:
    """Connect clients, which are not accepted yet."""
    address = listening.getsockname()
    return [stack.enter_context(socket.create_connection(address, 5)) for _ in range(number)]


@pytest.mark.parametrize("iteration_seconds", [0.0, 0.005])
def test_each_iteration_accepts_connections_in_proportion_to_its_duration(
    listening: socket.socket, iteration_seconds: float
) -> None:
    greeter, iterations = Greeter(), 0

    async def serve() -> None:
        nonlocal iterations
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: greeter, sock=listening)
        acceptor = Acceptor(listening, lambda: greeter, None)
        started = time.monotonic()
        while greeter.met < CLIENTS:
            assert iterations < 10 * CLIENTS
            await iterate(iteration_seconds)
            iterations += 1
            due = (time.monotonic() - started) / SECONDS_PER_CONNECTION
            assert greeter.met <= 2 + iterations + due
        server.close()
        await acceptor.close()

    with ExitStack() as stack:
        clients = connected(stack, listening, CLIENTS)
        uvloop.run(serve())
        assert all(client.recv(7) == b"welcome" for client in clients)
    assert greeter.met == CLIENTS
    if iteration_seconds:
        assert iterations < CLIENTS / 4


def test_connections_accepted_before_the_close_are_served_and_later_ones_are_not(
    listening: socket.socket,
) -> None:
    greeter = Greeter()

    async def serve(stack: ExitStack) -> None:
        acceptor = Acceptor(listening, lambda: greeter, None)
        (client,) = connected(stack, listening, 1)
        while not acceptor._serving:
            await iterate(2 * SECONDS_PER_CONNECTION)
        assert greeter.met == 0
        await acceptor.close()
        assert client.recv(7) == b"welcome"
        connected(stack, listening, 1)
        for _ in range(10):
            await iterate(2 * SECONDS_PER_CONNECTION)
        assert greeter.met == 1

    with ExitStack() as stack:
        uvloop.run(serve(stack))


def test_connections_not_accepted_before_the_close_are_left_to_other_workers(
    listening: socket.socket,
) -> None:
    greeter = Greeter()

    async def serve(stack: ExitStack) -> None:
        acceptor = Acceptor(listening, lambda: greeter, None)
        connected(stack, listening, 1)
        while acceptor._end_of_iteration is None:  # noqa: ASYNC110 - the loop polls its sockets
            await asyncio.sleep(0)
        await acceptor.close()
        for _ in range(10):
            await iterate(2 * SECONDS_PER_CONNECTION)

    with ExitStack() as stack:
        uvloop.run(serve(stack))
        assert greeter.met == 0
        listening.setblocking(False)
        listening.accept()[0].close()
