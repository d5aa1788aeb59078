"""A request's body, whole: bounded in size, in time, and in what it expands to.

And all bodies that are arriving, together: or many callers, each within its bounds, would take the
memory.
"""

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Message, Receive

from service.errors import (
    BadInputError,
    BodiesFullError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaError,
)
from service.settings import Settings

# What zlib calls each Content-Encoding; "deflate" is zlib's own format, says RFC 9110.
_WINDOW_BITS = {
    b"gzip": 16 + zlib.MAX_WBITS,
    b"x-gzip": 16 + zlib.MAX_WBITS,
    b"deflate": zlib.MAX_WBITS,
}
_PIECE = 2**16  # bytes: zlib copies what follows a member in them
_MOST_MEMBERS = 10_000  # of a gzip stream: empty ones take time, and expand to nothing


class _Arriving:
    """The bytes of all bodies that are arriving in this process."""

    bytes = 0


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, settings: Settings
) -> bytes | bytearray:
    """The whole body, decompressed.

    Args:
        headers: the request's, names in lower case, as ASGI gives them.
        receive: ASGI's.
        settings: they hold the limits.

    Raises:
        BodyTooLargeError: it is larger than the settings allow, says so, or expands so far.
        BodyTimeoutError: it did not arrive in time.
        BodiesFullError: with the others that are arriving it takes more than they may.
        UnsupportedMediaError: it is compressed in another way than gzip or deflate, or twice.
        BadInputError: its caller went away before its end, or it is not what it says it is.
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
    return body if encoding is None else _decoded(body, encoding, limit)


async def _in_parts(
    message: Message, receive: Receive, settings: Settings
) -> tuple[bytearray, Message]:
    """A body of which `message` is the first part, up to its end or its limit; the last message."""
    # Not a list of chunks: of those a client may send one for each byte.
    body, counted = bytearray(message.get("body", b"")), 0
    try:
        while message.get("more_body") and len(body) <= settings.max_body_bytes:
            _Arriving.bytes += len(body) - counted
            counted = len(body)
            if _Arriving.bytes > settings.max_bodies_bytes:
                raise BodiesFullError("Too many large bodies are arriving. Try again later.")
            message = await receive()
            body += message.get("body", b"")
    finally:
        _Arriving.bytes -= counted
    return body, message


def _decoded(body: bytes | bytearray, encoding: bytes, limit: int) -> bytes | bytearray:
    """The body without its one coding; `identity`, and an empty element of the list, are none."""
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
    try:
        return _expanded(body, coding, limit)
    except zlib.error as error:
        raise BadInputError(f"The body is no {coding.decode()}: {error}.") from error


def _expanded(body: bytes | bytearray, coding: bytes, limit: int) -> bytearray:
    """What a body expands to; gzip may have several members, one after the other."""
    rest, expanded, members = memoryview(body), bytearray(), 0
    while members == 0 or (rest and coding == b"gzip" and members < _MOST_MEMBERS):
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
