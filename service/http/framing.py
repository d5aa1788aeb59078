"""How a request is framed: what its headers must say before its body is read.

Where a proxy and a server read the same bytes as different requests, one caller gets the answer of
another. So whatever leaves room for that is refused (RFC 9112, sections 2.3, 3.2 and 6.1), and an
offer to upgrade the connection is read as if it had not been made (RFC 9110, section 7.8).
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from service.errors import BadInputError, NotImplementedHttpError, UnknownVersionError

_URL = re.compile(rb"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)

NO_REQUEST = "This is no request of HTTP/1.1 that can be read."

Lines = Sequence[tuple[bytes, bytes]]
"""Names in lower case, as they came."""

_HOST = re.compile(rb"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(:[0-9]*)?")


def check_framing(
    method: bytes, target: bytes, version: str, lines: Lines, headers: Mapping[bytes, bytes]
) -> None:
    """Refuse a request of which it is not certain where it ends, or for whom it is.

    Args:
        method: HTTP's.
        target: what is asked for, mostly a path.
        version: HTTP's, such as "1.1".
        lines: the headers of the request, in the order in which they came.
        headers: the same by their names.

    Raises:
        BadInputError: it is of no version, names no host or two, or has a transfer coding in
            HTTP/1.0.
        NotImplementedHttpError: its transfer coding is not chunked alone, or it asks for a tunnel.
        UnknownVersionError: it is of HTTP/2.
    """
    if version not in ("1.1", "1.0"):
        if version == "0.9":  # what the parser says where it finds none
            raise BadInputError(NO_REQUEST)
        raise UnknownVersionError(f"HTTP/{version} is not read here; send HTTP/1.1.")
    if method == b"CONNECT":
        raise NotImplementedHttpError("CONNECT asks for a proxy, which this server is not.")
    host, coding = headers.get(b"host"), headers.get(b"transfer-encoding")
    if len(lines) > len(headers):  # some came several times
        hosts = sum(name == b"host" for name, _ in lines)
        if hosts > 1:
            raise BadInputError(f"Send the header Host once, not {hosts} times.")
        coding = b",".join(value for name, value in lines if name == b"transfer-encoding")
    if host is None:
        if version == "1.1":
            raise BadInputError("Send the header Host, which HTTP/1.1 asks for.")
    elif not _is_host(host):
        raise BadInputError("The header Host must be a host, and perhaps a port.")
    elif not target.startswith(b"/") and _host_of(target) not in (None, host.lower()):
        raise BadInputError("The request's line and its header Host name two hosts; send one.")
    if coding:
        if version == "1.0":
            raise BadInputError("HTTP/1.0 has no Transfer-Encoding; send a Content-Length.")
        if coding.strip(b", \t").lower() != b"chunked":
            raise NotImplementedHttpError(
                "The only Transfer-Encoding that is read is chunked; send a compressed body with "
                "the header Content-Encoding."
            )


def _host_of(target: bytes) -> bytes | None:
    """The host and port that a whole URL names, in lower case; None where it is only a path."""
    found = _URL.match(target)
    return found[1].lower() if found else None


@lru_cache(maxsize=256)  # a client names the same one again and again
def _is_host(value: bytes) -> bool:
    return len(value) <= 300 and _HOST.fullmatch(value) is not None


def without_upgrade(method: bytes, target: bytes, version: str, lines: Lines) -> bytes:
    """The first bytes of a request, up to its body, as they are without the offer to upgrade."""
    kept = [b"%b: %b\r\n" % line for line in lines if line[0] != b"upgrade"]
    return b"".join((b"%b %b HTTP/%b\r\n" % (method, target, version.encode()), *kept, b"\r\n"))
