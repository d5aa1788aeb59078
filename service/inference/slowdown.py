"""A watch over the batches of a model, which compares them with those of its start.

The start chooses the runtime, the largest batch and the batches of the event loop by its timings.
If a model is slow later, its log and metrics should say so.
"""

import statistics
from collections.abc import Callable

from service.telemetry.logs import logger

BATCHES = 256
"""The batches between two comparisons; their median counts, so that a busy moment does not."""

COMPARISONS = 4
"""The comparisons in succession after which a model is slow, or is no longer."""

SLOW = 4.0
"""A model is slow if its batches take this many times as long as at the start."""

NO_LONGER_SLOW = 2.0

LONG_SECONDS = 0.01
"""Batches that were shorter at the start are compared only if the event loop computes them: a
thread may wait for Python's lock twice as long."""


class SlowdownWatch:
    """Compares the batches of one model with those of its start.

    Args:
        label: of the model, for the log.
        inline_rows: the batches of at most this many rows are computed on the event loop.
        seconds_of: the seconds of a batch by its rows, as timed at the start; 0 if not timed.
        show: called with the median of each comparison, as a multiple of the start's seconds.
    """

    def __init__(
        self,
        label: str,
        inline_rows: int,
        seconds_of: Callable[[int], float],
        show: Callable[[float], None],
    ) -> None:
        self._label = label
        self._inline_rows = inline_rows
        self._seconds_of = seconds_of
        self._show = show
        self._expected: dict[int, float] = {}
        self._ratios: list[float] = []
        self._contrary = 0  # comparisons in succession that contradict `slow`
        self.slow = False
        """Whether the model is slow."""

    def observe(self, rows: int, seconds: float) -> None:
        """Note the compute of a batch."""
        expected = self._expected.get(rows)
        if expected is None:
            expected = self._seconds_of(rows)
            if rows > self._inline_rows and expected < LONG_SECONDS:
                expected = 0.0
            self._expected[rows] = expected
        if expected:
            self._ratios.append(seconds / expected)
            if len(self._ratios) == BATCHES:
                self._compare()

    def _compare(self) -> None:
        median = statistics.median(self._ratios)
        self._ratios.clear()
        self._show(median)
        contradicts = median < NO_LONGER_SLOW if self.slow else median > SLOW
        self._contrary = self._contrary + 1 if contradicts else 0
        if self._contrary < COMPARISONS:
            return
        self._contrary, self.slow = 0, not self.slow
        if self.slow:
            logger.warning(
                "%s is slow: its batches take %.1f times as long as when it was loaded. Other "
                "programs, workers or threads may use its cores, or used them less at the start.",
                self._label,
                median,
            )
        else:
            logger.info("%s is no longer slow", self._label)
