"""The files in which prometheus_client counts for several processes, made fit for a server.

It writes to them through the memory, and does not reserve their blocks: where a full disk cannot
back one, the kernel ends the process (SIGBUS). Here they are reserved, and where that fails the
values go on in memory that is this process's own.
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

_LONGEST = 64  # what an entry takes beside its key, in bytes; it takes 24 and the padding

_process = os.getpid()
_in_memory: list[str] = []


def share_counts() -> None:
    """Have all metrics that are made from now on count in files that the processes share."""
    # prometheus_client asks the kernel for the process's number at every count, in case it was
    # forked: four system calls for a request. The fork itself tells.
    os.register_at_fork(after_in_child=_renew_process)
    if sys.platform == "linux":
        setattr(values, "MmapedDict", _Reserved)  # noqa: B010 - a name that it does not export
    values.ValueClass = values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]  # it is untyped


def count_alone() -> None:
    """Have all metrics that are made from now on count in this process's own memory."""
    values.ValueClass = values.MutexValue


def observe_all(series: Histogram, values: Sequence[float]) -> None:
    """As `series.observe` of each value, with one write for each bucket that got any."""
    array = np.asarray(values, float)
    counts = np.bincount(np.searchsorted(series._upper_bounds, array))
    for place in counts.nonzero()[0]:
        series._buckets[place].inc(float(counts[place]))
    series._sum.inc(float(array.sum()))


def all_are_shared() -> bool:
    """Whether all that this process counts is in the files."""
    return not _in_memory


def _renew_process() -> None:
    global _process
    _process = os.getpid()


if sys.platform == "linux":

    class _Reserved(mmap_dict.MmapedDict):
        """The values in one file, each of whose blocks is there before it is written to."""

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
            while self._used + len(key.encode()) + _LONGEST > self._capacity:
                self._grow()
            super()._init_value(key)  # type: ignore[no-untyped-call]  # it is untyped

        def _grow(self) -> None:
            grown = 2 * self._capacity
            try:
                os.posix_fallocate(self._f.fileno(), 0, grown)
            except OSError as error:
                _tell(self._fname, error)
                held = self._m[: self._used]
                self._f = os.fdopen(os.memfd_create("counts"), "w+b")
                self._f.truncate(grown)
                self._m = mmap.mmap(self._f.fileno(), grown)
                self._m[: len(held)] = held
            else:
                self._m = mmap.mmap(self._f.fileno(), grown)
            self._capacity = grown

    def _reserved(filename: str) -> str:
        """A file of that name with room for the first values; or one in memory."""
        try:
            with Path(filename).open("a+b") as stream:
                size = max(os.fstat(stream.fileno()).st_size, 1 << 16)
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            _tell(filename, error)
            memory = os.memfd_create("counts")
            os.truncate(memory, 1 << 16)
            return f"/proc/self/fd/{memory}"
        return filename

    def _tell(filename: str, error: OSError) -> None:
        if not _in_memory:
            logger.error("the metrics of this process are its own from now on: %s", error)
        _in_memory.append(filename)
