"""Read the whole body of a request, with limits on its size, time and decompressed size.

The bodies that are being received share one memory limit: many clients, each within its own limits,
could otherwise exhaust the memory. Each caller has a share of it.
"""

import asyncio
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from starlette.types import Message, Receive

from service.errors import (
    BadInputError,
    BodiesFullError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaError,
)
from service.json_body import Body
from service.processes.jobs import LARGE_BYTES, run_job, whole
from service.settings import Settings
from service.shared_buffer import SharedBuffer
from service.telemetry.request_context import current_request

# zlib's value for each Content-Encoding; "deflate" is zlib's own format (RFC 9110).
_WINDOW_BITS = {
    b"gzip": 16 + zlib.MAX_WBITS,
    b"x-gzip": 16 + zlib.MAX_WBITS,
    b"deflate": zlib.MAX_WBITS,
}
_PIECE = 2**16  # bytes per call: zlib copies what follows the end of a gzip member
_MEMBER = b"\x1f\x8b\x08"  # a gzip member begins with it
_FEW_MEMBERS = 100  # take less than a millisecond
_MAX_MEMBERS = 10_000  # of a gzip stream: empty ones take time, and expand to nothing


@cache
def _arriving(max_bytes: int) -> SharedBuffer:
    """Return the bodies that this process is receiving; a process has one limit."""
    return SharedBuffer(max_bytes)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, settings: Settings) -> Body:
    """Return the whole body, decompressed.

    Args:
        headers: of the request, names in lower case.
        receive: of ASGI.
        settings: hold the limits.

    Raises:
        BodyTooLargeError: the body, its declared length or its decompressed size exceeds the limit.
        BodyTimeoutError: the body did not arrive in time.
        BodiesFullError: all bodies being received, or those of this caller, take too much memory.
        UnsupportedMediaError: the body is compressed other than once with gzip or deflate.
        BadInputError: the client disconnected before the end, or the compressed data is invalid.
    """
    limit = settings.max_body_bytes
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            message = await receive()
            body: bytes | bytearray = message.get("body", b"")
            if message.get("more_body"):
                body, message = await _in_parts(message, receive, settings)
    except TimeoutError:
        raise BodyTimeoutError(
            f"The body did not arrive within {settings.body_timeout_seconds:g} seconds."
        ) from None
    if message["type"] == "http.disconnect":
        raise BadInputError("The request ended before its body did.")
    if len(body) > limit:
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else await _decoded(body, encoding, limit)


async def _in_parts(
    message: Message, receive: Receive, settings: Settings
) -> tuple[bytearray, Message]:
    """Receive the body that begins with `message`, up to its end or limit.

    Returns:
        The body and the last message.
    """
    # One buffer, not a list of chunks: a client may send one chunk per byte.
    body, counted = bytearray(message.get("body", b"")), 0
    arriving, caller = _arriving(settings.max_buffered_bytes), current_request().caller
    try:
        while message.get("more_body") and len(body) <= settings.max_body_bytes:
            if not arriving.take(caller, len(body) - counted, earlier=counted):
                raise BodiesFullError("Too many large bodies are arriving. Try again later.")
            counted = len(body)
            message = await receive()
            body += message.get("body", b"")
    finally:
        arriving.give_back(caller, counted)
    return body, message


async def _decoded(body: bytes | bytearray, encoding: bytes, limit: int) -> Body:
    """Return the body without its one coding; `identity` and empty list elements are ignored."""
    codings = [coding.strip().lower() for coding in encoding.split(b",")]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        raise UnsupportedMediaError(
            "Send the body as it is, or compressed once, with gzip or deflate.",
            ("Accept-Encoding", "gzip, deflate"),
        )
    coding = codings[0].removeprefix(b"x-")
    if len(body) <= LARGE_BYTES and body.count(_MEMBER) <= _FEW_MEMBERS:
        with suppress(BodyTooLargeError):
            return expand(body, coding, min(limit, LARGE_BYTES))
        if limit <= LARGE_BYTES:
            raise _too_large(limit)
    return await run_job(current_request().caller, expand_large, whole(body), coding, limit)


def expand_large(body: bytearray, coding: bytes, limit: int) -> Any:
    """Expand as `expand` does, in another process."""
    return whole(expand(body, coding, limit))


def expand(body: bytes | bytearray, coding: bytes, limit: int) -> bytearray:
    """Return the decompressed body; a gzip stream may have several members.

    Raises:
        BadInputError: the body is not compressed so.
        BodyTooLargeError: the result is larger than `limit`.
    """
    try:
        return _expanded(body, coding, limit)
    except zlib.error as error:
        raise BadInputError(f"The body is no {coding.decode()}: {error}.") from error


def _expanded(body: bytes | bytearray, coding: bytes, limit: int) -> bytearray:
    rest, expanded, members = memoryview(body), bytearray(), 0
    while members == 0 or (rest and coding == b"gzip" and members < _MAX_MEMBERS):
        members += 1
        expander = zlib.decompressobj(_WINDOW_BITS[coding])
        while rest and not expander.eof:
            expanded += expander.decompress(rest[:_PIECE], limit + 1 - len(expanded))
            if len(expanded) > limit:
                raise _too_large(limit)
            rest = rest[min(_PIECE, len(rest)) - len(expander.unused_data) :]
        if not expander.eof:
            break
    if rest or not expander.eof:
        raise BadInputError(f"The body is not one whole {coding.decode()} stream.")
    return expanded


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {limit:,} bytes; send fewer rows.")
