"""Where fitserve stands in BentoML: this file and `supervisor.py` count on its inside.

`bentoml serve` makes each worker's ASGI application with `Service.to_asgi`, and gives it to
uvicorn. Here that application gets the front before it, and loses the middlewares that cost more
than a prediction: OpenTelemetry's, which is there also where nothing is traced, and the timeout's,
which leaves a timer behind for each request. BentoML leaves the choice of the HTTP protocol to
uvicorn, which finds the short way's under the name that it chooses; and makes its server of
`uvicorn.Server`, which becomes one that accepts more at once and leaves nobody behind.
`tests/service/http/test_host.py` and `test_short_way.py` fail where BentoML or uvicorn change what
this counts on, and `tests/end_to_end/test_faults.py` where the end is not gentle any more.
"""

from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.config import HTTP_PROTOCOLS

from service.http.front import Front
from service.http.server import Server
from service.http.short_way import ShortWay

DROPPED = ("OpenTelemetryMiddleware", "TimeoutMiddleware")


def stand_before(service: Any, front: Callable[[ASGIApp], Front]) -> None:
    """Have `front` wrap the application of a BentoML service, and serve it by the short way too."""
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
            fronted = front(app)
            ShortWay.front = fronted
            HTTP_PROTOCOLS["auto"] = f"{ShortWay.__module__}:{ShortWay.__name__}"
            uvicorn.Server = Server  # type: ignore[misc]  # a class, replaced by its own
            return fronted

    service.__class__ = Fronted
