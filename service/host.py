"""Where fitserve stands in BentoML: the only file that counts on more than its documentation.

`bentoml serve` makes each worker's ASGI application with `Service.to_asgi`, and gives it to
uvicorn. Here that application gets the front before it, and loses the middlewares that cost more
than a prediction: OpenTelemetry's, which is there also where nothing is traced, and the timeout's,
which leaves a timer behind for each request. `tests/service/test_host.py` fails where BentoML
changes what this counts on.
"""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

DROPPED = ("OpenTelemetryMiddleware", "TimeoutMiddleware")


def stand_before(service: Any, front: Callable[[ASGIApp], ASGIApp]) -> None:
    """Have `front` wrap the application of a BentoML service."""
    kind: Any = type(service)

    class Fronted(kind):  # type: ignore[misc]  # BentoML has no types
        __slots__ = ()  # so that the service, which has slots, can become one

        def to_asgi(self, *arguments: Any, **options: Any) -> ASGIApp:
            app: Starlette = super().to_asgi(*arguments, **options)
            app.user_middleware = [
                middleware
                for middleware in app.user_middleware
                if getattr(middleware.cls, "__name__", "") not in DROPPED
            ]
            return front(app)

    service.__class__ = Fronted
