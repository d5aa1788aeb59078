"""What is looked at twice a second, whether requests come or not.

Computes that do not end are given up; counts, queues and a GPU's memory are shown. A GPU that does
not answer makes the process not ready and not alive at once. A thread looks at both: if the GPU
stays away, or if the event loop stands still for too long, this process serves nobody any more,
and it ends, so that its supervisor starts it anew.
"""

import asyncio
import os
import threading
import time

from service.catalog import Catalog
from service.gpu_watch import GpuWatch
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import show_gpu, show_worker, write_counts

_SECONDS = 0.5
_STILL_SECONDS = 10.0  # how much longer than a compute may take the event loop may stand still
LOST_SECONDS = 10.0
"""How long a process whose GPU does not answer stays, for those who ask whether it is ready."""

_EX_SOFTWARE = 70


class Pulse:
    """Looks after a catalog from `start` to `stop`, on the event loop that serves it."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._patience = settings.max_compute_seconds
        self._task: asyncio.Task[None] | None = None
        self._beat = time.monotonic()
        self._stopped = threading.Event()
        self._gpus: list[GpuWatch] = []
        self._lost_since: float | None = None

    def start(self) -> None:
        """Begin to look."""
        self._beat = time.monotonic()
        show_worker()
        devices = {predictor.placement.runtime.device for predictor in self._catalog} - {"cpu"}
        self._gpus = [GpuWatch(device) for device in sorted(devices)]
        for gpu in self._gpus:
            gpu.start()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._look())
        threading.Thread(target=self._watch, args=(loop,), name="pulse", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        write_counts()
        self._stopped.set()
        for gpu in self._gpus:
            gpu.stop()
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            self._beat = time.monotonic()
            write_counts()
            for predictor in self._catalog:
                predictor.look()
            self._look_at_gpus()

    def _look_at_gpus(self) -> None:
        for gpu in self._gpus:
            if gpu.memory is not None:
                free, total = gpu.memory
                show_gpu(gpu.device, total - free, total)
        problems = [f"{gpu.device}: {gpu.problem}" for gpu in self._gpus if gpu.problem]
        self._catalog.lost = "; ".join(problems)
        if problems and self._lost_since is None:
            self._lost_since = time.monotonic()
            logger.critical("a GPU is lost, and this process not ready: %s", self._catalog.lost)
        elif not problems and self._lost_since is not None:
            self._lost_since = None
            logger.warning("the GPU answers again, and this process is ready")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread; neither of what it looks for could be ended well by the event loop."""
        while not self._stopped.wait(1.0) and not loop.is_closed():
            now, lost_since = time.monotonic(), self._lost_since
            if now - self._beat > self._patience + _STILL_SECONDS:
                logger.critical("the event loop has stood still for %g s", self._patience)
                os._exit(_EX_SOFTWARE)
            if lost_since is not None and now - lost_since > LOST_SECONDS:
                logger.critical("this process ends, as its GPU stays away: %s", self._catalog.lost)
                os._exit(_EX_SOFTWARE)
