"""What `service/http/host.py` counts on in BentoML; where a test fails, BentoML has changed.

`bentoml serve` calls `to_asgi` of the service's class, gets a Starlette application whose
middlewares are not built yet, and two of them are found by name and dropped.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import bentoml
import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from service.http.host import DROPPED, stand_before


class Recorder:
    """A front that passes everything on and notes it."""

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


def test_bentoml_makes_a_starlette_application_with_the_middlewares_that_are_dropped(
    service: Any,
) -> None:
    app = service.to_asgi()
    assert isinstance(app, Starlette)
    assert app.middleware_stack is None, "the middlewares are built: dropping them comes too late"
    missing = set(DROPPED) - set(names(app))
    assert not missing, f"BentoML has {names(app)}: {missing} went, or has another name"


def test_the_front_stands_before_an_application_without_them(service: Any) -> None:
    before = names(service.to_asgi())
    stand_before(service, Recorder)
    front = service.to_asgi(is_main=True)
    assert isinstance(front, Recorder)
    assert isinstance(front.app, Starlette)
    assert names(front.app) == [name for name in before if name not in DROPPED]
    # BentoML's own: without it `bentoml.server_context` and its request context are empty.
    assert "ContextMiddleware" in names(front.app)


def test_a_service_stays_what_it_was(service: Any) -> None:
    kind, name, apis = type(service), service.name, dict(service.apis)
    stand_before(service, Recorder)
    assert isinstance(service, kind)
    assert (service.name, dict(service.apis)) == (name, apis)


def test_one_service_gets_the_front_and_another_does_not(service: Any) -> None:
    stand_before(service, Recorder)
    assert isinstance(make_service().to_asgi(), Starlette)


def test_bentoml_s_worker_asks_the_service_itself_for_its_application() -> None:
    """It must not go past `to_asgi`, or the front is never asked."""
    from _bentoml_impl.worker import service as worker

    assert "service.to_asgi(" in inspect.getsource(worker)


@pytest.mark.anyio
async def test_the_application_lives_and_answers_behind_the_front(
    service: Any, anyio_backend: str
) -> None:
    stand_before(service, Recorder)
    front = service.to_asgi()
    async with front.app.router.lifespan_context(front.app):
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            assert (await client.post("/double", json={"number": 21})).text == "42"
            assert (await client.get("/livez")).status_code == 200
    assert front.seen == ["http", "http"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_fitserve_is_served_through_the_front() -> None:
    from service.http.front import Front
    from service.service import FitServe

    assert isinstance(FitServe.to_asgi(), Front)
