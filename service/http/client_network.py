"""The network that a request comes from, by which clients without API keys are distinguished."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

_MAX_HOST = 64  # characters; a proxy may pass on any text as an address


def client_network(client: Sequence[str | int] | None) -> str:
    """Return the IPv4 address of a client, or the /64 of its IPv6 address; "" if it has none.

    One subscriber usually has all addresses of an IPv6 /64.

    Args:
        client: host and port, as in an ASGI scope.
    """
    host = str(client[0])[:_MAX_HOST] if client else ""
    return _network_of(host) if ":" in host else host


@lru_cache(1_000)
def _network_of(host: str) -> str:
    try:
        address = IPv6Address(host.partition("%")[0])  # without the interface of a local address
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))
