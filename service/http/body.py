"""A request's body, whole: bounded in size, in time, and in what it expands to."""

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Receive

from service.errors import (
    BadInputError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaError,
)
from service.settings import Settings

# What zlib calls each Content-Encoding; "deflate" is zlib's own format, says RFC 9110.
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


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
        UnsupportedMediaError: it is compressed in another way than gzip or deflate.
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
                # Not a list of chunks: of those a client may send one for each byte.
                body = bytearray(body)
                while message.get("more_body") and len(body) <= limit:
                    message = await receive()
                    body += message.get("body", b"")
    except TimeoutError:
        raise BodyTimeoutError(
            f"The body did not arrive within {settings.body_timeout_seconds:g} seconds."
        ) from None
    if message["type"] == "http.disconnect":
        raise BadInputError("The request ended before its body did.")
    if len(body) > limit:
        raise _too_large(limit)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    return body if encoding == b"identity" else _expanded(body, encoding, limit)


def _expanded(body: bytes | bytearray, encoding: bytes, limit: int) -> bytes:
    if encoding not in _WINDOW_BITS:
        raise UnsupportedMediaError("Send the body as it is, or with gzip or deflate.")
    expander = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        expanded = expander.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadInputError(f"The body is no {encoding.decode()}: {error}.") from error
    if len(expanded) > limit:
        raise _too_large(limit)
    if not expander.eof or expander.unused_data:
        raise BadInputError(f"The body is not one whole {encoding.decode()} stream.")
    return expanded


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {limit:,} bytes; send fewer rows.")
