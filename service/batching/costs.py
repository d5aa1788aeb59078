"""What batches cost: their seconds, known from the start and learned while the model serves.

The start times batches of some rows. The batches that are computed later correct these timings:
the batches of similar size share a factor, which follows the median of actual to expected seconds.
A batch that took far longer moves the factor as little as one that took somewhat longer, so that a
busy moment changes nothing.

The factor is a frugal estimate (Ma, Muthukrishnan, Sandler: Frugal Streaming for Estimating
Quantiles, 2013): it takes a step up for a batch above it, a step down for one below it, and no
memory. The first steps are larger.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STEP = 0.05
"""The smallest step of a factor, as a share of it."""

FORGOTTEN = 0.02
"""The share of a factor's distance from 1 that `forget` removes."""

_LEAST_SECONDS = 1e-6  # of a batch; a clock of low resolution may say 0

_MAX_KNOWN = 1_024  # timings by size, so that they need not be interpolated again

_FIRST_STEP = 0.25  # with 1, one batch that was a bit too slow would halve the rows of the next


@dataclass(slots=True)
class _Factor:
    """Of similar batches, whose rows and sizes lie within the same powers of two.

    Attributes:
        value: the actual seconds of a batch as a multiple of those timed at the start.
        is_usual: whether the rows are of the size that was timed.
        count: of the batches that moved it.
        count_before: when `forget` was called last.
    """

    value: float
    is_usual: bool
    count: int = 0
    count_before: int = 0


class CostModel:
    """The seconds of a model's batches in one place: on the event loop, or on the thread.

    Args:
        timed: the seconds of batches by their rows, as timed at the start. Without any, the first
            batches that are computed take their place, each of more rows than those before it.
    """

    def __init__(self, timed: Mapping[int, float] | None = None) -> None:
        self._rows: list[int] = []
        self._seconds: list[float] = []  # monotonic
        for rows, seconds in sorted((timed or {}).items()):
            self._append(rows, seconds)
        self._learns_timings = not self._rows
        self._known: dict[float, float] = {}
        self._factors: dict[tuple[int, int], _Factor] = {}
        self._overall = 1.0  # for batches of a size that no batch had yet

    @property
    def timed_rows(self) -> int:
        """The rows of the largest batch that was timed; 0 if none was."""
        return self._rows[-1] if self._rows else 0

    def seconds(self, rows: int, size: float = 0.0) -> float:
        """Return the expected seconds of a batch; 0 if nothing is known yet.

        Args:
            rows: of the batch, from 1.
            size: the rows of usual size that are as large as the batch; by default `rows`.
        """
        size = size or rows
        factor = self._factors.get((rows.bit_length(), int(size).bit_length()))
        return self._timed(size) * (factor.value if factor else self._overall)

    def rows_within(self, seconds: float) -> int:
        """Return the rows of the largest batch, no larger than the timed ones, that takes less.

        Args:
            seconds: that the batch may take.
        """
        within, previous = 0, 0.0
        for rows in self._rows:
            needed = self.seconds(rows)
            if needed > seconds:
                if within:
                    share = (seconds - previous) / (needed - previous)
                    within += int(share * (rows - within))
                break
            within, previous = rows, needed
        return within

    def observe(self, rows: int, seconds: float, size: float = 0.0) -> None:
        """Note a batch that was computed.

        Args:
            rows: of the batch, from 1.
            seconds: that it took.
            size: as in `seconds`.
        """
        size, seconds = size or rows, max(seconds, _LEAST_SECONDS)
        if self._learns_timings and (not self._rows or rows > self._rows[-1]):
            self._append(rows, seconds)
            self._known.clear()
            return
        expected = self._known.get(size) or self._timed(size)
        key = rows.bit_length(), int(size).bit_length()
        factor = self._factors.get(key)
        if factor is None:
            if key[0] != key[1]:  # the timings of the start do not tell what larger rows take
                self._factors[key] = _Factor(seconds / expected, is_usual=False, count=1)
                return
            factor = self._factors[key] = _Factor(self._overall, is_usual=True)
        factor.count += 1
        step = max(min(1.0 / factor.count, _FIRST_STEP), STEP)
        if seconds > expected * factor.value:
            factor.value *= 1.0 + step
        else:
            factor.value /= 1.0 + step

    def forget(self) -> None:
        """Move the factors of the sizes that no batch had since the last call towards 1.

        Else a batch size that was once found too slow would never be tried again. Rows of unusual
        size are kept: what they cost does not depend on the choice of batches, and is no measure of
        what usual rows cost.
        """
        factors = [factor for factor in self._factors.values() if factor.is_usual]
        for factor in factors:
            if factor.count == factor.count_before:
                factor.value += FORGOTTEN * (1.0 - factor.value)
            factor.count_before = factor.count
        if factors:
            self._overall = statistics.median_low(factor.value for factor in factors)

    def _append(self, rows: int, seconds: float) -> None:
        self._rows.append(rows)
        self._seconds.append(max(seconds, _LEAST_SECONDS, *self._seconds[-1:]))

    def _timed(self, size: float) -> float:
        """Return the seconds as timed at the start; beyond the largest batch, in proportion."""
        seconds = self._known.get(size)
        if seconds is None:
            if not self._rows:
                return 0.0
            beyond = max(size / self._rows[-1], 1.0)
            seconds = beyond * float(np.interp(size, self._rows, self._seconds))
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[size] = seconds
        return seconds
