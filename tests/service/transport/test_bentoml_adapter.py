"""The internals of BentoML that `bentoml_adapter.py` relies on; a failure means they have changed.

`bentoml serve` calls `to_asgi` of the service's class and gets a Starlette application whose
middlewares are not built yet. Two of them are found by name and dropped.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import bentoml
import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from service.settings import Settings
from service.transport.bentoml_adapter import DROPPED, wrap_service


class Recorder:
    """An app that passes everything on, and records the scope types."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        self.seen.append(scope["type"])
        await self.app(scope, receive, send)


def make_service() -> Any:
    @bentoml.service(name="hosted", metrics={"enabled": False})
    class Hosted:
        @bentoml.api
        def double(self, number: int) -> int:
            return 2 * number

    return Hosted


@pytest.fixture
def service() -> Iterator[Any]:
    return make_service()


def names(app: Starlette) -> list[str]:
    return [getattr(middleware.cls, "__name__", "") for middleware in app.user_middleware]


def test_bentoml_creates_a_starlette_application_with_the_dropped_middlewares(
    service: Any,
) -> None:
    app = service.to_asgi()
    assert isinstance(app, Starlette)
    assert app.middleware_stack is None, "the middlewares are built: dropping them comes too late"
    missing = set(DROPPED) - set(names(app))
    assert not missing, f"BentoML has {names(app)}: {missing} went, or has another name"


def test_the_app_wraps_an_application_without_the_dropped_middlewares(service: Any) -> None:
    before = names(service.to_asgi())
    wrap_service(service, Recorder, Settings())
    wrapped = service.to_asgi(is_main=True)
    assert isinstance(wrapped, Recorder)
    assert isinstance(wrapped.app, Starlette)
    assert names(wrapped.app) == [name for name in before if name not in DROPPED]
    # Needed by BentoML: it sets `bentoml.server_context` and the request context.
    assert "ContextMiddleware" in names(wrapped.app)


def test_a_wrapped_service_keeps_its_behaviour(service: Any) -> None:
    kind, name, apis = type(service), service.name, dict(service.apis)
    wrap_service(service, Recorder, Settings())
    assert isinstance(service, kind)
    assert (service.name, dict(service.apis)) == (name, apis)


def test_only_the_given_service_is_wrapped(service: Any) -> None:
    wrap_service(service, Recorder, Settings())
    assert isinstance(make_service().to_asgi(), Starlette)


def test_the_worker_of_bentoml_calls_to_asgi_of_the_service() -> None:
    """A worker that bypassed `to_asgi` would not use the app."""
    from _bentoml_impl.worker import service as worker

    assert "service.to_asgi(" in inspect.getsource(worker)


async def test_the_wrapped_application_starts_and_responds(service: Any) -> None:
    wrap_service(service, Recorder, Settings())
    wrapped = service.to_asgi()
    async with wrapped.app.router.lifespan_context(wrapped.app):
        transport = httpx.ASGITransport(wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            assert (await client.post("/double", json={"number": 21})).text == "42"
            assert (await client.get("/livez")).status_code == 200
    assert wrapped.seen == ["http", "http"]


def test_fitserve_is_wrapped() -> None:
    from service.http.app import App
    from service.service import FitServe

    assert isinstance(FitServe.to_asgi(), App)
