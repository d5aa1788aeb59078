"""The resident memory of a server, sampled while it is measured."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

MEGABYTE = 1e6


class MemorySampler:
    """Samples of the resident memory of processes in bytes, taken during the block.

    Args:
        find: returns the processes; called again after one of them has ended.
        interval: the seconds between two samples.
    """

    def __init__(self, find: Callable[[], Sequence[psutil.Process]], interval: float) -> None:
        self._find = find
        self._processes = find()
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._take_samples, daemon=True)
        self.samples = [self._measure()]

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()
        self._thread.join()

    def _take_samples(self) -> None:
        while not self._stopped.wait(self._interval):
            self.samples.append(self._measure())

    def _measure(self) -> int:
        total = 0
        for process in self._processes:
            with suppress(psutil.Error):
                total += process.memory_info().rss
        if not all(process.is_running() for process in self._processes):
            self._processes = self._find()  # the server has replaced a worker
        return total
