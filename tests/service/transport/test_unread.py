"""Clients that do not read their responses are disconnected, and no others."""

import asyncio
import logging
import re
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service.concurrency import Cancellable
from service.http.app import App
from service.http.responses import Reply
from service.settings import Settings
from service.telemetry.request_context import RequestContext, current_request
from service.transport.fast_path import FastPath
from service.transport.unread import PROGRESS_BYTES, UnreadResponses

MEGABYTE = 2**20
LIMIT = 100 * MEGABYTE
SECONDS = 30


class Timer:
    """A timer of the clock."""

    def __init__(self, clock: "Clock", due: float, callback: Callable[[], None]) -> None:
        self._clock, self._due, self.run = clock, due, callback

    def when(self) -> float:
        """Return the time at which it is due."""
        return self._due

    def cancel(self) -> None:
        """Remove it."""
        self._clock.timers.remove(self)


class Clock:
    """The part of an event loop that keeps time; it is advanced by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        """Return the loop time."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Set a timer."""
        self.timers.append(Timer(self, when, callback))
        return self.timers[-1]

    def advance(self, seconds: float, step: Callable[[], None] = lambda: None) -> None:
        """Run the timers of these seconds in steps of 0.05 s, and `step` before each."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            step()
            for timer in [timer for timer in self.timers if timer.when() <= self.now]:
                self.timers.remove(timer)
                timer.run()


class Buffer(asyncio.Transport):
    """A transport with this many bytes that the client has not read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        """Return what is left."""
        return self.size

    def abort(self) -> None:
        """Drop what is left."""
        self.aborted = True

    def read(self, size: int) -> Callable[[], None]:
        """Return the step of a client that reads this many bytes at a time."""

        def step() -> None:
            self.size = max(0, self.size - size)

        return step


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def unread(clock: Clock) -> UnreadResponses:
    settings = Settings(response_timeout_seconds=SECONDS, max_unread_bytes=LIMIT)
    return UnreadResponses(cast(AbstractEventLoop, clock), settings)


def counted(reason: str) -> float:
    return REGISTRY.get_sample_value("fitserve_slow_readers_total", {"reason": reason}) or 0


def test_a_client_that_reads_nothing_is_disconnected_after_the_limit_of_time(
    clock: Clock, unread: UnreadResponses
) -> None:
    before, transport = counted("time"), Buffer(16 * MEGABYTE)
    unread.add(transport, 0)
    clock.advance(SECONDS - 0.1)
    assert not transport.aborted
    clock.advance(1.2)
    assert transport.aborted
    assert counted("time") == before + 1
    assert not clock.timers, "there is nothing left to check"


@pytest.mark.parametrize(("least", "kept"), [(1.5, True), (0.5, False), (0.0001, False)])
def test_a_slow_client_is_kept_if_it_makes_progress_within_the_limit(
    least: float, kept: bool, clock: Clock, unread: UnreadResponses
) -> None:
    """`least` is the progress within the limit of time, in `PROGRESS_BYTES`."""
    transport = Buffer(16 * MEGABYTE)
    unread.add(transport, 0)
    step = transport.read(int(PROGRESS_BYTES * least / SECONDS * 0.05) + 1)
    clock.advance(4 * SECONDS, step)
    assert transport.aborted == (not kept)


def test_beyond_the_memory_those_that_waited_longest_are_disconnected_until_the_rest_fits(
    clock: Clock, unread: UnreadResponses
) -> None:
    before = counted("memory")
    transports = [Buffer(30 * MEGABYTE) for _ in range(5)]
    for transport in transports:
        unread.add(transport, 0)
        clock.advance(1)
    assert [transport.aborted for transport in transports] == [True, True, False, False, False]
    assert counted("memory") == before + 2


def test_below_the_memory_nobody_is_disconnected_before_the_limit_of_time(
    clock: Clock, unread: UnreadResponses
) -> None:
    transports = [Buffer(LIMIT // 10) for _ in range(10)]
    for transport in transports:
        unread.add(transport, 0)
    clock.advance(SECONDS - 1)
    assert not any(transport.aborted for transport in transports)
    for transport in transports:
        unread.discard(transport)
    late = Buffer(LIMIT)
    unread.add(late, 0)
    clock.advance(SECONDS - 1)
    assert not late.aborted, "responses that were read still count"


def test_a_client_that_reads_at_once_is_never_disconnected_for_the_memory(
    clock: Clock, unread: UnreadResponses
) -> None:
    honest = Buffer(60 * MEGABYTE)
    unread.add(honest, 0)
    others = []

    def step() -> None:
        honest.size = max(0, honest.size - PROGRESS_BYTES)  # 5 MiB each second
        others.append(Buffer(10 * MEGABYTE))
        unread.add(others[-1], 0)

    clock.advance(11, step)
    assert not honest.aborted
    assert sum(not other.aborted for other in others) * 10 * MEGABYTE < LIMIT * 2


def test_what_was_sent_of_a_response_counts_until_all_of_it_is(
    clock: Clock, unread: UnreadResponses
) -> None:
    """The event loop frees a response when its last byte is sent."""
    transports = [Buffer(MEGABYTE) for _ in range(5)]
    for transport in transports:
        unread.add(transport, 30 * MEGABYTE)
    clock.advance(2)
    assert sum(transport.aborted for transport in transports) == 2


def test_the_log_says_how_many_clients_were_disconnected_once_in_a_while(
    clock: Clock,
    unread: UnreadResponses,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("bentoml"), "propagate", True)
    for _ in range(60):
        unread.add(Buffer(MEGABYTE), 0)
        clock.advance(0.5)
    clock.advance(SECONDS + 2)
    lines = [record.getMessage() for record in caplog.records]
    counts = [int(line.rpartition(" ")[2]) for line in lines if "did not read" in line]
    assert counts[0] == 1
    assert 3 <= len(counts) <= 5
    assert 35 <= sum(counts) <= 60


# The protocol, with a client that reads on request.


class Slow(asyncio.Transport):
    """A transport that holds what is written until the client reads.

    Args:
        accepts: how many bytes of each write the kernels take at once.
    """

    def __init__(self, accepts: int) -> None:
        super().__init__()
        self.accepts = accepts
        self.protocol: Any = None
        self.received = b""
        self.left = b""
        self.limits = (2**14, 2**16)
        self.paused = self.closing = False
        self.closed, self.aborted = asyncio.Event(), asyncio.Event()

    def write(self, data: Any) -> None:
        """Hold the data, and pause writing."""
        self.left += bytes(data)[self.accepts :]
        self.received += bytes(data)[: self.accepts]
        self._pause()

    def _pause(self) -> None:
        if not self.paused and len(self.left) > self.limits[1]:
            self.paused = True
            self.protocol.pause_writing()

    def read(self, size: int | None = None) -> None:
        """Read as the client: this many bytes, or all."""
        size = len(self.left) if size is None else size
        self.received, self.left = self.received + self.left[:size], self.left[size:]
        if self.paused and len(self.left) <= self.limits[0]:
            self.paused = False
            self.protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set both limits."""
        assert low is None
        self.limits = (2**14, 2**16) if high is None else (0, high)
        self._pause()

    def get_write_buffer_size(self) -> int:
        """Return what is not read."""
        return len(self.left)

    def can_write_eof(self) -> bool:
        """Return False."""
        return False

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closing

    def close(self) -> None:
        """Record the close."""
        self.closing = True
        self.closed.set()

    def abort(self) -> None:
        """Record the abort."""
        self.aborted.set()

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


LARGE = 200_000
started: list[str] = []
"""The requests that were started, by their ID."""


def large() -> Reply:
    started.append(current_request().id)
    return Reply(current_request(), started[-1].encode() * LARGE)


async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    response = large()
    await response(scope, receive, send)


def respond(_: RequestContext, __: bytes, reply: Callable[[Reply], None]) -> Cancellable:
    """The responder of the fast path; it responds at once."""
    reply(large())
    return asyncio.get_running_loop().create_future()


def connect(accepts: int = 0, **options: Any) -> tuple[FastPath, Slow]:
    started.clear()
    FastPath.application = App(inner_app, Settings(), typed={"/fast": respond})
    config = Config(FastPath.application, log_config=None, access_log=False, **options)
    config.load()
    protocol, client = (
        FastPath(config=config, server_state=ServerState(), app_state={}),
        Slow(accepts),
    )
    client.protocol = protocol
    protocol.connection_made(client)
    return protocol, client


def request(number: int, path: str, fields: str = "") -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n{fields}"
    return f"{lines}Content-Length: 2\r\n\r\nab".encode()


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def responses(received: bytes) -> list[bytes]:
    """Return the first character of each body; each body must be whole."""
    bodies = re.split(rb"HTTP/1.1 200.*?\r\n\r\n", received, flags=re.DOTALL)[1:]
    assert all(len(body) == LARGE == body.count(body[:1]) for body in bodies)
    return [body[:1] for body in bodies]


@pytest.mark.parametrize("path", ["/fast", "/asgi"])
@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in several reads"])
async def test_a_pipelined_request_is_not_started_before_the_last_response_is_read(
    path: str, apart: bool
) -> None:
    protocol, client = connect()
    requests = [request(number, path) for number in range(1, 5)]
    for part in requests if apart else [b"".join(requests)]:
        protocol.data_received(part)
        await settle()
    for number in range(1, 5):
        assert started == [str(so_far) for so_far in range(1, number + 1)]
        client.read(LARGE - 1)
        await settle()
        assert len(started) == number
        client.read()
        await settle()
    assert responses(client.received) == [b"1", b"2", b"3", b"4"]
    assert not client.closing
    protocol.connection_lost(None)


@pytest.mark.parametrize("path", ["/fast", "/asgi"])
async def test_a_client_that_shuts_down_its_sending_side_gets_all_responses(path: str) -> None:
    protocol, client = connect()
    protocol.data_received(request(1, path) + request(2, path))
    await settle()
    assert protocol.eof_received()
    for _ in range(2):
        assert not client.closing
        client.read()
        await settle()
    assert responses(client.received) == [b"1", b"2"]
    assert client.closing
    protocol.connection_lost(None)


@pytest.mark.parametrize("path", ["/fast", "/asgi"])
async def test_an_unread_response_is_not_followed_by_the_probe_of_the_client(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.transport.protocol.PEER_SECONDS", 0.001)
    protocol, client = connect()
    protocol.data_received(request(1, path))
    await settle()
    protocol.data_received(request(2, path))
    length = len(client.left)
    await asyncio.sleep(0.05)
    assert len(client.left) == length
    protocol.connection_lost(None)


@pytest.mark.parametrize("fields", ["", "Connection: close\r\n"], ids=["kept alive", "closed"])
@pytest.mark.parametrize("path", ["/fast", "/asgi"])
@pytest.mark.parametrize("accepts", [0, 199_000], ids=["nothing", "almost all"])
async def test_a_connection_whose_client_does_not_read_is_aborted(
    path: str, fields: str, accepts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITSERVE_RESPONSE_TIMEOUT_SECONDS", "0.05")
    protocol, client = connect(accepts)
    protocol.data_received(request(1, path, fields))
    async with asyncio.timeout(10):
        await client.aborted.wait()
    assert client.closing == bool(fields)
    protocol.connection_lost(None)


async def test_a_small_response_that_is_not_read_is_dropped_after_the_idle_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The transport never pauses writing for it."""
    monkeypatch.setenv("FITSERVE_RESPONSE_TIMEOUT_SECONDS", "0.05")
    monkeypatch.setattr("test_unread.LARGE", 10)
    protocol, client = connect(timeout_keep_alive=0.05)
    protocol.data_received(request(1, "/fast"))
    assert not client.paused
    async with asyncio.timeout(10):
        await client.aborted.wait()
    assert client.closing
    protocol.connection_lost(None)


async def test_the_idle_timeout_begins_when_the_response_is_read() -> None:
    protocol, client = connect(timeout_keep_alive=0.05)
    protocol.data_received(request(1, "/fast"))
    await asyncio.sleep(0.2)
    assert not client.closing
    client.read()
    async with asyncio.timeout(10):
        await client.closed.wait()
    protocol.connection_lost(None)
