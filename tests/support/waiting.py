"""Waits for a condition that another thread or process fulfils, with a limit of time."""

import asyncio
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Wait for the condition; fail after `seconds` without `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what or 'it did not happen'} within {seconds:g} s"
        time.sleep(0.05)


async def until(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Wait as `wait_until` does, while the event loop runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what or 'it did not happen'} within {seconds:g} s"
        await asyncio.sleep(0.001)
