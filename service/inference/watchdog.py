"""The watchdog: periodic checks, twice a second, independent of requests.

The watchdog abandons computes that hang, and reports counts, queues and GPU memory. A GPU that does
not respond makes the process not ready and not alive at once. A thread checks the GPU and the event
loop: if the GPU stays away, or the event loop stands still for too long, the process cannot serve
any more and ends, so that the supervisor restarts it.
"""

import asyncio
import os
import threading
import time

from service.inference.gpu_watch import GpuWatch
from service.inference.registry import ModelRegistry
from service.settings import Settings
from service.telemetry.logs import logger
from service.telemetry.metrics import show_gpu, show_worker, write_counts

_CHECK_SECONDS = 0.5
_STALLED_SECONDS = 10.0  # the event loop may stand still for this long beyond the longest compute
LOST_SECONDS = 10.0
"""How long a process without its GPU stays up, to report that it is not ready."""

EX_SOFTWARE = 70
"""The exit status of a process that only a restart helps, as sysexits.h has it."""


class Watchdog:
    """Checks a registry from `start` to `stop`, on the event loop that serves it."""

    def __init__(self, registry: ModelRegistry, settings: Settings) -> None:
        self._registry = registry
        self._patience = settings.max_compute_seconds
        self._task: asyncio.Task[None] | None = None
        self._heartbeat = time.monotonic()
        self._stopped = threading.Event()
        self._gpus: list[GpuWatch] = []
        self._lost_since: float | None = None

    def start(self) -> None:
        """Start the checks of the models, which may be loaded later."""
        self._task = asyncio.get_running_loop().create_task(self._check())

    def watch_devices(self) -> None:
        """Start the checks of the GPUs and of the event loop, when all models are loaded.

        Before that, a library may block the interpreter for as long as it loads a network.
        """
        self._heartbeat = time.monotonic()
        show_worker()
        devices = {predictor.placement.runtime.device for predictor in self._registry} - {"cpu"}
        self._gpus = [GpuWatch(device) for device in sorted(devices)]
        for gpu in self._gpus:
            gpu.start()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, args=(loop,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop the checks."""
        write_counts()
        self._stopped.set()
        for gpu in self._gpus:
            gpu.stop()
        if self._task is not None:
            self._task.cancel()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._heartbeat = time.monotonic()
            write_counts()
            for predictor in self._registry:
                predictor.check()
            self._check_gpus()

    def _check_gpus(self) -> None:
        for gpu in self._gpus:
            if gpu.memory is not None:
                free, total = gpu.memory
                show_gpu(gpu.device, total - free, total)
        problems = [f"{gpu.device}: {gpu.problem}" for gpu in self._gpus if gpu.problem]
        self._registry.lost = "; ".join(problems)
        if problems and self._lost_since is None:
            self._lost_since = time.monotonic()
            logger.critical("a GPU is lost, and this process not ready: %s", self._registry.lost)
        elif not problems and self._lost_since is not None:
            self._lost_since = None
            logger.warning("the GPU responds again, and this process is ready")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check the event loop and the GPU on a thread: the event loop could not handle either."""
        while not self._stopped.wait(1.0) and not loop.is_closed():
            now, lost_since = time.monotonic(), self._lost_since
            if now - self._heartbeat > self._patience + _STALLED_SECONDS:
                logger.critical("the event loop has not run for %g s", self._patience)
                os._exit(EX_SOFTWARE)
            if lost_since is not None and now - lost_since > LOST_SECONDS:
                logger.critical(
                    "this process ends, as its GPU does not respond: %s", self._registry.lost
                )
                os._exit(EX_SOFTWARE)
