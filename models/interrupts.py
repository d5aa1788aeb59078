"""Ctrl-C while a command line is still importing: exit code 130 without a traceback."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""The exit code that a shell reports for a program that Ctrl-C ended."""


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the process at once on Ctrl-C while the block runs. Use it in the main thread only.

    A KeyboardInterrupt may get lost: a C library that is being imported may swallow it and fail
    later with an error of its own.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell ignores SIGINT in background processes
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
