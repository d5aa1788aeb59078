"""The warm-up of runtimes: batches from one row upwards, timed, within bounds of time and memory.

A batch that will not be served is not run: the rows grow while a batch takes less time and memory
than the bounds allow. Several runtimes are timed in turns, so that a machine that is busy for a
moment does not decide between them.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from models.package.card import ModelCard, RuntimeName
from models.runtimes.runtime import Arrays, Runtime, one_line
from service.memory import SAMPLE_SECONDS, measured

LONGEST_BATCH_SECONDS = 1.0
"""The longest batch of the warm-up, even if the settings allow longer ones: longer batches prolong
the start and are hardly faster per row."""

LEAST_BUDGET_BYTES = 64 * 2**20
"""The libraries take a part of this memory in the first batches, for any number of rows."""

_TURNS = 5
_MOST_TURNS = 10  # while other processes take the cores
_TURN_SECONDS = 0.001  # the first run of a turn finds the data of the other runtime in the caches
# A runtime that is timed alone is not compared with another.
_LONE_TURNS = 3
_LONE_TURN_SECONDS = 0.0002
_MOST_RUNS_OF_A_TURN = 1000
_ENOUGH_SECONDS = 0.1  # the runs of a slow network need no repetition
_MOST_SECONDS = 1.0
_BUSY_RATIO = 0.8  # a computation that had a core took this much CPU time per second, or more
_SLOW_SECONDS = 5.0
_STALE_RATIO = 0.4  # of the recorded time: then the machine was busy when it was recorded

Limit = Literal["rows", "time", "memory"]


class Bounds(NamedTuple):
    """The bounds of a batch.

    Attributes:
        rows: the most rows.
        seconds: the rows grow until a batch takes longer.
        memory_bytes: no batch is run that is expected to take more.
    """

    rows: int
    seconds: float
    memory_bytes: float


class Timings(NamedTuple):
    """The batches that a runtime has computed.

    Attributes:
        seconds: the least seconds of a batch by its rows, ascending.
        limit: why there are no larger batches; `memory` also after an error of the device.
        memory_bytes: the memory of the largest batch; 0 on a GPU, where errors show the limit.
        failure: why the runtime cannot use the device; empty if it can.
    """

    seconds: Mapping[int, float]
    limit: Limit
    memory_bytes: int = 0
    failure: str = ""


def warm_up(
    runtimes: Mapping[RuntimeName, Runtime], card: ModelCard, bounds: Bounds
) -> dict[RuntimeName, Timings]:
    """Compute and time batches in all runtimes in turns, up to the bounds of each.

    Args:
        runtimes: opened runtimes of one package, which are warm afterwards.
        card: of the package. Batches are made of the rows of its example.
        bounds: of the batches.

    Raises:
        Exception: a network fails on the CPU.
    """
    is_alone = len(runtimes) == 1
    warming = {name: _WarmUp(runtime, card, bounds, is_alone) for name, runtime in runtimes.items()}
    while sizes := {warm_up: rows for warm_up in warming.values() if (rows := warm_up.next_rows())}:
        rows = min(sizes.values())
        untimed = list(sizes)
        for warm_up in untimed:
            warm_up.start(rows)
        while untimed := [warm_up for warm_up in untimed if not warm_up.is_timed]:
            for warm_up in untimed:
                warm_up.run()
    return {name: warm_up.timings() for name, warm_up in warming.items()}


def repeat(
    runtime: Runtime, card: ModelCard, recorded: Mapping[int, float], batch_seconds: float
) -> bool:
    """Warm a runtime up whose batches were timed before; return whether it is not much faster now.

    The smallest batch is computed once, unless it takes many seconds, and the largest batch within
    `batch_seconds`.

    Args:
        runtime: an opened runtime, which has computed the recorded prediction.
        card: of its package.
        recorded: the seconds of batches by their rows, as timed before.
        batch_seconds: the most seconds of a batch.

    Raises:
        MemoryError: the memory does not hold the largest batch.
        Exception: the network fails.
    """
    least = min(recorded)
    largest = max(
        [rows for rows, seconds in recorded.items() if seconds <= batch_seconds], default=least
    )
    for rows in sorted({least, largest}):
        if recorded[rows] > max(batch_seconds, _SLOW_SECONDS):
            break
        inputs = _inputs(card, rows)
        started = time.monotonic()
        runtime(inputs)
        if time.monotonic() - started < recorded[rows] * _STALE_RATIO:
            return False
    return True


class _WarmUp:
    """The warm-up of one runtime."""

    def __init__(self, runtime: Runtime, card: ModelCard, bounds: Bounds, is_alone: bool) -> None:
        self._runtime = runtime
        self._card = card
        self._bounds = bounds
        self._least_turns = _LONE_TURNS if is_alone else _TURNS
        self._turn_seconds = _LONE_TURN_SECONDS if is_alone else _TURN_SECONDS
        self._first = card.fixed_batch or 1
        self._most = card.fixed_batch or bounds.rows
        self._seconds: dict[int, float] = {}
        self._memory: dict[int, float] = {}
        self._kept_bytes = 0
        self._limit: Limit | None = None
        self._is_full = False  # a batch of more than `_most` rows did not fit into the memory
        self._failure = ""
        # Of the present batch:
        self._inputs: Arrays = {}
        self._rows = 0
        self._before = 0.0
        self._turns: list[float] = []
        self._total = 0.0
        self._undisturbed = 0

    def timings(self) -> Timings:
        """Return the batches so far, after the last one."""
        memory = round(max(self._memory.values(), default=0))
        return Timings(self._seconds, self._limit or "rows", memory, self._failure)

    def next_rows(self) -> int | None:
        """Return the rows of the next batch; None after the last one.

        The rows are doubled, or multiplied by four if that stays within the bounds. At first, they
        are doubled: a session that has computed its recorded prediction holds the memory of a row,
        and two batches are needed to see how the memory grows.
        """
        if self._failure:
            return None
        last = max(self._seconds, default=0)
        if not last:
            return self._first
        self._limit = self._limit_after(last)
        if self._limit:
            return None
        factor = 2 if len(self._seconds) == 1 or self._exceeds(last * 4) else 4
        return min(last * factor, self._most)

    def start(self, rows: int) -> None:
        """Compute the first batch of `rows`, which compiles and allocates.

        Raises:
            Exception: the network fails on the CPU.
        """
        self._inputs = _inputs(self._card, rows)
        self._rows, self._turns, self._undisturbed, self._total = rows, [], 0, 0.0
        self._before = _extrapolated(self._seconds, rows)
        if self._runtime.device != "cpu":
            self.run()
            return
        is_short = bool(self._seconds) and self._before < SAMPLE_SECONDS
        _, peak, kept = measured(self.run, sampled=not is_short)
        self._memory[rows] = max(self._kept_bytes + peak, *self._memory.values(), 0)
        self._kept_bytes = max(self._kept_bytes + kept, 0)

    def run(self) -> None:
        """Compute the present batch for a turn, and time it.

        Raises:
            Exception: the network fails on the CPU.
        """
        on_cpu = self._runtime.device == "cpu"
        cpu_started, started = time.process_time(), time.monotonic()
        least, before = math.inf, started
        try:
            for _ in range(_MOST_RUNS_OF_A_TURN):
                self._runtime(self._inputs)
                now = time.monotonic()
                least, before = min(least, now - before), now
                if now - started > self._turn_seconds:
                    break
        except MemoryError as error:
            self._seconds.pop(self._rows, None)
            self._failure = "" if self._seconds else str(error)
            self._most, self._is_full = self._rows // 2, True
            return
        except Exception as error:
            if on_cpu:
                raise
            fails = f"{self._runtime.device} fails on a batch of {self._rows} rows"
            self._failure = f"{fails} ({one_line(error)})"
            return
        used = time.process_time() - cpu_started
        self._undisturbed += not on_cpu or used >= _BUSY_RATIO * (before - started)
        if self._turns:
            self._before = self._turns[-1]
        self._turns.append(least)
        self._total += before - started
        self._seconds[self._rows] = min(self._turns)

    @property
    def is_timed(self) -> bool:
        """Whether the timings of the present batch suffice.

        The first run compiles and searches for the fastest kernels, and the second may too: slow
        runs are repeated until two of them agree, or one with the smaller batches. Turns during
        which other processes had the cores are repeated.
        """
        if self._rows not in self._seconds or self._failure:
            return True
        turns = len(self._turns)
        if turns >= _MOST_TURNS or (turns >= self._least_turns and self._undisturbed):
            return True
        agree = self._before / 2 < self._turns[-1] < self._before * 2
        enough = _ENOUGH_SECONDS if self._undisturbed else _MOST_SECONDS
        return agree and self._total > enough

    def _limit_after(self, last: int) -> Limit | None:
        if last >= self._most:
            return "memory" if self._is_full else "rows"
        if self._seconds[last] > self._bounds.seconds:
            return "time"
        if _extrapolated(self._memory, min(2 * last, self._most)) > self._bounds.memory_bytes:
            return "memory"
        return None

    def _exceeds(self, rows: int) -> bool:
        return (
            _extrapolated(self._seconds, rows) > self._bounds.seconds
            or _extrapolated(self._memory, rows) > self._bounds.memory_bytes
        )


def _inputs(card: ModelCard, rows: int) -> Arrays:
    """Return a batch that repeats the rows of the card's example."""
    return {
        name: np.resize(array := tensor.array(), (rows, *array.shape[1:]))
        for name, tensor in card.rows_first.example.inputs.items()
    }


def budget_bytes(available: int, share: int) -> float:
    """Return the memory that a batch may take: a share of the available memory."""
    return max(available / share, LEAST_BUDGET_BYTES)


def _extrapolated(values: Mapping[int, float], rows: int) -> float:
    """Return the value for more rows, on the line through the last two values, or through 0."""
    if not values:
        return 0.0
    sizes: Sequence[int] = [0, *sorted(values)]
    low, high = sizes[-2:]
    rise = max(values[high] - values.get(low, 0.0), 0.0) / (high - low)
    return values[high] + rise * (rows - high)
