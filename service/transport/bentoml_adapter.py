"""The adapter between fitserve and BentoML: it relies on internals of BentoML and uvicorn.

`bentoml serve` makes the ASGI application of each worker with `Service.to_asgi` and passes it to
uvicorn. `wrap_service` wraps that application in ours, and removes the middlewares that take longer
than a prediction: OpenTelemetry's, which runs even if nothing is traced, and the timeout's, which
leaves a timer behind for each request. uvicorn looks up the HTTP protocol by name and finds the
fast path's; BentoML makes its server of `uvicorn.Server`, which is replaced by ours. The supervisor
of the workers is a class of circus, which `use_supervisor` replaces.

The tests in `tests/service/transport/` fail if BentoML or uvicorn change these internals;
`tests/end_to_end/test_faults.py` fails if a worker no longer ends gracefully.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from bentoml import serving
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.resource import system_resources
from bentoml._internal.utils import circus
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.config import HTTP_PROTOCOLS

from service.http.app import App
from service.settings import Settings
from service.transport.fast_path import FastPath
from service.transport.server import Server

DROPPED = ("OpenTelemetryMiddleware", "TimeoutMiddleware")

Arbiter: Any = circus.Arbiter
"""circus' supervisor, as BentoML extends it; with `ThreadedArbiter` for `serve_http`."""
ThreadedArbiter: Any = circus.ThreadedArbiter


def wrap_service(service: Any, wrap: Callable[[ASGIApp], App], settings: Settings) -> None:
    """Serve a BentoML service through our app and on the fast path.

    Args:
        service: the decorated service.
        wrap: makes the app of BentoML's application.
        settings: for the server of each worker.
    """
    kind: Any = type(service)

    class WrappedService(kind):  # type: ignore[misc]  # BentoML has no types
        __slots__ = ()  # the service has slots: its class must keep their layout

        def to_asgi(self, *arguments: Any, **options: Any) -> ASGIApp:
            inner: Starlette = super().to_asgi(*arguments, **options)
            inner.user_middleware = [
                middleware
                for middleware in inner.user_middleware
                if getattr(middleware.cls, "__name__", "") not in DROPPED
            ]
            app = wrap(inner)
            FastPath.application = app
            HTTP_PROTOCOLS["auto"] = f"{FastPath.__module__}:{FastPath.__name__}"
            uvicorn.Server = partial(Server, settings=settings)  # type: ignore[misc, assignment]  # a class
            return app

    service.__class__ = WrappedService


def use_supervisor(
    supervisor: Callable[..., Any],
    threaded: Callable[..., Any],
    prepare_folders: Callable[[], None],
) -> None:
    """Make `bentoml serve` run its workers under another supervisor.

    Args:
        supervisor: makes what replaces an `Arbiter`.
        threaded: makes what replaces a `ThreadedArbiter`.
        prepare_folders: is called at the start, in place of BentoML's own for its metrics.
    """

    def prepare(*_: Any, **__: Any) -> str:
        prepare_folders()
        return ""

    # BentoML looks these names up at each start.
    circus.Arbiter = supervisor  # type: ignore[misc, assignment]  # a class
    circus.ThreadedArbiter = threaded  # type: ignore[misc, assignment]  # as above
    serving.ensure_prometheus_dir = prepare


def home() -> Path:
    """Return BentoML's home, a folder that exists."""
    return Path(BentoMLContainer.bentoml_home.get())


def available_cores() -> float:
    """Return the number of cores that this process may use: by its CPU mask and its cgroup."""
    limit = float(system_resources()["cpu"])
    mask = getattr(os, "sched_getaffinity", None)  # only Linux has it
    return limit if mask is None else min(limit, len(mask(0)))
