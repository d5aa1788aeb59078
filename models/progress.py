"""The steps of a long command, each with its seconds, on a terminal."""

import sys
import time


class Progress:
    """Prints a line for each step, and its seconds when the next one begins.

    Nothing is printed if standard error is no terminal.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started: float | None = None

    def __call__(self, step: str) -> None:
        """Begin a step."""
        if self._shown:
            self._end()
            sys.stderr.write(f"{step} …")
            sys.stderr.flush()
        self._started = time.monotonic()

    def close(self) -> None:
        """End the last step."""
        if self._shown:
            self._end()
        self._started = None

    def _end(self) -> None:
        if self._started is not None:
            sys.stderr.write(f" {time.monotonic() - self._started:.1f} s\n")
