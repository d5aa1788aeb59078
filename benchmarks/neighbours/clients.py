"""The clients: neighbours that send at a fixed rate, and an attacker that sends continuously.

The functions run in processes of their own, on raw asyncio connections, so that they use little of
the cores that they share with the server.
"""

import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_SECONDS = 30.0
"""A neighbour's request that waits for longer counts as `timeout`, with this wait."""
MAX_CONNECTIONS = 64
"""Connections of one neighbour; later requests wait for a free one, and the wait is counted."""
RETRY_SECONDS = 0.05
"""The pause of an attacker after a lost connection."""
ATTACKER_ADDRESS = "127.0.0.2" if sys.platform == "linux" else None
"""The server shares its time equally between addresses."""
ATTACKER_NICENESS = 10
"""The attacker's process yields the cores to the neighbours' process and to the server."""


@dataclass(frozen=True)
class Neighbour:
    """A client that sends one request again and again, `rate` times a second."""

    name: str
    request: bytes
    rate: float


@dataclass
class Waits:
    """The requests of a neighbour in one round.

    Attributes:
        seconds: from the time at which a request was due to its response, for every request that
            was answered with 200 or timed out.
        statuses: the number of requests by status; `lost` and `timeout` had none.
        late_seconds: the longest delay of the client itself, between the time at which a request
            was due and the time at which the client looked at it.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    late_seconds: float = 0.0


def prepare(cores: Collection[int] | None, niceness: int) -> None:
    """Set the cores (None: all) and the niceness of this process."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    os.nice(niceness)


def visit(port: int, neighbours: Sequence[Neighbour], seconds: float) -> list[Waits]:
    """Send the requests of all neighbours for `seconds`, and wait for their responses."""

    async def all_of_them() -> list[Waits]:
        return await asyncio.gather(*(_visit(port, neighbour, seconds) for neighbour in neighbours))

    return asyncio.run(all_of_them())


def attack(
    port: int, request: Path, connections: int, seconds: float, *, reads: bool
) -> Counter[str]:
    """Send a request for `seconds` on each connection, the next one after each response.

    Args:
        port: of the server, on 127.0.0.1.
        request: the file with the bytes of the request.
        connections: how many connections send at the same time.
        seconds: after this time the connections are closed, with or without a response.
        reads: whether the responses are read. Otherwise each connection sends one request.

    Returns:
        The number of requests by status; `lost`, `unanswered` and `unread` had none.
    """
    content = request.read_bytes()

    async def all_of_them() -> Counter[str]:
        statuses: Counter[str] = Counter()
        until = asyncio.get_running_loop().time() + seconds
        send = _attack if reads else _attack_unread
        await asyncio.gather(*(send(port, content, until, statuses) for _ in range(connections)))
        return statuses

    return asyncio.run(all_of_them())


class _Connection(asyncio.Protocol):
    """A connection with one request at a time; the content of a response is not kept."""

    def __init__(self) -> None:
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._header = b""
        self._left: int | None = None  # bytes of the response's body, after its header
        self.transport: asyncio.Transport | None = None
        self.over = False

    @classmethod
    async def open(cls, port: int, address: str | None = None) -> "_Connection":
        """Connect to the server, from an address; raise OSError if it cannot be reached."""
        _, connection = await asyncio.get_running_loop().create_connection(
            cls, "127.0.0.1", port, local_addr=(address, 0) if address else None
        )
        return connection

    async def send(self, request: bytes) -> int:
        """Send a request and return the status of its response.

        Raises:
            ConnectionError: the connection ended without a response.
        """
        if self.transport is None or self.over:
            raise ConnectionError("the connection is closed")
        self._status = asyncio.get_running_loop().create_future()
        self._header, self._left = b"", None
        self.transport.write(request)
        return await self._status

    def abort(self) -> None:
        """Close the connection at once."""
        self.over = True
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's type is wider
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the response, and set its status at the end."""
        if self._left is None:
            self._header += data
            header, complete, body = self._header.partition(b"\r\n\r\n")
            if not complete:
                return
            self._header = header
            length = re.search(rb"\r\ncontent-length: *(\d+)", header, re.IGNORECASE)
            self._left = int(length[1]) if length else 0
            data = body
        self._left -= len(data)
        if self._left <= 0 and not self._status.done():
            if b"\r\nconnection: close" in self._header.lower():
                self.over = True
            self._status.set_result(int(self._header[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that has no response."""
        self.over = True
        if not self._status.done():
            self._status.set_exception(ConnectionError(f"the connection was lost: {error!r}"))
            self._status.exception()  # so that a request that is no longer awaited logs nothing


async def _visit(port: int, neighbour: Neighbour, seconds: float) -> Waits:
    loop, waits = asyncio.get_running_loop(), Waits()
    idle: list[_Connection] = []
    slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(due: float) -> None:
        connection = None
        try:
            async with asyncio.timeout_at(due + PATIENCE_SECONDS), slots:
                while idle and (connection is None or connection.over):
                    connection = idle.pop()
                if connection is None or connection.over:
                    connection = await _Connection.open(port)
                status = str(await connection.send(neighbour.request))
        except TimeoutError:
            status = "timeout"
        except OSError:
            status = "lost"
        waits.statuses[status] += 1
        if status in ("200", "timeout"):
            waits.seconds.append(loop.time() - due)
        if connection is not None:
            if status == "timeout" or connection.over:
                connection.abort()
            else:
                idle.append(connection)

    started = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(max(1, round(seconds * neighbour.rate))):
            due = started + number / neighbour.rate
            await asyncio.sleep(due - loop.time())
            waits.late_seconds = max(waits.late_seconds, loop.time() - due)
            group.create_task(send(due))
    for connection in idle:
        connection.abort()
    return waits


async def _attack(port: int, request: bytes, until: float, statuses: Counter[str]) -> None:
    connection, loop = None, asyncio.get_running_loop()
    while loop.time() < until:
        try:
            async with asyncio.timeout_at(until):
                if connection is None or connection.over:
                    connection = await _Connection.open(port, ATTACKER_ADDRESS)
                statuses[str(await connection.send(request))] += 1
        except TimeoutError:
            statuses["unanswered"] += 1
        except OSError:
            statuses["lost"] += 1
            await asyncio.sleep(RETRY_SECONDS)
    if connection is not None:
        connection.abort()


async def _attack_unread(port: int, request: bytes, until: float, statuses: Counter[str]) -> None:
    connection, loop = None, asyncio.get_running_loop()
    try:
        connection = await _Connection.open(port, ATTACKER_ADDRESS)
        if connection.transport is not None:
            connection.transport.pause_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await connection.send(request)
        statuses["unread"] += 1
    except OSError:
        statuses["lost"] += 1
        await asyncio.sleep(until - loop.time())
    if connection is not None:
        connection.abort()
