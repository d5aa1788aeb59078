"""What is looked at twice a second, whether requests come or not.

Computes that do not end are given up; counts, queues and a GPU's memory are shown; and a GPU that
no longer answers is noticed. A thread watches the event loop itself: if that stands still for too
long, this process serves nobody any more, and it ends, so that its supervisor starts it anew.
"""

import asyncio
import os
import threading
import time

from service.catalog import Catalog
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import show_gpu, show_worker, write_counts

_SECONDS = 0.5
_GPU_SECONDS = 10.0  # what a GPU that works answers in, however busy it is


class Pulse:
    """Looks after a catalog from `start` to `stop`, on the event loop that serves it."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._patience = settings.max_compute_seconds
        self._task: asyncio.Task[None] | None = None
        self._beat = time.monotonic()
        self._stopped = threading.Event()
        self._gpu_lost = False

    @property
    def alive(self) -> bool:
        """Whether this process can go on serving; where it cannot, it is to be started anew."""
        return not self._gpu_lost and not any(predictor.stuck for predictor in self._catalog)

    def start(self) -> None:
        """Begin to look."""
        self._beat = time.monotonic()
        show_worker()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._look())
        threading.Thread(target=self._watch, args=(loop,), name="pulse", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        write_counts()
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        devices = {predictor.placement.runtime.device for predictor in self._catalog} - {"cpu"}
        while True:
            await asyncio.sleep(_SECONDS)
            self._beat = time.monotonic()
            write_counts()
            for predictor in self._catalog:
                predictor.look()
            for device in devices:
                await self._look_at(device)

    async def _look_at(self, device: str) -> None:
        import torch

        try:
            look = asyncio.to_thread(torch.cuda.mem_get_info, device)
            free, total = await asyncio.wait_for(look, _GPU_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, the GPU does not answer
            if not self._gpu_lost:
                logger.critical("the GPU %s is lost: %s", device, error)
            self._gpu_lost = True
        else:
            show_gpu(device, total - free, total)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopped.wait(1.0) and not loop.is_closed():
            if time.monotonic() - self._beat > self._patience + _GPU_SECONDS:
                logger.critical("the event loop has stood still for %g s", self._patience)
                os._exit(70)  # EX_SOFTWARE; nothing that waits for the loop could be ended well
