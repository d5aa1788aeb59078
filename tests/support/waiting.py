"""Waits for a condition that another thread or process fulfils, with a limit of time."""

import asyncio
import time
from collections.abc import Callable

import psutil


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


def is_running(process: psutil.Process) -> bool:
    """Return whether the process runs; an ended orphan may wait for its new parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
