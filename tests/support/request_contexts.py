"""Request contexts for tests."""

from typing import Any

from service.telemetry.request_context import RequestContext


def context_of(
    identity: str = "id",
    method: str = "GET",
    path: str = "/",
    headers: dict[bytes, bytes] | None = None,
    **known: Any,
) -> RequestContext:
    """Return the context of a new request."""
    made = RequestContext(identity, method, path, headers or {})
    for name, value in known.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made
