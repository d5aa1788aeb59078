"""The pool of a worker: what is read there, and for how long."""

import asyncio
import gzip
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from infer_messages import card_of
from starlette.types import Message

from service.api.typed.fields import read_fields
from service.api.typed.requests import CurveInput
from service.api.v2.codec import is_large
from service.errors import DeadlineExceededError, ServiceError
from service.http.body import expand, read_body
from service.processes import jobs
from service.processes.jobs import close_pool, run_job, start_pool, within_timeout
from service.settings import Settings

SECONDS = 0.5
CARD = card_of({"x": ("FP32", (-1, 2))})
TEXT_CARD = card_of({"x": ("BYTES", (-1, 1))})


@pytest.fixture
async def _pool() -> AsyncIterator[None]:
    start_pool(Settings())
    await run_job("a", math.sqrt, 4)  # its server has started
    yield
    await close_pool()


@pytest.fixture
async def _hasty() -> AsyncIterator[None]:
    pool = start_pool(Settings(timeout_seconds=SECONDS))
    await pool.run("a", math.sqrt, 4)  # its server has started
    yield
    await close_pool()


@pytest.mark.usefixtures("_hasty")
async def test_a_job_that_waits_or_lasts_too_long_is_too_late() -> None:
    """A job that sleeps takes no processor time."""
    # The third waits for one of the two processes of its caller.
    for job in [asyncio.create_task(run_job("a", time.sleep, 1_000)) for _ in range(3)]:
        with pytest.raises(DeadlineExceededError, match=f"within {SECONDS:g} seconds"):
            await job


@pytest.mark.usefixtures("_hasty")
async def test_several_jobs_of_one_request_have_one_limit() -> None:
    completed = 0

    async def run_all() -> None:
        nonlocal completed
        async with within_timeout(SECONDS):
            for _ in range(10):
                await run_job("a", time.sleep, SECONDS / 4)
                completed += 1

    with pytest.raises(DeadlineExceededError):
        await run_all()
    assert completed < 10


SIZE = jobs.LARGE_BYTES - 100
EMPTY = gzip.compress(b"", 1)
DEEP = b"[" * 60 + b"1" + b"]" * 60


def repeated(value: bytes) -> bytes:
    return b'{"x":[' + b",".join([value] * (SIZE // (len(value) + 1))) + b"]}"


@pytest.mark.usefixtures("_pool")
@pytest.mark.parametrize("value", [b"[]", b"[[]]", DEEP], ids=["lists", "two levels", "deep"])
async def test_small_json_of_many_values_does_not_hold_up_the_event_loop(value: bytes) -> None:
    body = repeated(value)
    started = time.thread_time()
    with suppress(ServiceError):
        read_fields(body, CurveInput.fields())
    alone, started = time.thread_time() - started, time.thread_time()
    with suppress(ServiceError):
        await CurveInput.parse(body)
    assert time.thread_time() - started < alone / 2


@pytest.mark.usefixtures("_pool")
async def test_many_members_of_gzip_do_not_hold_up_the_event_loop() -> None:
    body = EMPTY * (SIZE // len(EMPTY)) + gzip.compress(b"{}")

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    started = time.thread_time()
    assert expand(body, b"gzip", 100) == b"{}"
    alone, started = time.thread_time() - started, time.thread_time()
    assert await read_body({b"content-encoding": b"gzip"}, receive, Settings()) == b"{}"
    assert time.thread_time() - started < alone / 2


def test_messages_of_few_values_are_read_at_once() -> None:
    pictures = repeated(b"[" + b",".join([b"[" + b"0," * 27 + b"0]"] * 28) + b"]")
    for body in (pictures, repeated(b"1.5"), b"[" * 4_000):
        assert not is_large(CARD, body, None)
    assert is_large(CARD, repeated(b"[]"), None)
    assert is_large(CARD, repeated(b"[]") + bytes(SIZE), b"%d" % len(repeated(b"[]")))
    assert not is_large(CARD, b"{}" + b"[" * SIZE, b"2"), "what follows is binary"


def test_many_texts_in_binary_are_read_elsewhere() -> None:
    body = b"{}" + bytes(4 * 10_000)
    assert is_large(TEXT_CARD, body, b"2")
    assert not is_large(TEXT_CARD, body[:20_000], b"2")
    assert not is_large(CARD, body, b"2")
