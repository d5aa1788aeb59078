"""The pool of a worker: the jobs of one request are limited in time, together."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest

from service.errors import DeadlineExceededError
from service.processes import jobs
from service.processes.jobs import close_pool, run_job, start_pool, within_timeout
from service.settings import Settings

SECONDS = 0.5


@pytest.fixture
async def _pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(jobs, "current_settings", lambda: Settings(timeout_seconds=SECONDS))
    start_pool()
    await run_job("a", math.sqrt, 4)
    yield
    await close_pool()


@pytest.mark.usefixtures("_pool")
async def test_a_job_that_waits_or_lasts_too_long_is_too_late() -> None:
    """A job that sleeps takes no processor time."""
    running = [asyncio.create_task(run_job("a", time.sleep, 1_000)) for _ in range(2)]
    waiting = asyncio.create_task(run_job("a", math.sqrt, 4))
    for job in (*running, waiting):
        with pytest.raises(DeadlineExceededError, match=f"within {SECONDS:g} seconds"):
            await job
    assert await run_job("a", math.sqrt, 9) == 3


@pytest.mark.usefixtures("_pool")
async def test_several_jobs_of_one_request_have_one_limit() -> None:
    done = 0

    async def run_all() -> None:
        nonlocal done
        async with within_timeout():
            for _ in range(10):
                await run_job("a", time.sleep, SECONDS / 4)
                done += 1

    with pytest.raises(DeadlineExceededError):
        await run_all()
    assert 0 < done < 10
