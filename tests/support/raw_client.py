"""A fast client: raw bytes, and whether a response was lost.

It sends one request at a time per connection. It takes a fraction of the time of an HTTP library,
so that the server is measured although both share the machine.
"""

import asyncio
import collections
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from faulty_networks import answer


class LostError(Exception):
    """A request was sent, and the connection ended without its response."""


@dataclass(frozen=True)
class Reply:
    """A response; `seconds` from the first byte sent to the last one received."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    @property
    def closes(self) -> bool:
        """Return whether it is the last one on its connection."""
        return b"\r\nconnection: close" in self.head.lower()

    def is_right(self, x: float) -> bool:
        """Return whether it is the output of the hand-made networks for `x`."""
        return self.status == 200 and json.loads(self.body)["outputs"][0]["data"] == [answer(x)]


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._awaited: asyncio.Future[Reply] | None = None
        self._received = b""
        self._sent = 0.0
        self.transport: asyncio.Transport | None = None
        self.over = False

    @classmethod
    async def to(cls, port: int, host: str = "127.0.0.1") -> "Line":
        """Open a connection; raise OSError if nothing listens."""
        _, line = await asyncio.get_running_loop().create_connection(cls, host, port)
        return line

    async def ask(self, message: bytes, patience: float = 60.0) -> Reply:
        """Send a request, and wait for its response.

        Raises:
            LostError: the connection ended without a response.
            TimeoutError: the response did not arrive in time.
        """
        if self.over or self.transport is None:
            raise LostError("the connection was closed before the request was sent")
        self._awaited = asyncio.get_running_loop().create_future()
        self._received, self._sent = b"", time.monotonic()
        self.transport.write(message)
        async with asyncio.timeout(patience):
            return await self._awaited

    def close(self) -> None:
        """Close the connection."""
        self.over = True
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Handle part of a response."""
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return
        match = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        assert match, head
        if len(body) < int(match[1]) or self._awaited is None or self._awaited.done():
            return
        seconds = time.monotonic() - self._sent
        self._awaited.set_result(Reply(int(head[9:12]), head, body, seconds))
        self._awaited = None

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection."""
        self.over = True
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(LostError(f"{error!r} after {self._received[:100]!r}"))


def message(model: str, x: float, headers: Mapping[str, str] | None = None, **more: Any) -> bytes:
    """Return a request to a model of `x`, FP32 [1, 1]."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [x]}
    body = json.dumps({"inputs": [tensor], **more}).encode()
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask_once(port: int, sent: bytes, host: str = "127.0.0.1") -> Reply:
    """Send one request on its own connection; errors as those of `Line`."""
    line = await Line.to(port, host)
    try:
        return await line.ask(sent)
    finally:
        line.close()


class Tally:
    """The outcomes of requests: counts by kind, and the times of lost ones."""

    def __init__(self) -> None:
        self.sent = 0
        self.right = 0
        self.other: collections.Counter[str] = collections.Counter()
        self.lost: list[float] = []

    async def ask(self, line: Line, model: str, x: float) -> None:
        """Send a request, and count its outcome."""
        self.sent += 1
        started = time.monotonic()
        try:
            reply = await line.ask(message(model, x))
        except LostError:
            self.lost.append(started)
            line.close()
            return
        if reply.is_right(x):
            self.right += 1
        else:
            self.other[f"{reply.status} {reply.body[:200]!r}"] += 1
        if reply.closes:
            line.close()

    def __str__(self) -> str:
        text = f"{self.sent} requests: {self.right} right, {len(self.lost)} lost"
        return text + (f", {dict(self.other)}" if self.other else "")


async def ask_on(
    tally: Tally, port: int, model: str, over: Callable[[], bool], host: str = "127.0.0.1"
) -> None:
    """Send requests on one connection, reopened when it ends, until nothing listens."""
    x = 0
    while not over():
        try:
            line = await Line.to(port, host)
        except OSError:
            return
        while not (line.over or over()):
            x = (x + 1) % 10
            await tally.ask(line, model, x)
        line.close()


async def ask_anew(
    tally: Tally, port: int, model: str, over: Callable[[], bool], host: str = "127.0.0.1"
) -> None:
    """Send requests on a new connection each, until nothing listens."""
    while not over():
        try:
            line = await Line.to(port, host)
        except OSError:
            return
        await tally.ask(line, model, 3)
        line.close()
