"""Jobs in other processes: bounded in time and memory, and harmless when they end badly."""

import asyncio
import errno
import math
import os
import signal
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.errors import (
    BadInputError,
    BodiesFullError,
    BodyTooLargeError,
    NotReadyError,
    ServiceError,
)
from service.json_body import check_structure, parse_json
from service.processes.messages import Whole
from service.processes.pool import ProcessPool

MIB = 2**20


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(
        ["numpy", "zlib"],
        cpu_seconds=0.5,
        max_bytes=100 * MIB,
        memory_bytes=300 * MIB,
        max_processes=4,
    )
    earlier = set(psutil.Process().children())  # of other tests
    pool.start()
    (server,) = set(psutil.Process().children()) - earlier
    SERVERS[:] = [server]
    yield pool
    await pool.close()


SERVERS: list[psutil.Process] = []
"""The server of the job processes of the present test."""


def _processes() -> list[psutil.Process]:
    """Return the server of the job processes of this test, and these processes."""
    try:
        return [*SERVERS, *SERVERS[0].children()] if SERVERS[0].is_running() else []
    except psutil.NoSuchProcess:
        return []


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


async def test_a_job_returns_its_result_or_raises_its_error(pool: ProcessPool) -> None:
    assert await pool.run("a", math.sqrt, 4) == 2
    assert await pool.run("a", os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="math domain error"):
        await pool.run("a", math.sqrt, -1)
    with pytest.raises(BadInputError, match="too many lists") as refused:
        await pool.run("a", check_structure, b"[" * 1_000_001)
    assert not getattr(refused.value, "__notes__", []), "a refusal needs no traceback"


async def test_large_bytes_and_arrays_arrive_as_they_are(pool: ProcessPool) -> None:
    body = os.urandom(20 * MIB)
    assert await pool.run("a", zlib.crc32, Whole(body)) == zlib.crc32(body)
    array = np.random.default_rng(7).normal(size=(3, 500_000)).astype(np.float32)
    negative = await pool.run("a", np.negative, array)
    assert np.array_equal(negative, -array)
    negative += 1  # it is the caller's own


async def test_the_event_loop_goes_on_meanwhile(pool: ProcessPool) -> None:
    longest, is_done = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not is_done:
            started = time.thread_time()  # not the time of other processes on a busy machine
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - started)

    body = bytes(50 * MIB)
    await pool.run("a", math.sqrt, 4)
    watching = asyncio.create_task(watch())
    started = time.thread_time()
    assert zlib.crc32(body) == await pool.run("a", zlib.crc32, Whole(body))
    whole, is_done = time.thread_time() - started, True
    await watching
    assert longest < max(whole / 5, 0.005), (longest, whole)


@pytest.mark.parametrize(
    ("function", "argument", "error", "words"),
    [
        (sum, range(10**12), BodyTooLargeError, "more than 0.5 seconds to read"),
        (bytearray, 400 * MIB, BodyTooLargeError, "more than 300 MiB of memory"),
        (os._exit, 3, ServiceError, "The process that read this request ended"),
        (signal.raise_signal, signal.SIGSEGV, ServiceError, "read this request ended"),
    ],
    ids=["time", "memory", "end", "crash"],
)
async def test_a_job_that_takes_too_much_or_crashes_fails_alone(
    function: object, argument: object, error: type[Exception], words: str, pool: ProcessPool
) -> None:
    failing = asyncio.create_task(pool.run("a", function, argument))  # type: ignore[arg-type]  # any of them
    others = [await pool.run("b", math.sqrt, n) for n in range(20)]
    with pytest.raises(error, match=words):
        await failing
    assert others == [math.sqrt(n) for n in range(20)]
    assert await pool.run("a", math.sqrt, 4) == 2


@pytest.mark.parametrize("count", [2_500_000, 4_000_000])
async def test_json_that_takes_too_much_memory_is_too_large(count: int, pool: ProcessPool) -> None:
    """The error of orjson depends on the step at which the memory is short."""
    body = b'{"x": [' + b"0.1234567," * count + b"1]}"
    with pytest.raises(BodyTooLargeError, match="more than 300 MiB of memory"):
        await pool.run("a", parse_json, Whole(body))


async def test_a_cancelled_job_ends_its_process(pool: ProcessPool) -> None:
    task = asyncio.create_task(pool.run("a", time.sleep, 1_000))
    await _until(lambda: len(_processes()) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(lambda: len(_processes()) == 1)
    assert await pool.run("a", math.sqrt, 4) == 2


async def test_the_memory_of_a_large_job_is_free_after_it(pool: ProcessPool) -> None:
    identity = await pool.run("a", os.getpid)
    assert await pool.run("a", os.getpid) == identity, "small jobs share a process"
    assert len(await pool.run("a", bytes, 100 * MIB)) == 100 * MIB
    await _until(lambda: not psutil.pid_exists(identity))
    assert await pool.run("a", os.getpid) != identity


async def test_the_bytes_of_waiting_jobs_are_bounded(pool: ProcessPool) -> None:
    jobs = [
        asyncio.create_task(pool.run(name, zlib.adler32, Whole(bytes(40 * MIB)))) for name in "abc"
    ]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, BodiesFullError]
    assert await pool.run("a", math.sqrt, 4) == 2, "the bytes are free again"


async def test_a_caller_with_many_jobs_leaves_memory_for_those_of_others(pool: ProcessPool) -> None:
    body = Whole(bytes(15 * MIB))
    jobs = [asyncio.create_task(pool.run("a", zlib.adler32, body)) for _ in range(20)]
    await asyncio.sleep(0)  # all of them ask
    assert type(await pool.run("b", zlib.adler32, body)) is int
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(result) for result in results} == {int, BodiesFullError}


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        process.kill()
        with suppress(psutil.NoSuchProcess):
            process.wait()


async def test_a_server_that_was_killed_is_replaced_without_a_failed_job(pool: ProcessPool) -> None:
    assert await pool.run("a", math.sqrt, 4) == 2
    _kill(_processes())
    assert await pool.run("a", math.sqrt, 9) == 3


async def test_an_idle_process_that_was_killed_fails_no_job(pool: ProcessPool) -> None:
    """As the kernel does when memory is short: it ends these processes first."""
    assert await pool.run("a", math.sqrt, 4) == 2
    _kill(SERVERS[0].children())
    assert await pool.run("a", math.sqrt, 9) == 3
    assert SERVERS[0].is_running()


async def test_jobs_that_lose_their_server_at_the_same_time_share_the_next_one(
    pool: ProcessPool,
) -> None:
    SERVERS[0].suspend()
    jobs = [asyncio.create_task(pool.run(name, time.sleep, 0.3)) for name in "abc"]
    await asyncio.sleep(0.1)  # all wait for a process of the suspended server
    SERVERS[0].kill()
    assert await asyncio.gather(*jobs) == [None] * 3


async def test_a_pool_that_is_closed_while_a_job_waits_for_a_process_starts_no_other_server(
    pool: ProcessPool,
) -> None:
    SERVERS[0].suspend()
    job = asyncio.create_task(pool.run("a", math.sqrt, 4))
    await asyncio.sleep(0.1)
    before = len(psutil.Process().children())
    await pool.close()
    with pytest.raises(NotReadyError, match="shutting down"):
        await job
    assert len(psutil.Process().children()) < before


FEW_FORKS = """
import errno, os

_fork, _left = os.fork, [1]

def fork():
    if not _left:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    _left.pop()
    return _fork()

os.fork = fork
"""


async def test_a_process_that_cannot_be_forked_fails_only_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "few_forks.py").write_text(FEW_FORKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    pool = ProcessPool(
        ["few_forks"], cpu_seconds=5, max_bytes=MIB, memory_bytes=300 * MIB, max_processes=4
    )
    first = asyncio.create_task(pool.run("a", time.sleep, 0.5))
    await asyncio.sleep(0.1)
    with pytest.raises(BodiesFullError, match="No process can be started"):
        await pool.run("b", math.sqrt, 4)
    assert await first is None, "the server ended, and its processes with it"
    await pool.close()


async def test_without_a_descriptor_only_the_job_that_needs_one_fails(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    first = asyncio.create_task(pool.run("a", time.sleep, 0.5))
    await _until(lambda: len(_processes()) == 2)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", refuse)
        with pytest.raises(BodiesFullError, match="No process can be started"):
            await pool.run("b", math.sqrt, 4)
    assert await first is None
    assert SERVERS[0].is_running()


async def test_no_process_is_left_after_the_close(pool: ProcessPool) -> None:
    await asyncio.gather(*(pool.run(name, math.sqrt, 4) for name in "abcdef"))
    job = asyncio.create_task(pool.run("a", time.sleep, 1_000))
    await _until(lambda: len(_processes()) > 1)
    await pool.close()
    with pytest.raises(NotReadyError, match="shutting down"):
        await job
    with pytest.raises(NotReadyError, match="shutting down"):
        await pool.run("a", math.sqrt, 4)
    await _until(lambda: not _processes())
