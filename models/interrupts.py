"""Ctrl-C while a command line still imports what it needs: exit code 130, and no traceback."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, as a shell gives it."""


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Have Ctrl-C end the process at once while the block runs. For the main thread.

    Raised as KeyboardInterrupt it would not always arrive: a library in C that is being imported
    loses it, and fails later in its own words.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
