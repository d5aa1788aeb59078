"""Bodies: read whole or refused with one sentence, in bounded time and memory."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive

from service.errors import (
    BadInputError,
    BodiesFullError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaError,
)
from service.http.body import _MAX_MEMBERS, read_body
from service.json_body import Body
from service.settings import Settings
from service.telemetry.request_context import start_request

pytestmark = pytest.mark.usefixtures("pool")

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}
property_test = settings(deadline=None, derandomize=True, database=None, max_examples=200)
every_encoding = pytest.mark.parametrize("encoding", list(COMPRESS))
compressed = pytest.mark.parametrize("encoding", ["gzip", "deflate"])


def sender(
    chunks: Iterable[bytes], *, ends: bool = True, pause: float = 0, then: Message | None = None
) -> Receive:
    """Return ASGI's `receive` of a client that sends these chunks, and then ends or is silent."""
    messages = iter(
        [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    )

    async def receive() -> Message:
        await asyncio.sleep(pause)
        message = next(messages, None)
        if message is None and then is not None:
            return then
        if message is None and not ends:
            await asyncio.Event().wait()
        return message or {"type": "http.request"}

    return receive


_limited: Callable[..., Settings] = cache(Settings)  # each takes over a millisecond


def whole(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return receive


async def read(
    receive: Receive, headers: Mapping[str, str] | None = None, **limits: float
) -> bytes:
    raw = {name.encode(): value.encode() for name, value in (headers or {}).items()}
    reading: Awaitable[bytes | bytearray] = read_body(raw, receive, _limited(**limits))
    return bytes(await asyncio.wait_for(reading, 20))


@property_test
@given(st.lists(st.binary(max_size=20), max_size=8), st.sampled_from(list(COMPRESS)))
async def test_the_chunks_of_a_body_are_the_body(chunks: list[bytes], encoding: str) -> None:
    sent = b"".join(chunks)
    assert await read(sender(chunks)) == sent
    wire = COMPRESS[encoding](sent)
    pieces = [wire[start : start + 7] for start in range(0, len(wire), 7)]
    aliases = {"gzip": ("x-gzip", "X-GZIP"), "deflate": (), "identity": ("", ",", "identity,")}
    for header in (
        *(encoding, f" {encoding.upper()} ", f"identity, {encoding},", *aliases[encoding]),
    ):
        assert await read(sender(pieces), {"content-encoding": header}) == sent
        assert await read(whole(wire), {"content-encoding": header}) == sent


async def test_a_body_in_one_message_is_not_copied() -> None:
    body = bytes(100)
    assert await read_body({}, whole(body), Settings()) is body


@every_encoding
async def test_the_limit_is_the_largest_accepted_size(encoding: str) -> None:
    headers = {"content-encoding": encoding}
    for body in (bytes(1000), bytes(1001)):
        wire = COMPRESS[encoding](body)
        for receive in (whole(wire), sender([wire]), sender([wire[:5], wire[5:]])):
            if len(body) == 1000:
                assert await read(receive, headers, max_body_bytes=1000) == body
            else:
                with pytest.raises(BodyTooLargeError, match="larger than 1,000 bytes"):
                    await read(receive, headers, max_body_bytes=1000)


@pytest.mark.parametrize("declared", ["1001", "9" * 30])
async def test_a_body_whose_declared_length_is_too_large_is_refused_unread(declared: str) -> None:
    async def receive() -> Message:
        raise AssertionError("nothing must be read")

    with pytest.raises(BodyTooLargeError):
        await read(receive, {"content-length": declared}, max_body_bytes=1000)


@pytest.mark.parametrize("declared", ["5", "0", "-1", "abc", "", "\u00b2"])
async def test_a_wrong_declared_length_has_no_effect(declared: str) -> None:
    headers = {"content-length": declared}
    assert await read(sender([b"abc"]), headers) == b"abc"
    with pytest.raises(BodyTooLargeError):
        await read(sender([bytes(600)] * 2), headers, max_body_bytes=1000)


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": bytes(100), "more_body": True}

    with pytest.raises(BodyTooLargeError):
        await read(receive, max_body_bytes=1000)
    assert received == 11


@pytest.mark.timeout(20)
async def test_bodies_beyond_the_common_limit_are_refused_and_earlier_ones_are_read() -> None:
    settings = Settings(max_body_bytes=1000, max_buffered_bytes=2500, body_timeout_seconds=5)

    def arriving(more: asyncio.Event) -> Receive:
        messages = iter([bytes(400), bytes(500), b""])

        async def receive() -> Message:
            body = next(messages)
            if not body:
                await more.wait()
            return {"type": "http.request", "body": body, "more_body": bool(body)}

        return receive

    async def read_for(caller: str) -> Body:
        start_request("POST", "/", {}).client = caller
        return await read_body({}, arriving(more), settings)

    more = asyncio.Event()
    first = [asyncio.create_task(read_for(caller)) for caller in "ab"]
    await asyncio.sleep(0.01)
    with pytest.raises(BodiesFullError) as refused:
        await read_body({}, arriving(more), settings)
    assert refused.value.status == 503
    assert (
        len(await read_body({}, whole(bytes(1000)), settings)) == 1000
    )  # the body is being received
    cancelled = asyncio.create_task(read_body({}, arriving(more), settings))
    cancelled.cancel()
    more.set()
    assert [len(await task) for task in first] == [900, 900]
    for _ in range(3):  # no bytes are counted any more
        assert len(await read_body({}, arriving(more), settings)) == 900


@pytest.mark.timeout(20)
async def test_a_caller_with_many_bodies_leaves_memory_for_those_of_others() -> None:
    limits = Settings(max_body_bytes=1_000, max_buffered_bytes=5_000, body_timeout_seconds=0.2)

    async def read_for(caller: str, *, ends: bool) -> Body:
        start_request("POST", "/", {}).client = caller
        return await read_body({}, sender([bytes(900)], ends=ends), limits)

    many = [asyncio.create_task(read_for("a", ends=False)) for _ in range(9)]
    await asyncio.sleep(0.05)
    assert len(await asyncio.create_task(read_for("b", ends=True))) == 900
    errors = await asyncio.gather(*many, return_exceptions=True)
    assert {type(error) for error in errors} == {BodiesFullError, BodyTimeoutError}


@pytest.mark.parametrize(
    "receive",
    [
        sender([], ends=False),
        sender([b"half"], ends=False),
        sender([b"x"] * 1000, pause=0.01),
        sender([b""] * 1000, pause=0.01),
    ],
    ids=["nothing", "half", "byte by byte", "nothing again and again"],
)
async def test_a_body_that_does_not_arrive_in_time_is_refused(receive: Receive) -> None:
    with pytest.raises(BodyTimeoutError, match=r"did not arrive within 0\.05 seconds"):
        await read(receive, body_timeout_seconds=0.05)


@pytest.mark.parametrize("chunks", [[], [b"half"], [b"{", b"}"]])
async def test_a_client_that_disconnects_has_sent_no_body(chunks: list[bytes]) -> None:
    with pytest.raises(BadInputError, match="ended before its body did"):
        await read(sender(chunks, then={"type": "http.disconnect"}))


# Compressed.


@compressed
@pytest.mark.parametrize(
    "spoil",
    [
        lambda wire: wire[:-1],
        lambda wire: wire[: len(wire) // 2],
        lambda wire: b"",
        lambda wire: wire + b"x",
        lambda wire: b"plain text",
        lambda wire: b"\x00" + wire,
        lambda wire: wire[:-6] + bytes(6),
    ],
    ids=["cut", "half", "nothing", "trailing", "plain", "shifted", "checksum"],
)
async def test_an_incomplete_stream_is_refused(
    encoding: str, spoil: Callable[[bytes], bytes]
) -> None:
    wire = spoil(COMPRESS[encoding](b"some body" * 5))
    with pytest.raises(BadInputError, match=rf"The body is no(t one whole)? {encoding}"):
        await read(whole(wire), {"content-encoding": encoding})


@property_test
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6), st.integers(1, 400))
async def test_the_members_of_a_gzip_stream_are_read_one_after_the_other(
    contents: list[bytes], limit: int
) -> None:
    wire, sent = b"".join(map(gzip.compress, contents)), b"".join(contents)
    for receive in (
        whole(wire),
        sender([wire[start : start + 50] for start in range(0, len(wire), 50)]),
    ):
        if max(len(sent), len(wire)) <= limit:
            content = await read(receive, {"content-encoding": "gzip"}, max_body_bytes=limit)
            assert content == sent
        else:
            with pytest.raises(BodyTooLargeError):
                await read(receive, {"content-encoding": "gzip"}, max_body_bytes=limit)


async def test_deflate_has_no_members() -> None:
    wire = zlib.compress(b"body")
    with pytest.raises(BadInputError, match="not one whole deflate stream"):
        await read(whole(wire + wire), {"content-encoding": "deflate"})


async def test_a_member_larger_than_one_piece_is_read() -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    wire = gzip.compress(noise[:200_000], 0) + gzip.compress(noise[200_000:])
    for receive in (whole(wire), sender([wire[:100_000], wire[100_000:]])):
        assert await read(receive, {"content-encoding": "gzip"}) == noise
    for cut in (10, 100_000, 200_030, len(wire) - 1):
        with pytest.raises(BadInputError, match="not one whole gzip stream"):
            await read(whole(wire[:cut]), {"content-encoding": "gzip"})


async def test_endless_empty_members_are_refused_quickly() -> None:
    empty = gzip.compress(b"")
    await read(whole(empty * _MAX_MEMBERS), {"content-encoding": "gzip"})
    with pytest.raises(BadInputError, match="not one whole gzip stream"):
        await read(whole(empty * (_MAX_MEMBERS + 1)), {"content-encoding": "gzip"})


async def test_one_coding_is_not_decoded_as_another() -> None:
    with pytest.raises(BadInputError, match="The body is no gzip"):
        await read(whole(zlib.compress(b"body")), {"content-encoding": "gzip"})
    with pytest.raises(BadInputError, match="The body is no deflate"):
        await read(whole(gzip.compress(b"body")), {"content-encoding": "deflate"})


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "gzip, gzip", "deflate, x-gzip", "gzip;q=1", "gzip gzip", "\u00e9"]
)
async def test_an_unknown_coding_is_refused_and_the_supported_ones_are_named(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="once, with gzip or deflate") as refused:
        await read(whole(b"body"), {"content-encoding": encoding})
    assert refused.value.headers == (("Accept-Encoding", "gzip, deflate"),)


@property_test
@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]), st.data())
async def test_any_bytes_are_read_or_refused_with_one_sentence(
    content: bytes, encoding: str, data: st.DataObject
) -> None:
    wire = bytearray(COMPRESS[encoding](content))
    offset = data.draw(st.integers(0, len(wire) - 1))
    wire[offset : offset + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    headers = {"content-encoding": encoding}
    with suppress(BadInputError, BodyTooLargeError):
        assert len(await read(whole(bytes(wire)), headers, max_body_bytes=50)) <= 50


# Memory.


async def peak_of(reading: Awaitable[object]) -> int:
    tracemalloc.start()
    try:
        await reading
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@compressed
async def test_a_bomb_takes_no_more_than_a_small_multiple_of_the_limit(encoding: str) -> None:
    limit = 1_000_000
    bomb = COMPRESS[encoding](bytes(100 * limit))
    assert len(bomb) < limit

    async def read_bomb() -> None:
        with pytest.raises(BodyTooLargeError):
            await read(whole(bomb), {"content-encoding": encoding}, max_body_bytes=limit)

    assert await peak_of(read_bomb()) < 4 * limit


async def test_a_body_in_one_byte_chunks_takes_no_more_than_a_small_multiple_of_its_size() -> None:
    size = 400_000

    def chunks() -> Receive:
        left = size

        async def receive() -> Message:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": b"x", "more_body": left > 0}

        return receive

    # A list of chunks would take a pointer per chunk, eight times the size.
    assert await peak_of(read_body({}, chunks(), Settings())) < 2 * size
