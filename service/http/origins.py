"""Checks of the host and origin of requests; active without API keys.

A web page of another site can make the browser on this machine send requests to this service: to
its address, or to a name of the page's own that the page's DNS server resolves to this address (DNS
rebinding). The browser reveals both in headers that no page can set: `Origin` and `Sec-Fetch-Site`
name the page, and `Host` the requested name. Clients that are not browsers send no `Origin`.

With API keys, nothing is checked here: a page has no key, and CORS decides which pages may send
one.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from service.errors import ForeignOriginError, MisdirectedRequestError
from service.settings import Settings

_AUTHORITY = re.compile(r"(\[[\da-f:.]+(?:%[\w.~-]+)?\]|[\w.-]+)(?::(\d{0,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LOCAL = ("localhost", "*.localhost")
_MAX_KNOWN = 1_000  # values of Host
_MAX_KNOWN_BYTES = 300  # bytes of one


class Authority(NamedTuple):
    """A host in lower case, without a final dot, and its port: "" for none or the default port."""

    host: str
    port: str


def parse_authority(text: str, scheme: str = "http") -> Authority | None:
    """Parse `example.com:8080` into host and port; return None if `text` is malformed."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    port = match[2] or ""
    return Authority(match[1].removesuffix("."), "" if port == _DEFAULT_PORTS.get(scheme) else port)


class OriginPolicy:
    """The policy that refuses requests sent by pages of other sites, or under other names.

    Args:
        settings: whether there are keys; the allowed hosts and origins.
    """

    def __init__(self, settings: Settings) -> None:
        self._checks = settings.api_keys_file is None
        hosts = [*_LOCAL, *(host.lower() for host in settings.allowed_hosts)]
        self._every_host = "*" in hosts
        self._hosts = frozenset(_normal(host) for host in hosts)
        self._domains = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._origins = frozenset(settings.cors_origins)
        self._known: set[bytes | None] = {None}
        """Accepted values of `Host`; None, as HTTP/1.0 requests may lack the header."""

    def accepts_everywhere(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether `check` would pass, whichever connection the request came on.

        The check takes less than a microsecond for a known host. It is False for requests of
        browsers.
        """
        if not self._checks:
            return True
        if b"origin" in headers or b"sec-fetch-site" in headers:
            return False
        host = headers.get(b"host")
        return host in self._known or self._accepts(host, None)

    def check(self, headers: Mapping[bytes, bytes], address: str | None) -> None:
        """Accept the request, or raise.

        Args:
            headers: of the request, names in lower case.
            address: of this server, on the connection of the request.

        Raises:
            MisdirectedRequestError: the host is neither local nor allowed.
            ForeignOriginError: the request was sent by a page of an origin that is not allowed.
        """
        if not self._checks:
            return
        host = headers.get(b"host")
        if not self._accepts(host, address):
            raise MisdirectedRequestError(
                f"This service does not serve the host {_shown(host)}; "
                "FITSERVE_ALLOWED_HOSTS names the hosts that it serves besides local ones."
            )
        origin = headers.get(b"origin")
        if origin is None:
            self._check_site(headers)
        elif not (self._allows(origin) or self._is_own(origin, headers, address)):
            raise ForeignOriginError(
                f"Pages of the origin {_shown(origin)} may not call this service; "
                "FITSERVE_CORS_ORIGINS names those that may."
            )

    def _check_site(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse the load of a script or picture by another site's page; links are allowed."""
        cross_origin = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
        if cross_origin and headers.get(b"sec-fetch-mode") != b"navigate" and not self._origins:
            raise ForeignOriginError(
                "Pages of other origins may not load anything from this service; "
                "FITSERVE_CORS_ORIGINS names those that may."
            )

    def _allows(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1") in self._origins

    def _is_own(self, origin: bytes, headers: Mapping[bytes, bytes], address: str | None) -> bool:
        """Return whether the page came from this service.

        Its origin is then the requested host. Behind a proxy that uses a host name of its own, the
        browser marks the request as same-origin instead, and the origin names an accepted host.
        """
        scheme, _, host = origin.decode("latin-1").partition("://")
        authority = parse_authority(host, scheme) if scheme in _DEFAULT_PORTS else None
        if authority is None:  # `null` (a file, a sandbox) or a browser extension
            return False
        if authority == parse_authority(headers.get(b"host", b"").decode("latin-1"), scheme):
            return True
        is_same_origin = headers.get(b"sec-fetch-site") == b"same-origin"
        return is_same_origin and self._accepts(host.encode("latin-1"), address)

    def _accepts(self, host: bytes | None, address: str | None) -> bool:
        if host in self._known:
            return True
        authority = parse_authority((host or b"").decode("latin-1"))
        if not self._every_host and (
            authority is None or not self._accepts_name(authority.host, address)
        ):
            return False
        if len(host or b"") <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known = {None}
            self._known.add(host)
        return True

    def _accepts_name(self, host: str, address: str | None) -> bool:
        normal = _normal(host)
        if normal in self._hosts or normal.endswith(self._domains):
            return True
        ip = _ip(normal)
        if ip is None:
            return False
        is_own = address is not None and ip == _ip(_normal(address))
        return is_own or ip.is_loopback or ip.is_unspecified  # 0.0.0.0 is this machine


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _normal(host: str) -> str:
    """Return the name, or the normal form of an IP address: no brackets, zone or mapped IPv4."""
    ip = _ip(host.strip("[]").partition("%")[0])
    if ip is None:
        return host
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return str(mapped or ip)


def _shown(value: bytes | None) -> str:
    return repr((value or b"")[:100].decode("latin-1"))
