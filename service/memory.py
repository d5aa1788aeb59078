"""The memory that is available to this process, and the memory that a computation takes."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")

SAMPLE_SECONDS = 0.002
"""The interval between two samples of the memory. A shorter computation touches a few megabytes at
most."""

LARGE_BLOCK_BYTES = 4 * 2**20

KEPT_BYTES = 32 * 2**20
"""What the C library keeps of freed smaller blocks: to return and take them again costs time."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

Result = TypeVar("Result")


def return_large_blocks() -> None:
    """Have the C library return blocks of `LARGE_BLOCK_BYTES` or more to the system when freed.

    By default glibc raises this size up to 32 MiB as such blocks are freed, and keeps smaller ones:
    after a burst of large requests or responses, the process would keep their memory.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            library = ctypes.CDLL("libc.so.6")
            library.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def available_bytes() -> int:
    """Return the memory that this process may still take, of the machine and of its cgroups."""
    return min([psutil.virtual_memory().available, *_left_in_cgroups()])


def measured(compute: Callable[[], Result], *, sampled: bool = True) -> tuple[Result, int, int]:
    """Return the result of `compute`, and the bytes by which this process grew.

    Args:
        compute: the computation.
        sampled: whether a thread looks at the memory meanwhile. It takes longer to start than a
            short computation.

    Returns:
        The result; the largest growth meanwhile; and the growth that is left afterwards, which is
        negative if memory was released.
    """
    process, ended = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, name="memory", daemon=True)
    if sampled:
        sampler.start()
    try:
        result = compute()
    finally:
        ended.set()
        if sampled:
            sampler.join()
    after = process.memory_info().rss
    return result, max(peak, after) - before, after - before


def _left_in_cgroups() -> Iterator[int]:
    """Yield the bytes that are left in each cgroup of this process that has a limit.

    Memory of files that the kernel can release at once is counted as left.
    """
    for folder, limit, used, released in _memory_cgroups():
        with suppress(OSError, ValueError):  # no limit is the word max
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            fields = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield left + next((int(value) for name, value in fields if name == released), 0)


def _memory_cgroups() -> Iterator[tuple[Path, str, str, str]]:
    """Yield the folders of the cgroups, with the names of the limit, the use and the file pages."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root = _CGROUPS
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container, the path may be that outside of it, and the root is the own cgroup.
        own_folder = root / path.lstrip("/")
        for folder in {
            root,
            own_folder,
            *(parent for parent in own_folder.parents if root in parent.parents),
        }:
            yield folder, *names
