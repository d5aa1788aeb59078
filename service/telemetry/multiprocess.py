"""The files of prometheus_client's multiprocess mode, made safe for full disks.

prometheus_client maps its files into memory and does not reserve their blocks: if a full disk
cannot back a block, the kernel ends the process (SIGBUS). Here the blocks are reserved; if that
fails, the values move to memory of this process.
"""

import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import Histogram, mmap_dict, values

from service.telemetry.logs import logger

_MAX_ENTRY_BYTES = 64  # bytes of an entry without its key, rounded up from 24 and the padding

_process = os.getpid()
_in_memory: list[str] = []


def share_counts() -> None:
    """Keep all metrics created from now on in files that the processes share."""
    # prometheus_client asks the kernel for the process ID at every count, in case of a fork: four
    # system calls per request. The hook after the fork is enough.
    os.register_at_fork(after_in_child=_renew_process)
    if sys.platform == "linux":
        setattr(values, "MmapedDict", _Reserved)  # noqa: B010 - a name that it does not export
    values.ValueClass = values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]  # it is untyped


def count_alone() -> None:
    """Keep all metrics created from now on in the memory of this process."""
    values.ValueClass = values.MutexValue


def observe_all(series: Histogram, values: Sequence[float]) -> None:
    """Observe all values with one write per bucket; equivalent to `series.observe` of each."""
    array = np.asarray(values, float)
    counts = np.bincount(np.searchsorted(series._upper_bounds, array))
    for index in counts.nonzero()[0]:
        series._buckets[index].inc(float(counts[index]))
    series._sum.inc(float(array.sum()))


def all_are_shared() -> bool:
    """Return whether every value of this process is in the files."""
    return not _in_memory


def _renew_process() -> None:
    global _process
    _process = os.getpid()


if sys.platform == "linux":

    class _Reserved(mmap_dict.MmapedDict):
        """The values of one file, whose blocks are reserved before they are written."""

        _f: Any
        _fname: str
        _m: Any
        _capacity: int
        _used: int

        def __init__(self, filename: str, read_mode: bool = False) -> None:
            if not read_mode:
                filename = _reserved(filename)
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]  # it is untyped

        def _init_value(self, key: str) -> None:
            while self._used + len(key.encode()) + _MAX_ENTRY_BYTES > self._capacity:
                self._grow()
            super()._init_value(key)  # type: ignore[no-untyped-call]  # it is untyped

        def _grow(self) -> None:
            grown = 2 * self._capacity
            try:
                os.posix_fallocate(self._f.fileno(), 0, grown)
            except OSError as error:
                _warn_once(self._fname, error)
                values = self._m[: self._used]
                self._f = os.fdopen(os.memfd_create("counts"), "w+b")
                self._f.truncate(grown)
                self._m = mmap.mmap(self._f.fileno(), grown)
                self._m[: len(values)] = values
            else:
                self._m = mmap.mmap(self._f.fileno(), grown)
            self._capacity = grown

    def _reserved(filename: str) -> str:
        """Return the file, with its first blocks reserved, or a file in memory."""
        try:
            with Path(filename).open("a+b") as stream:
                size = max(os.fstat(stream.fileno()).st_size, 1 << 16)
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            _warn_once(filename, error)
            memory = os.memfd_create("counts")
            os.truncate(memory, 1 << 16)
            return f"/proc/self/fd/{memory}"
        return filename

    def _warn_once(filename: str, error: OSError) -> None:
        if not _in_memory:
            logger.error("this process reports its own metrics only from now on: %s", error)
        _in_memory.append(filename)
