"""How a request is framed: what its headers must say before its body is read.

Where a proxy and a server read the same bytes as different requests, one caller gets the answer of
another. So whatever leaves room for that is refused (RFC 9112, sections 2.3, 3.2 and 6.1), and an
offer to upgrade the connection is read as if it had not been made (RFC 9110, section 7.8).
"""

import re
from collections.abc import Sequence

from service.errors import BadInputError, NotImplementedHttpError, UnknownVersionError

NO_REQUEST = "This is no request of HTTP/1.1 that can be read."

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, as they came."""

_HOST = re.compile(rb"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~%!$&'()*+,;=-]*)(:[0-9]*)?")


def check_framing(method: bytes, version: str, headers: Headers) -> None:
    """Refuse a request of which it is not certain where it ends, or for whom it is.

    Args:
        method: HTTP's.
        version: HTTP's, such as "1.1".
        headers: of the request, each once for each line.

    Raises:
        BadInputError: it is of no version, names no host or several, or has a transfer coding in
            HTTP/1.0.
        NotImplementedHttpError: its transfer coding is not chunked alone, or it asks for a tunnel.
        UnknownVersionError: it is of HTTP/2.
    """
    if version == "0.9":  # what the parser says where it finds none
        raise BadInputError(NO_REQUEST)
    if version not in ("1.1", "1.0"):
        raise UnknownVersionError(f"HTTP/{version} is not read here; send HTTP/1.1.")
    hosts, codings = 0, b""
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise BadInputError("The header Host must be a host, and perhaps a port.")
        elif name == b"transfer-encoding":
            codings += b"," + value
    if hosts != 1 and (hosts or version == "1.1"):
        raise BadInputError(f"Send the header Host once; the request has {hosts} of them.")
    if codings:
        if version == "1.0":
            raise BadInputError("HTTP/1.0 has no Transfer-Encoding; send a Content-Length.")
        if codings.strip(b", \t").lower() != b"chunked":
            raise NotImplementedHttpError(
                "The only Transfer-Encoding that is read is chunked; send a compressed body with "
                "the header Content-Encoding."
            )
    if method == b"CONNECT":
        raise NotImplementedHttpError("CONNECT asks for a proxy, which this server is not.")


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The first bytes of a request, up to its body, as they are without the offer to upgrade."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    return b"".join((b"%b %b HTTP/%b\r\n" % (method, target, version.encode()), *lines, b"\r\n"))
