"""The fast path and the ASGI path send equal responses.

The first tests fail if uvicorn or BentoML change what the fast path relies on.
"""

import asyncio
import gc
import inspect
import re
import weakref
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.state import ServiceState
from service.api.v2.routes import OpenInference
from service.concurrency import Cancellable
from service.http.app import App
from service.http.responses import Reply, Responder, in_a_task
from service.inference.registry import ModelRegistry
from service.service import FitServe
from service.settings import Settings
from service.telemetry.request_context import RequestContext, current_request
from service.transport import connection, fast_path, protocol
from service.transport.fast_path import FastPath


def test_uvicorn_uses_the_fast_path_protocol_if_bentoml_does_not_choose_one() -> None:
    import _bentoml_impl.worker.service as worker

    assert "http=" not in inspect.getsource(worker.main.callback), "BentoML chooses a protocol"
    config = uvicorn.Config(FitServe.to_asgi())
    config.load()
    assert config.http_protocol_class is FastPath


@pytest.mark.parametrize(
    ("method", "relied_on"),
    [
        ("on_message_begin", ("self.url", "self.headers", "self.expect_100_continue")),
        ("on_headers_complete", ("existing_cycle.response_complete", "self._start_asgi_task")),
        ("on_response_complete", ("self.pipeline.pop()", "self.flow.resume_reading()")),
        ("connection_lost", ("self.cycle.disconnected = True", "self.cycle.message_event.set()")),
        ("shutdown", ("self.cycle.keep_alive = False",)),
    ],
)
def test_the_protocol_of_uvicorn_does_what_the_fast_path_relies_on(
    method: str, relied_on: tuple[str, ...]
) -> None:
    source = inspect.getsource(getattr(HttpToolsProtocol, method))
    missing = [text for text in relied_on if text not in source]
    assert not missing, f"uvicorn has changed HttpToolsProtocol.{method}: {missing} went; read it"


# Both paths against each other.


class Wire(asyncio.Transport):
    """The client's end of a connection: records what was written, and whether it was closed."""

    def __init__(self, peer: str = "") -> None:
        super().__init__({"peername": (peer, 1234)} if peer else None)
        self.written = b""
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        """Record sent bytes."""
        self.written += bytes(data)

    def close(self) -> None:
        """Record the close."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """Return 0: the client reads at once."""
        return 0

    def can_write_eof(self) -> bool:
        """Return False, as on a TLS connection."""
        return False

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Record that reading is paused."""
        self.paused = True

    def resume_reading(self) -> None:
        """Record that reading is resumed."""
        self.paused = False


class Done:
    """The handle of finished work."""

    def cancel(self) -> None:
        """Do nothing."""


DONE = Done()


def echo(body: bytes, path_taken: str) -> Reply:
    headers = (
        (b"x-id", current_request().id.encode()),
        (b"x-path", path_taken.encode()),
        (b"x-caller", current_request().caller.encode()),
    )
    return Reply(current_request(), body, status=200 if len(body) % 2 else 400, headers=headers)


async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application; at one path, it responds before it reads the body."""
    body = b"" if scope["path"] == "/early" else await Request(scope, receive).body()
    response = echo(body, "asgi")
    await response(scope, receive, send)


def respond(context: RequestContext, body: bytes, reply: Callable[[Reply], None]) -> Cancellable:
    """The responder of the fast path; it responds later or at once."""
    response = echo(body, "fast")
    if len(body) % 3:
        return asyncio.get_running_loop().call_soon(reply, response)
    reply(response)
    return DONE


def connect(peer: str = "", **options: Any) -> tuple[FastPath, Wire]:
    app = App(
        inner_app,
        Settings(),
        mounts=[OpenInference(ServiceState(ModelRegistry(Settings())))],
        typed={"/short": respond},
    )
    config = uvicorn.Config(app, log_config=None, access_log=False, **options)
    config.load()
    FastPath.application = app
    protocol, wire = FastPath(config=config, server_state=ServerState(), app_state={}), Wire(peer)
    protocol.connection_made(wire)
    return protocol, wire


def request_bytes(
    number: int, path: str, body: bytes, chunked: bool, offers: bool = False
) -> bytes:
    """Return the bytes of a request; with `offers` it offers to upgrade the connection."""
    header = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n"
    if offers:
        header += "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    if chunked:
        parts = [part for part in (body[:3], body[3:]) if part]
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        return f"{header}Transfer-Encoding: chunked\r\n\r\n".encode() + content
    return f"{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"POST /long HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def responses_in(written: bytes) -> list[tuple[int, bytes, str, bytes]]:
    """Return the status, ID, path and body of each response."""
    responses = []
    while written:
        header, end, rest = written.partition(b"\r\n\r\n")
        assert end
        length = int(re.search(rb"content-length: (\d+)", header)[1])  # type: ignore[index]
        path_taken = re.search(rb"x-path: (\w+)", header)[1].decode()  # type: ignore[index]
        identity = re.search(rb"x-id: (\S+)", header)[1]  # type: ignore[index]
        responses.append((int(header.split()[1]), identity, path_taken, rest[:length]))
        written = rest[length:]
    return responses


async def converse(
    parts: list[bytes], count: int, *, ends: bool = False
) -> list[tuple[int, bytes, str, bytes]]:
    """Feed the parts to one connection, one loop iteration apart, and return the responses.

    Args:
        parts: the received bytes.
        count: the number of requests in them.
        ends: whether the client then closes its sending side.
    """
    protocol, wire = connect()
    for part in parts:
        protocol.data_received(part)
        await asyncio.sleep(0)
    if ends and not protocol.eof_received():
        wire.close()
    for _ in range(40 * count):
        await asyncio.sleep(0)
    assert wire.closed == ends
    protocol.connection_lost(None)
    return responses_in(wire.written)


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.2", "192.0.2.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.3, 192.0.2.2", "192.0.2.2"),
        ("::1", "[2001:db8::7]:80", "2001:db8::/64"),
        ("2001:db8:1:2:3::", "", "2001:db8:1:2::/64"),
        ("127.0.0.1", " ", "127.0.0.1"),
        ("", "192.0.2.2", ""),
    ],
)
async def test_both_paths_tell_callers_apart_by_the_client_behind_a_trusted_proxy(
    peer: str, forwarded: str, caller: str
) -> None:
    header = f"X-Forwarded-For: {forwarded}\r\n" if forwarded else ""
    protocol, wire = connect(peer)
    for path in ("/short", "/short", "/long"):  # the second one has a cached header
        request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: 3\r\n\r\nabc"
        protocol.data_received(request.encode())
        for _ in range(40):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert re.findall(rb"x-caller: ([^\r]*)\r", wire.written) == [caller.encode()] * 3
    paths = [path_taken for _, _, path_taken, _ in responses_in(wire.written)]
    assert paths == ["fast", "fast", "asgi"]


async def test_a_caller_behind_proxies_that_add_a_line_each_is_the_same_on_both_paths() -> None:
    protocol, wire = connect("127.0.0.1")
    lines = "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-For: 127.0.0.1\r\n"
    for path in ("/short", "/short", "/long"):
        request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: 3\r\n\r\nabc"
        protocol.data_received(request.encode())
        for _ in range(40):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert re.findall(rb"x-caller: ([^\r]*)\r", wire.written) == [b"192.0.2.9"] * 3


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 1),  # headers repeat
            st.sampled_from(["/short", "/short", "/long", "/short?", "/%73hort"]),
            st.binary(max_size=9) | st.just(request_bytes(0, "/short", b"abc", chunked=False)),
            st.booleans(),
            st.sampled_from([False, False, True]),
        ),
        min_size=1,
        max_size=6,
    ),
    piece=st.sampled_from([1, 100, protocol.PIECE_BYTES]),
    ends=st.booleans(),
    data=st.data(),
)
async def test_any_requests_in_any_pieces_get_responses_in_order(
    requests: list[tuple[int, str, bytes, bool, bool]],
    piece: int,
    ends: bool,
    data: st.DataObject,
) -> None:
    messages = [request_bytes(*request) for request in requests]
    sent = b"".join(messages)
    borders = list(accumulate(len(message) for message in messages))
    header_ends = [
        end - len(body) for end, (_, _, body, _, _) in zip(borders, requests, strict=True)
    ]
    cut = st.integers(1, len(sent) - 1) | st.sampled_from([*borders, *header_ends])
    cuts = sorted(data.draw(st.sets(cut, max_size=12)) - {len(sent)})
    parts = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "PIECE_BYTES", piece)
        responses = await converse(parts, len(requests), ends=ends)
    expected = [
        (200 if len(body) % 2 else 400, str(number).encode(), body)
        for number, _, body, _, _ in requests
    ]
    assert [(status, identity, body) for status, identity, _, body in responses] == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/short", "/long"])
async def test_reading_is_paused_while_many_pipelined_requests_wait(path: str) -> None:
    protocol, wire = connect()
    flood = request_bytes(7, path, b"abcd", chunked=False) * 1_000
    reads = 0
    while len(re.findall(rb"HTTP/1.1 ", wire.written)) < 3_000:
        if not wire.paused:
            protocol.data_received(flood)
            reads += 1
        await asyncio.sleep(0)
    assert reads <= 4


async def test_a_chunked_body_is_read_no_faster_than_it_is_consumed() -> None:
    protocol, wire = connect()
    received = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await received.wait()
        await inner_app(scope, receive, send)

    protocol.app = slow
    protocol.data_received(CHUNKED)
    reads = {False: 0, True: 0}
    for number in range(400):
        if number == 200:
            received.set()
        if not wire.paused:
            reads[received.is_set()] += 1
            protocol.data_received(b"8000\r\n" + b"\r\n" * 0x4000 + b"\r\n")
        await asyncio.sleep(0)
    before, after = reads[False], reads[True]
    assert before <= 4 < 10 < after


async def test_a_malformed_body_after_a_request_is_refused_after_its_response() -> None:
    protocol, wire = connect()
    first = request_bytes(7, "/long", b"abc", chunked=False)
    protocol.data_received(first + CHUNKED + b"5\r\nabcdeXX\r\n")
    for _ in range(40):
        await asyncio.sleep(0)
    assert wire.closed
    assert re.findall(rb"HTTP/1.1 (\d+)", wire.written) == [b"200", b"400"]


async def test_a_request_whose_body_is_arriving_is_not_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise its refusal would begin with a byte too many."""
    monkeypatch.setattr("service.transport.protocol.PEER_SECONDS", 0.01)
    replies: list[Callable[[], None]] = []

    def later(context: RequestContext, _: bytes, reply: Callable[[Reply], None]) -> Cancellable:
        replies.append(lambda: reply(Reply(context, b"late")))
        return DONE

    protocol, wire = connect()
    FastPath.application._typed = {"/short": later}
    protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
    protocol.data_received(CHUNKED + b"1\r\na")
    await asyncio.sleep(0.05)
    assert wire.written.startswith(b"H"), "the first client was not probed"
    replies[0]()
    await asyncio.sleep(0.05)
    protocol.data_received(b"XX\r\n")
    await asyncio.sleep(0.01)
    written = wire.written
    assert re.findall(rb"HTTP/1.1 (\d+)", written) == [b"200", b"400"]
    assert b"HHTTP" not in written


async def test_a_cached_header_is_not_parsed_again() -> None:
    protocol, wire = connect()
    protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
    await asyncio.sleep(0)
    protocol.parser = None  # type: ignore[assignment]  # fails if it is called
    protocol.data_received(request_bytes(7, "/short", b"xyz", chunked=False))
    await asyncio.sleep(0)
    responses = responses_in(wire.written)
    assert responses == [(200, b"7", "fast", b"abc"), (200, b"7", "fast", b"xyz")]


async def test_an_id_that_looks_like_a_header_does_not_close_the_connection() -> None:
    protocol, wire = connect()
    request = request_bytes(7, "/short", b"abc", chunked=False)
    for _ in range(2):
        protocol.data_received(request.replace(b"Id: 7", b"Id: connection: close"))
    assert not wire.closed
    assert wire.written.count(b"\r\nx-request-id: connection: close\r\n") == 2


@pytest.mark.parametrize("path", ["/long", "/early"])
async def test_a_cached_header_inside_a_body_is_not_a_request(path: str) -> None:
    known = request_bytes(7, "/short", b"abc", chunked=False)
    outer = request_bytes(8, path, known, chunked=False)

    protocol, wire = connect()
    for part in (known, outer[: -len(known)], known, known):
        protocol.data_received(part)
        for _ in range(20):
            await asyncio.sleep(0)
    assert [identity for _, identity, _, _ in responses_in(wire.written)] == [b"7", b"8", b"7"]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "cookie"])
async def test_a_header_with_a_secret_is_not_cached(name: str) -> None:
    protocol, wire = connect()
    plain = request_bytes(7, "/short", b"abc", chunked=False)
    secret = plain.replace(b"Host: localhost", f"Host: localhost\r\n{name}: Bearer abc".encode())
    for message in (secret, secret, plain):
        protocol.data_received(message)
        await asyncio.sleep(0)
    assert len(responses_in(wire.written)) == 3
    (header,) = protocol.application.header_cache
    assert b"Bearer" not in header


async def test_the_header_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MAX_CACHED_HEADERS", 10)

    protocol, _ = connect()
    longest = 0
    for number in range(25):
        protocol.data_received(request_bytes(number, "/short", b"abc", chunked=False))
        await asyncio.sleep(0)
        longest = max(longest, len(protocol.application.header_cache))
    protocol.data_received(request_bytes(10**3000, "/short", b"abc", chunked=False))
    assert longest == 10
    assert all(len(header) <= 2_000 for header in protocol.application.header_cache)


async def test_only_a_whole_request_takes_the_fast_path() -> None:
    whole = request_bytes(0, "/short", b"abc", chunked=False)
    for parts, path_taken in (([whole], "fast"), ([whole[:-1], whole[-1:]], "asgi")):
        ((_, _, taken, body),) = await converse(parts, 1)
        assert (taken, body) == (path_taken, b"abc")


async def test_a_body_above_the_limit_takes_the_asgi_path_and_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FITSERVE_MAX_BODY_BYTES", "2")
    whole = request_bytes(0, "/short", b"abc", chunked=False)
    ((_, _, taken, _),) = await converse([whole], 1)
    assert taken == "asgi"


async def broken_task(context: RequestContext, body: bytes) -> Reply:
    raise RuntimeError("not even an error response")


def broken(*_: Any) -> Cancellable:
    raise RuntimeError("nor here")


@pytest.mark.parametrize("responder", [broken, in_a_task(broken_task)])
async def test_a_responder_that_raises_gets_500_and_the_connection_stays_usable(
    responder: Responder,
) -> None:
    protocol, wire = connect()
    FastPath.application._typed = {"/short": responder}
    for number in range(2):
        protocol.data_received(request_bytes(number, "/short", b"abc", chunked=False))
        for _ in range(20):
            await asyncio.sleep(0)
    assert not wire.closed
    written = wire.written
    assert re.findall(rb"HTTP/1.1 (\d+)", written) == [b"500", b"500"]
    assert b"not even" not in written
    assert b"nor here" not in written


@pytest.mark.parametrize("body", [b"abc", b"ab"], ids=["response at once", "later"])
async def test_an_error_after_a_response_is_not_a_second_response(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client, or a proxy, would take it for the response to the next request."""

    def fail(context: RequestContext) -> None:
        raise RuntimeError("after the response")

    protocol, wire = connect()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    monkeypatch.setattr(FastPath.application, "end_request", fail)
    for number in range(2):
        protocol.data_received(request_bytes(number, "/short", body, chunked=False))
        for _ in range(20):
            await asyncio.sleep(0)
    assert len(re.findall(rb"HTTP/1.1 (\d+)", wire.written)) == 2


async def test_a_request_whose_client_disconnects_is_cancelled_and_counted_as_that() -> None:
    cancelled: list[str] = []
    statuses: list[int] = []

    class Handle:
        def __init__(self, context: RequestContext) -> None:
            self.context = context

        def cancel(self) -> None:
            cancelled.append(self.context.id)

    def wait(context: RequestContext, _: bytes, __: Callable[[Reply], None]) -> Handle:
        return Handle(context)

    protocol, _ = connect()
    FastPath.application._typed = {"/short": wait}
    FastPath.application.end_request = lambda context: statuses.append(context.status)  # type: ignore[method-assign]
    protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
    assert cancelled == []
    protocol.connection_lost(None)
    protocol.connection_lost(None)
    assert (cancelled, statuses) == (["7"], [499])


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_response_being_compressed_is_sent_at_most_once(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing: list[asyncio.Future[bytes]] = []
    statuses: list[int] = []

    def compressed(_: bytes, coding: bytes) -> asyncio.Future[bytes]:
        assert coding == b"gzip"
        packing.append(asyncio.get_running_loop().create_future())
        return packing[-1]

    monkeypatch.setattr(fast_path, "compressed", compressed)
    request = request_bytes(7, "/short", bytes(16_384), chunked=False)
    request = request.replace(b"Host:", b"Accept-Encoding: gzip\r\nHost:")

    protocol, wire = connect()
    FastPath.application.end_request = lambda context: statuses.append(context.status)  # type: ignore[method-assign]
    protocol.data_received(request)
    await asyncio.sleep(0)
    assert (wire.written, statuses) == (b"", [])
    if leaves:
        protocol.connection_lost(None)
        assert packing[0].cancelled()
    else:
        packing[0].set_result(b"packed")
    await asyncio.sleep(0)
    written = wire.written
    if leaves:
        assert (written, statuses) == (b"", [499])
    else:
        assert written.endswith(b"\r\n\r\npacked")
        assert b"\r\ncontent-length: 6\r\ncontent-encoding: gzip\r\nvary: " in written
        assert statuses == [400]  # the response of this endpoint to a body of even length


@pytest.mark.slow
async def test_a_connection_is_closed_after_the_idle_timeout_and_not_before() -> None:
    replies: list[Callable[[], None]] = []

    def later(_: RequestContext, __: bytes, reply: Callable[[Reply], None]) -> Cancellable:
        replies.append(lambda: reply(Reply(current_request(), b"late")))
        return DONE

    protocol, wire = connect(timeout_keep_alive=1)
    closed = []
    for _ in range(4):  # requests for longer than the idle timeout
        protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
        await asyncio.sleep(0.4)
        closed.append(wire.closed)
    FastPath.application.header_cache.clear()
    FastPath.application._typed = {"/short": later}
    protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
    await asyncio.sleep(1.3)  # one request for longer than the idle timeout
    closed.append(wire.closed)
    replies[0]()
    await asyncio.sleep(0.8)
    closed.append(wire.closed)
    await asyncio.sleep(0.5)
    closed.append(wire.closed)
    assert closed == [False] * 6 + [True]


async def test_a_lost_connection_leaves_no_timer() -> None:
    protocol, _ = connect()
    protocol.data_received(request_bytes(7, "/short", b"abc", chunked=False))
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    reference = weakref.ref(protocol)
    del protocol
    gc.collect()
    assert reference() is None


async def test_a_worker_yields_to_its_siblings_after_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yielded: list[int] = []
    monkeypatch.setattr(connection, "let_siblings_run", lambda: yielded.append(1))

    for _ in range(3):
        connect()
    assert len(yielded) == 3
