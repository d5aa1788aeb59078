"""The short way and the long one: whichever a request takes, its answer is the same.

The first tests fail where uvicorn or BentoML change what the short way counts on.
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

from service.http import connection, pipelining, short_way
from service.http.endpoint import Reply, Responder, in_a_task
from service.http.exchange import Exchange, current
from service.http.front import Front
from service.http.short_way import ShortWay
from service.open_inference.routes import OpenInference
from service.service import FitServe
from service.settings import Settings, current_settings


def test_uvicorn_takes_the_short_way_s_protocol_where_bentoml_leaves_the_choice_to_it() -> None:
    import _bentoml_impl.worker.service as worker

    assert "http=" not in inspect.getsource(worker.main.callback), "BentoML chooses a protocol"
    config = uvicorn.Config(FitServe.to_asgi())
    config.load()
    assert config.http_protocol_class is ShortWay


@pytest.mark.parametrize(
    ("method", "counted_on"),
    [
        ("on_message_begin", ("self.url", "self.headers", "self.expect_100_continue")),
        ("on_headers_complete", ("existing_cycle.response_complete", "self._start_asgi_task")),
        ("on_response_complete", ("self.pipeline.pop()", "self.flow.resume_reading()")),
        ("connection_lost", ("self.cycle.disconnected = True", "self.cycle.message_event.set()")),
        ("shutdown", ("self.cycle.keep_alive = False",)),
    ],
)
def test_uvicorn_s_protocol_does_what_the_short_way_counts_on(
    method: str, counted_on: tuple[str, ...]
) -> None:
    source = inspect.getsource(getattr(HttpToolsProtocol, method))
    missing = [text for text in counted_on if text not in source]
    assert not missing, f"uvicorn has changed HttpToolsProtocol.{method}: {missing} went; read it"


# Both ways against each other.


class Wire(asyncio.Transport):
    """The client's end: what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        """Note what is sent."""
        self.written += bytes(data)

    def close(self) -> None:
        """Note the end."""
        self.closed = True

    def can_write_eof(self) -> bool:
        """As on a connection with TLS."""
        return False

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self.closed

    def pause_reading(self) -> None:
        """Note that nothing more is to come."""
        self.paused = True

    def resume_reading(self) -> None:
        """Note that more may come."""
        self.paused = False


def told(body: bytes, way: str) -> Reply:
    headers = (b"x-id", current().id.encode()), (b"x-way", way.encode())
    return Reply(current(), body, status=200 if len(body) % 2 else 400, headers=headers)


async def host(scope: Scope, receive: Receive, send: Send) -> None:
    """What answers on the long way; at one path, before it has seen the body."""
    body = b"" if scope["path"] == "/early" else await Request(scope, receive).body()
    response = told(body, "long")
    await response(scope, receive, send)


def answer(exchange: Exchange, body: bytes, reply: Callable[[Reply], None]) -> Callable[[], None]:
    """What answers on the short way, in its own time or at once."""
    response = told(body, "short")
    if len(body) % 3:
        return asyncio.get_running_loop().call_soon(reply, response).cancel
    reply(response)
    return lambda: None


def connect(**options: Any) -> tuple[ShortWay, Wire]:
    front = Front(host, OpenInference(), Settings(), {"/short": answer})
    config = uvicorn.Config(front, log_config=None, access_log=False, **options)
    config.load()
    ShortWay.front = front
    protocol, wire = ShortWay(config=config, server_state=ServerState(), app_state={}), Wire()
    protocol.connection_made(wire)
    return protocol, wire


def wire_of(number: int, path: str, body: bytes, chunked: bool, offers: bool = False) -> bytes:
    """A request as it is sent; with `offers` it offers to upgrade the connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n"
    if offers:
        head += "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    if chunked:
        parts = [part for part in (body[:3], body[3:]) if part]
        content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + content
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"POST /long HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def answers(written: bytes) -> list[tuple[int, bytes, str, bytes]]:
    """Status, id, way and body of each answer."""
    found = []
    while written:
        head, end, rest = written.partition(b"\r\n\r\n")
        assert end
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        way = re.search(rb"x-way: (\w+)", head)[1].decode()  # type: ignore[index]
        identity = re.search(rb"x-id: (\S+)", head)[1]  # type: ignore[index]
        found.append((int(head.split()[1]), identity, way, rest[:length]))
        written = rest[length:]
    return found


async def converse(
    parts: list[bytes], count: int, *, ends: bool = False
) -> list[tuple[int, bytes, str, bytes]]:
    """Feed the parts to one connection, one turn of the loop apart, and read the answers.

    Args:
        parts: what comes.
        count: of the requests in it.
        ends: whether the client then ends its sending.
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
    return answers(wire.written)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(0, 1),  # the same heads come again and again
            st.sampled_from(["/short", "/short", "/long", "/short?", "/%73hort"]),
            st.binary(max_size=9) | st.just(wire_of(0, "/short", b"abc", chunked=False)),
            st.booleans(),
            st.sampled_from([False, False, True]),
        ),
        min_size=1,
        max_size=6,
    ),
    piece=st.sampled_from([1, 100, pipelining.PIECE_BYTES]),
    ends=st.booleans(),
    data=st.data(),
)
def test_any_requests_in_any_pieces_are_answered_in_order(
    requests: list[tuple[int, str, bytes, bool, bool]],
    piece: int,
    ends: bool,
    data: st.DataObject,
) -> None:
    messages = [wire_of(*request) for request in requests]
    sent = b"".join(messages)
    borders = list(accumulate(len(message) for message in messages))
    heads = [end - len(body) for end, (_, _, body, _, _) in zip(borders, requests, strict=True)]
    cut = st.integers(1, len(sent) - 1) | st.sampled_from([*borders, *heads])
    cuts = sorted(data.draw(st.sets(cut, max_size=12)) - {len(sent)})
    parts = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelining, "PIECE_BYTES", piece)
        found = asyncio.run(converse(parts, len(requests), ends=ends))
    expected = [
        (200 if len(body) % 2 else 400, str(number).encode(), body)
        for number, _, body, _, _ in requests
    ]
    assert [(status, identity, body) for status, identity, _, body in found] == expected


@pytest.mark.parametrize("path", ["/short", "/long"])
def test_no_more_is_read_than_was_sent_ahead_of_answers(path: str) -> None:
    async def run() -> int:
        protocol, wire = connect()
        flood = wire_of(7, path, b"abcd", chunked=False) * 1_000
        reads = 0
        while len(re.findall(rb"HTTP/1.1 ", wire.written)) < 3_000:
            if not wire.paused:
                protocol.data_received(flood)
                reads += 1
            await asyncio.sleep(0)
        return reads

    assert asyncio.run(run()) <= 4


def test_a_body_in_chunks_is_read_no_faster_than_it_is_taken() -> None:
    async def run() -> tuple[int, int]:
        protocol, wire = connect()
        taken = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await taken.wait()
            await host(scope, receive, send)

        protocol.app = slow
        protocol.data_received(CHUNKED)
        reads = {False: 0, True: 0}
        for turn in range(400):
            if turn == 200:
                taken.set()
            if not wire.paused:
                reads[taken.is_set()] += 1
                protocol.data_received(b"8000\r\n" + b"\r\n" * 0x4000 + b"\r\n")
            await asyncio.sleep(0)
        return reads[False], reads[True]

    before, after = asyncio.run(run())
    assert before <= 4 < 10 < after


def test_a_body_that_breaks_behind_a_request_is_refused_behind_its_answer() -> None:
    async def run() -> bytes:
        protocol, wire = connect()
        first = wire_of(7, "/long", b"abc", chunked=False)
        protocol.data_received(first + CHUNKED + b"5\r\nabcdeXX\r\n")
        for _ in range(40):
            await asyncio.sleep(0)
        assert wire.closed
        return wire.written

    assert re.findall(rb"HTTP/1.1 (\d+)", asyncio.run(run())) == [b"200", b"400"]


def test_a_request_whose_body_is_arriving_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its refusal would begin with a byte too many."""
    monkeypatch.setattr(pipelining, "PEER_SECONDS", 0.01)
    replies: list[Callable[[], None]] = []

    def later(exchange: Exchange, _: bytes, reply: Callable[[Reply], None]) -> Callable[[], None]:
        replies.append(lambda: reply(Reply(exchange, b"late")))
        return lambda: None

    async def run() -> bytes:
        protocol, wire = connect()
        ShortWay.front._typed = {"/short": later}
        protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
        protocol.data_received(CHUNKED + b"1\r\na")
        await asyncio.sleep(0.05)
        assert wire.written.startswith(b"H"), "the first client was not probed"
        replies[0]()
        await asyncio.sleep(0.05)
        protocol.data_received(b"XX\r\n")
        await asyncio.sleep(0.01)
        return wire.written

    written = asyncio.run(run())
    assert re.findall(rb"HTTP/1.1 (\d+)", written) == [b"200", b"400"]
    assert b"HHTTP" not in written


def test_a_head_that_came_before_is_not_parsed_again() -> None:
    async def run() -> list[tuple[int, bytes, str, bytes]]:
        protocol, wire = connect()
        protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
        await asyncio.sleep(0)
        protocol.parser = None  # type: ignore[assignment]  # so that it would be noticed
        protocol.data_received(wire_of(7, "/short", b"xyz", chunked=False))
        await asyncio.sleep(0)
        return answers(wire.written)

    found = asyncio.run(run())
    assert found == [(200, b"7", "short", b"abc"), (200, b"7", "short", b"xyz")]


def test_an_id_that_reads_like_a_header_does_not_close_the_connection() -> None:
    async def run() -> bytes:
        protocol, wire = connect()
        request = wire_of(7, "/short", b"abc", chunked=False)
        for _ in range(2):
            protocol.data_received(request.replace(b"Id: 7", b"Id: connection: close"))
        assert not wire.closed
        return wire.written

    assert asyncio.run(run()).count(b"\r\nx-request-id: connection: close\r\n") == 2


@pytest.mark.parametrize("path", ["/long", "/early"])
def test_a_known_head_within_a_body_is_no_request(path: str) -> None:
    known = wire_of(7, "/short", b"abc", chunked=False)
    outer = wire_of(8, path, known, chunked=False)

    async def run() -> list[tuple[int, bytes, str, bytes]]:
        protocol, wire = connect()
        for part in (known, outer[: -len(known)], known, known):
            protocol.data_received(part)
            for _ in range(20):
                await asyncio.sleep(0)
        return answers(wire.written)

    assert [identity for _, identity, _, _ in asyncio.run(run())] == [b"7", b"8", b"7"]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "cookie"])
def test_a_head_with_a_secret_is_not_kept(name: str) -> None:
    async def run() -> dict[bytes, Any]:
        protocol, wire = connect()
        plain = wire_of(7, "/short", b"abc", chunked=False)
        secret = plain.replace(
            b"Host: localhost", f"Host: localhost\r\n{name}: Bearer abc".encode()
        )
        for message in (secret, secret, plain):
            protocol.data_received(message)
            await asyncio.sleep(0)
        assert len(answers(wire.written)) == 3
        return dict(protocol.front.known_heads)

    (head,) = asyncio.run(run())
    assert b"Bearer" not in head


def test_no_more_heads_are_known_than_a_worker_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_way, "_MOST_HEADS", 10)

    async def run() -> tuple[int, ShortWay]:
        protocol, _ = connect()
        most = 0
        for number in range(25):
            protocol.data_received(wire_of(number, "/short", b"abc", chunked=False))
            await asyncio.sleep(0)
            most = max(most, len(protocol.front.known_heads))
        protocol.data_received(wire_of(10**3000, "/short", b"abc", chunked=False))
        return most, protocol

    most, protocol = asyncio.run(run())
    assert most == 10
    assert all(len(head) <= 2_000 for head in protocol.front.known_heads)


def test_a_request_that_is_whole_takes_the_short_way_and_another_does_not() -> None:
    whole = wire_of(0, "/short", b"abc", chunked=False)
    for parts, way in (([whole], "short"), ([whole[:-1], whole[-1:]], "long")):
        ((_, _, taken, body),) = asyncio.run(converse(parts, 1))
        assert (taken, body) == (way, b"abc")


def test_a_body_above_the_limit_goes_the_long_way_where_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FITSERVE_MAX_BODY_BYTES", "2")
    current_settings.cache_clear()
    whole = wire_of(0, "/short", b"abc", chunked=False)
    ((_, _, taken, _),) = asyncio.run(converse([whole], 1))
    assert taken == "long"


async def broken_task(exchange: Exchange, body: bytes) -> Reply:
    raise RuntimeError("not even an error response")


def broken(*_: Any) -> Callable[[], None]:
    raise RuntimeError("nor here")


@pytest.mark.parametrize("responder", [broken, in_a_task(broken_task)])
def test_a_responder_that_breaks_is_answered_500_and_the_connection_serves_on(
    responder: Responder,
) -> None:
    async def run() -> bytes:
        protocol, wire = connect()
        ShortWay.front._typed = {"/short": responder}
        for number in range(2):
            protocol.data_received(wire_of(number, "/short", b"abc", chunked=False))
            for _ in range(20):
                await asyncio.sleep(0)
        assert not wire.closed
        return wire.written

    written = asyncio.run(run())
    assert re.findall(rb"HTTP/1.1 (\d+)", written) == [b"500", b"500"]
    assert b"not even" not in written
    assert b"nor here" not in written


def test_a_request_whose_caller_goes_away_is_given_up_and_counted_as_that() -> None:
    given_up: list[str] = []
    statuses: list[int] = []

    def wait(exchange: Exchange, _: bytes, __: Callable[[Reply], None]) -> Callable[[], None]:
        return lambda: given_up.append(exchange.id)

    async def run() -> None:
        protocol, _ = connect()
        ShortWay.front._typed = {"/short": wait}
        ShortWay.front.end = lambda exchange: statuses.append(exchange.status)  # type: ignore[method-assign]
        protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
        assert given_up == []
        protocol.connection_lost(None)
        protocol.connection_lost(None)

    asyncio.run(run())
    assert (given_up, statuses) == (["7"], [499])


@pytest.mark.parametrize("leaves", [False, True])
def test_an_answer_that_is_being_compressed_is_sent_once_or_to_nobody(
    leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing: list[asyncio.Future[bytes]] = []
    statuses: list[int] = []

    def compressed(_: bytes, coding: bytes) -> asyncio.Future[bytes]:
        assert coding == b"gzip"
        packing.append(asyncio.get_running_loop().create_future())
        return packing[-1]

    monkeypatch.setattr(short_way, "compressed", compressed)
    request = wire_of(7, "/short", bytes(16_384), chunked=False)
    request = request.replace(b"Host:", b"Accept-Encoding: gzip\r\nHost:")

    async def run() -> bytes:
        protocol, wire = connect()
        ShortWay.front.end = lambda exchange: statuses.append(exchange.status)  # type: ignore[method-assign]
        protocol.data_received(request)
        await asyncio.sleep(0)
        assert (wire.written, statuses) == (b"", [])
        if leaves:
            protocol.connection_lost(None)
            assert packing[0].cancelled()
        else:
            packing[0].set_result(b"packed")
        await asyncio.sleep(0)
        return wire.written

    written = asyncio.run(run())
    if leaves:
        assert (written, statuses) == (b"", [499])
    else:
        assert written.endswith(b"\r\n\r\npacked")
        assert b"\r\ncontent-length: 6\r\ncontent-encoding: gzip\r\nvary: " in written
        assert statuses == [400]  # what this endpoint answers to a body of even length


def test_a_connection_is_closed_when_nobody_has_asked_for_long_enough_and_not_before() -> None:
    replies: list[Callable[[], None]] = []

    def later(_: Exchange, __: bytes, reply: Callable[[Reply], None]) -> Callable[[], None]:
        replies.append(lambda: reply(Reply(current(), b"late")))
        return lambda: None

    async def run() -> list[bool]:
        protocol, wire = connect(timeout_keep_alive=1)
        closed = []
        for _ in range(4):  # asked again and again, for longer than it may be idle
            protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
            await asyncio.sleep(0.4)
            closed.append(wire.closed)
        ShortWay.front.known_heads.clear()
        ShortWay.front._typed = {"/short": later}
        protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
        await asyncio.sleep(1.3)  # at work for longer than it may be idle
        closed.append(wire.closed)
        replies[0]()
        await asyncio.sleep(0.8)
        closed.append(wire.closed)
        await asyncio.sleep(0.5)
        return [*closed, wire.closed]

    assert asyncio.run(run()) == [False] * 6 + [True]


def test_a_lost_connection_leaves_no_timer_behind() -> None:
    async def run() -> bool:
        protocol, _ = connect()
        protocol.data_received(wire_of(7, "/short", b"abc", chunked=False))
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        reference = weakref.ref(protocol)
        del protocol
        gc.collect()
        return reference() is None

    assert asyncio.run(run())


def test_whoever_takes_a_connection_lets_its_siblings_take_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yielded: list[int] = []
    monkeypatch.setattr(connection, "let_siblings_run", lambda: yielded.append(1))

    async def run() -> None:
        for _ in range(3):
            connect()

    asyncio.run(run())
    assert len(yielded) == 3
