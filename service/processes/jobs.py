"""Jobs for the pool of this worker: work of one request that is too long for the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar, cast

from service.errors import DeadlineExceededError
from service.memory import available_bytes
from service.processes.messages import Whole
from service.processes.pool import PER_CALLER, ProcessPool
from service.settings import Settings

LARGE_BYTES = 2**17
"""JSON of this size takes one or two milliseconds to read, several times as long as the way to
another process and back."""

MANY_VALUES = 2**12
"""So many lists and objects take about a millisecond, in however few bytes."""

LARGE_ELEMENTS = 2**14
"""The same for numbers to be written as JSON."""

MAX_JOB_BYTES = 2**31
"""The most memory of one job. The largest JSON body takes less: 64 MiB of floats or integers."""

MIN_JOB_BYTES = 2**28

MAX_PROCESSES = 8

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_pools: dict[asyncio.AbstractEventLoop, tuple[ProcessPool, float]] = {}
"""The pool of each event loop, and the seconds of a job; a worker has one loop."""


def start_pool(settings: Settings, modules: Sequence[str] = ()) -> ProcessPool:
    """Start the processes of this event loop, which import the modules of the jobs.

    Args:
        settings: the limits of the jobs.
        modules: of the functions that are called often.
    """
    available = available_bytes()
    memory_bytes = min(max(available // 2, MIN_JOB_BYTES), MAX_JOB_BYTES)
    pool = ProcessPool(
        modules,
        cpu_seconds=settings.max_parse_seconds,
        max_bytes=settings.max_buffered_bytes,
        memory_bytes=memory_bytes,
        max_processes=min(max(available // memory_bytes, PER_CALLER), MAX_PROCESSES),
    )
    pool.start()
    _pools[asyncio.get_running_loop()] = pool, settings.timeout_seconds
    return pool


async def close_pool() -> None:
    """End the processes of this event loop, if it has any."""
    entry = _pools.pop(asyncio.get_running_loop(), None)
    if entry is not None:
        await entry[0].close()


async def run_job(
    caller: str,
    function: Callable[Parameters, Result],
    *arguments: Parameters.args,
    **named: Parameters.kwargs,
) -> Result:
    """Return the result of a function, called in another process, once `start_pool` was called.

    Args:
        caller: who asked for the job; the callers are served in round-robin order.
        function: of a module that the processes can import.
        arguments: as `ProcessPool.run` says.
        named: further arguments.

    Raises:
        ServiceError: as `ProcessPool.run` and `within_timeout` say.
        Exception: as the function raises.
    """
    pool, seconds = _pools[asyncio.get_running_loop()]
    async with within_timeout(seconds):
        return await pool.run(caller, function, *arguments, **named)


@asynccontextmanager
async def within_timeout(seconds: float) -> AsyncIterator[None]:
    """Limit the time of the jobs of the block, of which most may be the wait for their turns.

    Raises:
        DeadlineExceededError: the jobs took longer than a request may.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceededError(
            f"The request was not read and written within {seconds:g} seconds. Send less at once, "
            "or try again later."
        ) from None


def is_large_json(body: bytes | bytearray, size: int) -> bool:
    """Return whether the JSON in the first `size` bytes takes too long for the event loop."""
    if size <= MANY_VALUES:
        return False
    return size > LARGE_BYTES or body.count(b"[", 0, size) + body.count(b"{", 0, size) > MANY_VALUES


def whole(data: bytes | bytearray) -> bytearray:
    """Return the data as an argument or a result of a job, where it arrives as a `bytearray`."""
    return cast(bytearray, Whole(data))
