"""Where fitserve stands in BentoML: the only file that counts on more than its documentation.

`bentoml serve` makes each worker's ASGI application with `Service.to_asgi`, and gives it to
uvicorn. Here that application gets the front before it, and loses the middlewares that cost more
than a prediction: OpenTelemetry's, which is there also where nothing is traced, and the timeout's,
which leaves a timer behind for each request. BentoML leaves the choice of the HTTP protocol to
uvicorn, which finds the short way's under the name that it chooses; and makes its server of
`uvicorn.Server`, which becomes one that accepts more at once and leaves nobody behind.
`tests/service/http/test_host.py` and `test_short_way.py` fail where BentoML or uvicorn change what
this counts on, and `tests/end_to_end/test_faults.py` where the end is not gentle any more.

The parent of the workers is circus' arbiter. BentoML has it look after them every ten seconds, and
replace a dead one for ever; ours looks every second, and ends where replacing does not help. It
gives each worker its share of the cores, and tells it whom it belongs to.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from bentoml._internal.resource import system_resources
from bentoml._internal.utils import circus
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.config import HTTP_PROTOCOLS

from service.http.front import Front
from service.http.server import PARENT, Server
from service.http.short_way import ShortWay
from service.settings import current_settings
from service.telemetry.logs import logger

if sys.platform != "win32":
    import resource

DROPPED = ("OpenTelemetryMiddleware", "TimeoutMiddleware")
LOOK_SECONDS = 1.0
REPLACEMENTS = 5  # of each worker
REPLACED_WITHIN_SECONDS = 600.0
OTHER_FILES = 1000  # that a worker may have open, beside its connections


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


def replace_dead_workers() -> None:
    """Have `bentoml serve` notice a dead worker soon, and end where its successors die too."""
    circus.Arbiter = Supervisor  # type: ignore[misc]  # BentoML looks it up there at each start


class Supervisor(circus.Arbiter):
    """The parent of the workers: it replaces those that die, as long as that helps."""

    def __init__(self, watchers: Sequence[Any], **options: Any) -> None:
        for watcher in watchers:
            watcher.hooks["before_spawn"] = Replacements()
            watcher.respawn = True  # also in what BentoML takes for a container
            share_cores(watcher)
            watcher.env[PARENT] = str(os.getpid())
        allow_open_files()
        super().__init__(watchers, **{**options, "check_delay": LOOK_SECONDS})

    def manage_watchers(self) -> Any:
        """Look after the workers, but not while they are being started or ended."""
        return None if self._exclusive_running_command else super().manage_watchers()


def share_cores(watcher: Any) -> None:
    """Have the workers together compute on as many threads as there are cores.

    Each on every core, they would take the cores from each other and from their event loops. So
    would one in a container that may use fewer cores than the machine has. What the operator set
    stays.
    """
    cores = system_resources()["cpu"]  # the container's, where it has a limit
    share = max(1, int(cores) // watcher.numprocesses)
    if share < (os.cpu_count() or 1) and not current_settings().threads:
        watcher.env["FITSERVE_THREADS"] = str(share)


def allow_open_files() -> None:
    """Let the workers have as many connections as they may: the usual limit is 1,024 files.

    Beyond that one uvloop hangs up on callers, without an answer or a line in the log.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = current_settings().max_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Replacements:
    """Asked by circus before each start of a worker: where it says no, `bentoml serve` ends.

    A server whose workers cannot start is up and answers nobody. Its end, with an error, is what a
    supervisor of containers or services notices.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = 0  # starts that replaced nobody
        self._times: deque[float] = deque()  # of the replacements, in seconds

    def __call__(self, watcher: Any, **_: Any) -> bool:
        """Whether this worker may be started."""
        if self._first < watcher.numprocesses:
            self._first += 1
            return True
        now, most = self._clock(), REPLACEMENTS * watcher.numprocesses
        while self._times and now - self._times[0] > REPLACED_WITHIN_SECONDS:
            self._times.popleft()
        if len(self._times) == most:
            logger.critical(
                "workers died %d times in %.0f s: this server ends, as starting them again "
                "does not help; the lines above say what they died of",
                most + 1,
                now - self._times[0],
            )
            return False
        logger.error("a worker died, and is started again")
        self._times.append(now)
        return True
