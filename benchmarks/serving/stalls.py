"""How long this machine stands still by itself: no server on it can have a better tail.

A process for each core does nothing but look at the clock. Where it sees a step, the core was taken
from it: by the kernel, by other programs, or by the host of a virtual machine.
"""

import multiprocessing
import os
import time

import numpy as np

STEP_SECONDS = 0.0005
"""A shorter one is Python's own."""


def stalls(seconds: float) -> dict[str, float]:
    """The longest stall of a second, in the median over the seconds, and the share of time lost.

    Both are of the core that fares worst.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    with multiprocessing.get_context("spawn").Pool(len(cores)) as pool:
        found = pool.starmap(_watch, [(core, seconds) for core in cores], chunksize=1)
    return {
        "stall_ms": max(float(np.median(longest)) for longest, _ in found) * 1e3,
        "stalled_percent": max(lost for _, lost in found) / seconds * 100,
    }


def _watch(core: int | None, seconds: float) -> tuple[list[float], float]:
    """The longest step of each whole second, and the sum of all, in seconds."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    start = before = time.perf_counter()
    longest = [0.0] * max(1, int(seconds))
    lost = 0.0
    while (now := time.perf_counter()) - start < seconds:
        step = now - before
        if step > STEP_SECONDS:
            second = min(int(now - start), len(longest) - 1)
            longest[second] = max(longest[second], step)
            lost += step
        before = now
    return longest, lost
