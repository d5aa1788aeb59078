"""Compression of large responses off the event loop, as `Accept-Encoding` asks."""

import zlib
from asyncio import Future, get_running_loop
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""zlib's value for each coding; "deflate" is zlib's own format (RFC 9110)."""
_LEVEL = 1  # of zlib: higher levels take several times as long, and save little more
_MAX_CODINGS = 20  # of a header are read

# zlib releases the GIL, so one thread beside the event loop suffices.
_pool = ThreadPoolExecutor(1, "compression")


def preferred_coding(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the coding that `Accept-Encoding` prefers, `gzip` or `deflate`; None for no coding.

    Among equal preferences the first wins. `*` names no coding.

    Args:
        headers: of the request, names in lower case.
    """
    accepted = headers.get(b"accept-encoding")
    if accepted is None:
        return None
    preferred, best_quality, identity_quality = None, 0.0, 0.0
    for element in accepted.lower().split(b",", _MAX_CODINGS)[:_MAX_CODINGS]:
        name, *parameters = (part.strip() for part in element.split(b";"))
        quality = _quality(parameters)
        if name == b"identity":
            identity_quality = quality
        elif quality > best_quality and (coding := name.removeprefix(b"x-")) in _WINDOW_BITS:
            preferred, best_quality = coding, quality
    return preferred if best_quality >= identity_quality else None


def compressed(body: bytes, coding: bytes) -> "Future[bytes]":
    """Compress the body on a thread. Cancelling the future does not stop the thread."""
    return get_running_loop().run_in_executor(_pool, _compress, body, coding)


def _compress(body: bytes, coding: bytes) -> bytes:
    try:
        packer = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[coding])
        return packer.compress(body) + packer.flush()
    except MemoryError:
        return body  # not shorter, so the response is sent uncompressed


def _quality(parameters: list[bytes]) -> float:
    """Return the quality value of a coding: 1 by default, 0 if not acceptable."""
    for parameter in parameters:
        key, _, value = parameter.partition(b"=")
        if key.strip() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
