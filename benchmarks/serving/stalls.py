"""How long this machine stands still by itself: no server on it can have a better tail.

A process for each core does nothing but look at the clock. Where it sees a step, the core was taken
from it: by the kernel, by other programs, or by the host of a virtual machine.
"""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STEP_SECONDS = 0.0005
"""A shorter one is Python's own."""


class Stall(NamedTuple):
    """One step of the clock: when it began, from the start of the watch, and its length, in s."""

    began: float
    seconds: float

    @property
    def ended(self) -> float:
        """When the core was back."""
        return self.began + self.seconds


def watch(seconds: float) -> list[Stall]:
    """The stalls of the core that loses most of its time."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    with multiprocessing.get_context("spawn").Pool(len(cores)) as pool:
        found = pool.starmap(_watch, [(core, seconds) for core in cores], chunksize=1)
    return max(found, key=lambda stalls: sum(stall.seconds for stall in stalls))


def describe(stalls: Sequence[Stall], seconds: float) -> dict[str, float]:
    """The longest stall of a second, in the median over the seconds; the share of time lost."""
    longest = [0.0] * max(1, int(seconds))
    for stall in stalls:
        second = min(int(stall.began), len(longest) - 1)
        longest[second] = max(longest[second], stall.seconds)
    return {
        "stall_ms": float(np.median(longest)) * 1e3,
        "stalled_percent": sum(stall.seconds for stall in stalls) / seconds * 100,
    }


def ideal_p99(stalls: Sequence[Stall], seconds: float, *, rate: float, peak: float) -> float:
    """The 99th percentile, in ms, that the best of servers would have on a core with these stalls.

    Its requests come evenly, `rate` a second. Each takes it 1 / `peak` seconds of the core, and
    nothing else delays any.
    """
    free, took = 0.0, []
    ahead = deque(stalls)
    for arrived in np.arange(0.0, seconds, 1 / rate):
        begun = max(free, arrived)
        while ahead and ahead[0].ended <= begun:
            ahead.popleft()
        free = begun + 1 / peak
        for stall in ahead:
            if stall.began >= free:
                break
            free += stall.ended - max(stall.began, begun)
        took.append(free - arrived)
    return float(np.percentile(took, 99)) * 1e3


def _watch(core: int | None, seconds: float) -> list[Stall]:
    if core is not None:
        os.sched_setaffinity(0, {core})
    stalls: list[Stall] = []
    start = before = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        if now - before > STEP_SECONDS:
            stalls.append(Stall(before - start, now - before))
        before = now
    return stalls
