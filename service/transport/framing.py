"""Checks of a request's framing: the headers that determine the length and target of a request.

If a proxy and a server disagree on where a request ends, one client can get another client's
response. Ambiguous requests are therefore refused (RFC 9112, sections 2.3, 3.2 and 6.1). An offer
to upgrade the connection is ignored (RFC 9110, section 7.8).
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from service.errors import BadInputError, NotImplementedHttpError, UnknownVersionError

_URL = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)

NO_REQUEST = "This is not a readable HTTP/1.1 request."

Lines = Sequence[tuple[bytes, bytes]]
"""Header fields in the order received, names in lower case."""

_MAX_HOST = 300  # bytes; longer values are not cached
_HOST = re.compile(rb"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(:[0-9]*)?")


def check_framing(
    method: bytes, target: bytes, version: str, lines: Lines, headers: Mapping[bytes, bytes]
) -> None:
    """Refuse a request whose end or target is ambiguous.

    Args:
        method: of the request.
        target: of the request, usually a path.
        version: of HTTP, such as "1.1".
        lines: the header fields in the order received.
        headers: the same fields by name.

    Raises:
        BadInputError: the version is missing, `Host` is missing, repeated or malformed, or an
            HTTP/1.0 request has a transfer coding.
        NotImplementedHttpError: the transfer coding is not `chunked` alone, or the method is
            CONNECT.
        UnknownVersionError: the version is not HTTP/1.
    """
    if version not in ("1.1", "1.0"):
        if version == "0.9":  # the parser's value for a missing version
            raise BadInputError(NO_REQUEST)
        raise UnknownVersionError(f"HTTP/{version} is not supported; send HTTP/1.1.")
    if method == b"CONNECT":
        raise NotImplementedHttpError("CONNECT is for proxies, and this server is not a proxy.")
    host, coding = headers.get(b"host"), headers.get(b"transfer-encoding")
    if len(lines) > len(headers):  # some names are repeated
        hosts = sum(name == b"host" for name, _ in lines)
        if hosts > 1:
            raise BadInputError(f"Send the header Host once, not {hosts} times.")
        coding = b",".join(value for name, value in lines if name == b"transfer-encoding")
    if host is None:
        if version == "1.1":
            raise BadInputError("Send the header Host, which HTTP/1.1 requires.")
    elif len(host) > _MAX_HOST or not _is_host(host):
        raise BadInputError("The header Host must be a host, and perhaps a port.")
    elif not target.startswith(b"/") and _host_of(target) not in (None, host.lower()):
        raise BadInputError("The request line and the header Host name different hosts; send one.")
    if coding:
        if version == "1.0":
            raise BadInputError("HTTP/1.0 has no Transfer-Encoding; send a Content-Length.")
        if coding.strip(b", \t").lower() != b"chunked":
            raise NotImplementedHttpError(
                "The only supported Transfer-Encoding is chunked; send a compressed body with "
                "the header Content-Encoding."
            )


def _host_of(target: bytes) -> bytes | None:
    """Return the host and port of an absolute URL, in lower case; None for a path."""
    match = _URL.match(target)
    return match[1].lower() if match else None


@lru_cache(maxsize=256)  # clients repeat the same value
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def without_upgrade(method: bytes, target: bytes, version: str, lines: Lines) -> bytes:
    """Return the encoded header of a request without the offer to upgrade."""
    other_lines = [b"%b: %b\r\n" % line for line in lines if line[0] != b"upgrade"]
    return b"".join(
        (b"%b %b HTTP/%b\r\n" % (method, target, version.encode()), *other_lines, b"\r\n")
    )
