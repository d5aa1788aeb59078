"""One loaded model: many requests at once, each with its own answer, within set limits."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated import GUILTY, Gated
from numpy.typing import NDArray
from tiny import write_tiny

from models.card import RuntimeName
from models.package import ModelPackage
from service.errors import (
    BadInputError,
    DeadlineExceededError,
    NotReadyError,
    QueueFullError,
)
from service.placement import Placement, place
from service.predictor import Predictor
from service.settings import Settings


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_tiny(tmp_path_factory.mktemp("packages"), "line")


def gated(
    package: ModelPackage, test: Callable[[Predictor, Gated], Awaitable[None]], **settings: Any
) -> None:
    """Run the test on a predictor whose first batch waits at the gate."""

    async def run() -> None:
        runtime = Gated()
        predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
        try:
            await test(predictor, runtime)
        finally:
            runtime.gate.set()
            await predictor.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(("seconds", "rows"), [(0.1, 256), (1.6, 20), (400.0, 1)])
def test_a_full_batch_takes_an_eighth_of_the_longest_wait(
    package: ModelPackage, seconds: float, rows: int
) -> None:
    async def run() -> None:
        timed = {1: seconds / 256, 256: seconds}
        predictor = Predictor(package, Placement(Gated(), {"onnx": timed}), Settings())
        assert predictor.max_batch_rows == rows
        await predictor.close()

    asyncio.run(run())


def ask(predictor: Predictor, *rows: float) -> asyncio.Task[NDArray[Any]]:
    async def asked() -> NDArray[Any]:
        column = np.array(rows, np.float32).reshape(-1, 1)
        return (await predictor.predict({"x": column})).outputs["y"][:, 0]

    return asyncio.create_task(asked())


async def until_busy(runtime: Gated) -> None:
    await asyncio.to_thread(runtime.entered.wait)


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_two_hundred_requests_at_once_each_get_their_own_rows(
    runtime: RuntimeName, package: ModelPackage
) -> None:
    async def run() -> None:
        placed = place(package, runtime, "cpu", threads=1, max_batch_rows=64)
        predictor = Predictor(package, placed, Settings(max_batch_rows=64))
        assert predictor.card.name == "line"
        rows = [[1000 * n + row for row in range(1 + n % 5)] for n in range(200)]
        answers = await asyncio.gather(*(ask(predictor, *sent) for sent in rows))
        for sent, found in zip(rows, answers, strict=True):
            np.testing.assert_array_equal(found, [2 * value + 1 for value in sent])
        await predictor.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_what_comes_while_it_computes_is_one_batch_of_at_most_the_settings_rows(
    package: ModelPackage,
) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        asked = [ask(predictor, 0)]
        await until_busy(runtime)
        asked += [ask(predictor, 100 + n) for n in range(20)]
        await asyncio.sleep(0)
        runtime.gate.set()
        await asyncio.gather(*asked)
        assert runtime.batches == [1, 8, 8, 4]

    gated(package, test, max_batch_rows=8)


def test_an_idle_model_waits_for_company_where_that_is_set(package: ModelPackage) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        runtime.gate.set()
        first = ask(predictor, 1)
        await asyncio.sleep(0.01)
        assert await ask(predictor, 2) == [5]
        assert await first == [3]
        assert runtime.batches == [2]

    gated(package, test, max_batch_rows=2, max_delay_seconds=1)


def test_a_full_queue_refuses_at_once(package: ModelPackage) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        first = ask(predictor, 0)
        await until_busy(runtime)
        waiting = ask(predictor, 1, 2, 3, 4)
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="Model line has 4 rows waiting"):
            await ask(predictor, 5)
        runtime.gate.set()
        assert await first == [1]
        np.testing.assert_array_equal(await waiting, [3, 5, 7, 9])

    gated(package, test, max_batch_rows=4, max_queue_rows=4)


def test_a_request_that_waited_too_long_is_told_so(package: ModelPackage) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        first = ask(predictor, 0)
        await until_busy(runtime)
        with pytest.raises(DeadlineExceededError, match="Model line did not get to this request"):
            await ask(predictor, 1)
        runtime.gate.set()
        assert await first == [1]  # it was in compute before its deadline

    gated(package, test, timeout_seconds=0.05)


def test_a_request_that_the_model_cannot_bear_fails_alone(package: ModelPackage) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        asked = [ask(predictor, 0)]
        await until_busy(runtime)
        asked += [ask(predictor, 1), ask(predictor, GUILTY), ask(predictor, 2)]
        await asyncio.sleep(0)
        runtime.gate.set()
        found: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[2], BadInputError)
        assert isinstance(found[2].__cause__, RuntimeError)
        assert [float(found[n][0]) for n in (0, 1, 3)] == [1, 3, 5]

    gated(package, test)


def test_closing_answers_what_waits_and_takes_no_more(package: ModelPackage) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        asked = [ask(predictor, 0)]
        await until_busy(runtime)
        asked += [ask(predictor, n) for n in range(1, 5)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(predictor.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError, match="Model line is shutting down"):
            await ask(predictor, 5)
        assert not closing.done()
        runtime.gate.set()
        await closing
        assert [float(task.result()[0]) for task in asked] == [1, 3, 5, 7, 9]

    gated(package, test)


def test_its_package_is_the_one_that_it_was_given(package: ModelPackage, root: Path) -> None:
    async def test(predictor: Predictor, runtime: Gated) -> None:
        assert predictor.package is package
        assert predictor.card is package.card
        assert predictor.placement.runtime is runtime

    gated(package, test)
