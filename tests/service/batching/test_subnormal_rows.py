"""A batch with subnormal numbers takes no longer than another, wherever it is computed."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from batchers import batching
from subnormal_networks import SUBNORMAL, open_slow, rows

from models.package.card import RuntimeName
from models.runtimes.runtime import Runtime
from models.runtimes.subnormals import SUPPORTED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SUPPORTED, reason="subnormals are not flushed here"),
]

ROWS = 64
PAIRS = 15
ATTEMPTS = 3
MAX_RATIO = 2.0


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("inline_rows", [0, ROWS], ids=["on the thread", "on the event loop"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_a_batch_of_subnormal_rows_takes_the_time_of_another(
    name: RuntimeName, threads: int, inline_rows: int
) -> None:
    runtime = open_slow(name, threads)
    # A new thread for the event loop, as other tests may have started torch's threads from this.
    with ThreadPoolExecutor(1) as executor:
        ratios = executor.submit(asyncio.run, measured(runtime, inline_rows)).result()
    assert min(ratios) < MAX_RATIO, ratios


async def measured(runtime: Runtime, inline_rows: int) -> list[float]:
    """Return the ratio of the least times of each attempt, up to the first that is small enough.

    The least times, because other processes take the cores from some batches of either kind.
    """
    ratios: list[float] = []
    async with batching(
        runtime, max_batch_rows=ROWS, max_queue_rows=ROWS, inline_rows=inline_rows
    ) as batcher:

        async def seconds(value: float) -> float:
            started = time.perf_counter()
            await batcher.submit({"x": rows(ROWS, value)})
            return time.perf_counter() - started

        for _ in range(ATTEMPTS):
            pairs = [(await seconds(0.0), await seconds(SUBNORMAL)) for _ in range(PAIRS)]
            normal, subnormal = map(min, zip(*pairs, strict=True))
            ratios.append(subnormal / normal)
            if ratios[-1] < MAX_RATIO:
                break
    return ratios
