"""Busy polling: the loop stays awake only for a client that sends its next request soon."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from gated import Gated
from tiny import write_tiny

from service.inference.busy_polling import BusyPolling
from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.settings import Settings

LIMIT = 0.2
"""Seconds that a loop stays awake: long enough to measure on a busy machine."""

SMALL = 4
"""Batches of up to this many rows are computed on the event loop."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def stays_awake() -> bool:
    """Return whether this thread computes without events, until the limit and no longer."""
    before = time.thread_time()
    await asyncio.sleep(3 * LIMIT)
    computed = time.thread_time() - before
    assert computed < 1.3 * LIMIT
    return computed > 0.05 * LIMIT  # other programs may use the cores


@pytest.mark.parametrize(
    ("between", "limit", "awake"),
    [(0.0, LIMIT, True), (2 * LIMIT, LIMIT, False), (0.0, 0.0, False)],
)
async def test_the_loop_stays_awake_if_the_last_request_arrived_soon(
    between: float, limit: float, awake: bool
) -> None:
    polling = BusyPolling(limit)
    polling.answered(0.0)
    await asyncio.sleep(between)
    polling.answered(0.0)
    assert await stays_awake() == awake
    assert not await stays_awake()


async def test_the_first_request_does_not_keep_the_loop_awake() -> None:
    BusyPolling(LIMIT).answered(0.0)
    assert not await stays_awake()


@pytest.mark.parametrize(
    ("clients", "rows", "awake"), [(1, 1, True), (4, 1, False), (1, SMALL + 1, False)]
)
async def test_small_requests_of_one_client_in_a_row_keep_the_loop_awake(
    tmp_path: Path, clients: int, rows: int, awake: bool
) -> None:
    runtime = Gated()
    runtime.gate.set()
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    settings = Settings(busy_poll_seconds=LIMIT)
    timed = {"onnx": {1: 1e-5, SMALL: 1e-5, 2 * SMALL: 0.01}}
    predictor = Predictor(package, Placement(runtime, timed), settings)
    x = np.zeros((rows, 1), np.float32)
    for _ in range(3):
        await asyncio.gather(*(predictor.predict({"x": x}) for _ in range(clients)))
    assert await stays_awake() == awake
    await predictor.close()
