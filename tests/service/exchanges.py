"""Exchanges of which something is known."""

from typing import Any

from service.http.exchange import Exchange


def exchange_of(
    identity: str = "id",
    method: str = "GET",
    path: str = "/",
    headers: dict[bytes, bytes] | None = None,
    **known: Any,
) -> Exchange:
    """One that has come so far."""
    made = Exchange(identity, method, path, headers or {})
    for name, value in known.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made
