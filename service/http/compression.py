"""Answers that are compressed as their caller asks, where that saves much: off the event loop."""

import zlib
from asyncio import Future, get_running_loop
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""Of each coding; "deflate" is zlib's own format, says RFC 9110."""
_LEVEL = 1  # of zlib: the others take several times as long, and save little more
_MOST_CODINGS = 20  # of a header are looked at

# zlib lets Python's other threads run meanwhile, so one beside the event loop suffices.
_pool = ThreadPoolExecutor(1, "compression")


def asked_coding(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The coding that `Accept-Encoding` prefers, `gzip` or `deflate`; None for the body as it is.

    Of several that are liked as well, the first. `*` names none.

    Args:
        headers: the request's, names in lower case.
    """
    accepted = headers.get(b"accept-encoding")
    if accepted is None:
        return None
    found, best, plain = None, 0.0, 0.0
    for element in accepted.lower().split(b",", _MOST_CODINGS)[:_MOST_CODINGS]:
        name, *parameters = (part.strip() for part in element.split(b";"))
        quality = _quality(parameters)
        if name == b"identity":
            plain = quality
        elif quality > best and (coding := name.removeprefix(b"x-")) in _WINDOW_BITS:
            found, best = coding, quality
    return found if best >= plain else None


def compressed(body: bytes, coding: bytes) -> "Future[bytes]":
    """The body in this coding, once a thread has made it, which no cancellation stops."""
    return get_running_loop().run_in_executor(_pool, _compress, body, coding)


def _compress(body: bytes, coding: bytes) -> bytes:
    try:
        packer = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[coding])
        return packer.compress(body) + packer.flush()
    except MemoryError:
        return body  # it is not shorter, and so is sent as it is


def _quality(parameters: list[bytes]) -> float:
    """How well a coding is liked, 0 for not at all: 1 where nothing is said."""
    for parameter in parameters:
        key, _, value = parameter.partition(b"=")
        if key.strip() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
