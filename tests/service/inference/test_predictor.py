"""One loaded model: many concurrent requests, each with its own response, within limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated import GUILTY, Gated
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import make_node as node
from slow_runtime import SlowRuntime
from small_packages import onnx_file
from tiny import write_tiny

from models.kinds.tensor_spec import TensorSpec
from models.package.card import (
    Example,
    ModelCard,
    RecordedTensor,
    RuntimeName,
)
from models.package.model_package import ModelPackage, write_package
from service.errors import (
    BadInputError,
    DeadlineExceededError,
    NotReadyError,
    QueueFullError,
)
from service.inference.placement import Placement, place
from service.inference.predictor import Predictor
from service.settings import Settings

pytestmark = pytest.mark.timeout(60)  # a longer test hangs


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return write_tiny(tmp_path_factory.mktemp("packages"), "line")


@asynccontextmanager
async def gated(package: ModelPackage, **settings: Any) -> AsyncIterator[tuple[Predictor, Gated]]:
    """Open a predictor whose first batch waits at the gate of its runtime."""
    runtime = Gated()
    predictor = Predictor(package, Placement(runtime, {}), Settings(**settings))
    try:
        yield predictor, runtime
    finally:
        runtime.gate.set()
        await predictor.close()


@pytest.mark.parametrize(("seconds", "rows"), [(0.1, 256), (1.6, 20), (400.0, 1)])
async def test_a_full_batch_takes_at_most_an_eighth_of_the_longest_wait(
    package: ModelPackage, seconds: float, rows: int
) -> None:
    timed = {1: seconds / 256, 256: seconds}
    predictor = Predictor(package, Placement(Gated(), {"onnx": timed}), Settings())
    assert predictor.max_batch_rows == rows
    await predictor.close()


@pytest.mark.parametrize("timed", [0.11, 0.15])  # on an idle machine, and on one that was busy
async def test_eight_callers_of_a_network_of_110_ms_per_row_all_get_a_response(
    timed: float, package: ModelPackage
) -> None:
    runtime = SlowRuntime("onnx", "cpu", 0.11)
    placed = Placement(runtime, {"onnx": {1: timed, 2: 2 * timed}}, limit="time")
    predictor = Predictor(package, placed, Settings(busy_poll_seconds=0))
    responses = await asyncio.gather(*(ask(predictor, row) for row in range(8)))
    assert [row for (row,) in responses] == [2 * row + 1 for row in range(8)]
    assert runtime.batches == [1] * 8
    await predictor.close()


@pytest.mark.parametrize(("seconds", "accepted"), [(0.1, 10), (0.25, 8), (0.5, 4), (1.5, 1)])
async def test_the_queue_of_a_slow_network_is_bounded_in_seconds(
    seconds: float, accepted: int, package: ModelPackage
) -> None:
    """At most twice the setting, and one request may always wait."""
    runtime = Gated()
    placed = Placement(runtime, {"onnx": {1: seconds}}, limit="time")
    predictor = Predictor(package, placed, Settings())
    tasks = [ask(predictor, 0)]
    await until_busy(runtime)
    tasks += [ask(predictor, 0) for _ in range(16)]
    await asyncio.sleep(0)
    runtime.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, np.ndarray) for result in results) == 1 + accepted
    assert sum(isinstance(result, QueueFullError) for result in results) == 16 - accepted
    await predictor.close()


def ask(predictor: Predictor, *rows: float) -> asyncio.Task[NDArray[Any]]:
    async def asked() -> NDArray[Any]:
        column = np.array(rows, np.float32).reshape(-1, 1)
        return (await predictor.predict({"x": column})).outputs["y"][:, 0]

    return asyncio.create_task(asked())


async def until_busy(runtime: Gated) -> None:
    await asyncio.to_thread(runtime.entered.wait)


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
async def test_two_hundred_concurrent_requests_get_their_own_rows(
    runtime: RuntimeName, package: ModelPackage
) -> None:
    placed = place(package, runtime, "cpu", threads=1, max_batch_rows=64)
    predictor = Predictor(package, placed, Settings(max_batch_rows=64))
    assert predictor.card.name == "line"
    rows = [[1000 * n + row for row in range(1 + n % 5)] for n in range(200)]
    responses = await asyncio.gather(*(ask(predictor, *sent) for sent in rows))
    for sent, response in zip(rows, responses, strict=True):
        np.testing.assert_array_equal(response, [2 * value + 1 for value in sent])
    await predictor.close()


async def test_requests_during_a_compute_form_one_batch_within_the_setting(
    package: ModelPackage,
) -> None:
    async with gated(package, max_batch_rows=8) as (predictor, runtime):
        tasks = [ask(predictor, 0)]
        await until_busy(runtime)
        tasks += [ask(predictor, 100 + n) for n in range(20)]
        await asyncio.sleep(0)
        runtime.gate.set()
        await asyncio.gather(*tasks)
        assert runtime.batches == [1, 8, 8, 4]


async def test_an_idle_model_waits_for_more_requests_if_configured(package: ModelPackage) -> None:
    async with gated(package, max_batch_rows=2, max_queue_delay_seconds=1) as (predictor, runtime):
        runtime.gate.set()
        first = ask(predictor, 1)
        await asyncio.sleep(0.01)
        assert await ask(predictor, 2) == [5]
        assert await first == [3]
        assert runtime.batches == [2]


async def test_a_full_queue_refuses_at_once(package: ModelPackage) -> None:
    async with gated(package, max_batch_rows=4, max_queue_rows=4) as (predictor, runtime):
        first = ask(predictor, 0)
        await until_busy(runtime)
        waiting = ask(predictor, 1, 2, 3, 4)
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="Model line has 4 rows waiting"):
            await ask(predictor, 5, 6)
        runtime.gate.set()
        assert await first == [1]
        np.testing.assert_array_equal(await waiting, [3, 5, 7, 9])


async def test_a_request_that_waited_too_long_fails_with_its_deadline(
    package: ModelPackage,
) -> None:
    async with gated(package, timeout_seconds=0.05) as (predictor, runtime):
        first = ask(predictor, 0)
        await until_busy(runtime)
        with pytest.raises(DeadlineExceededError, match="Model line did not get to this request"):
            await ask(predictor, 1)
        runtime.gate.set()
        assert await first == [1]  # its compute started before its deadline


async def test_a_request_on_which_the_model_fails_does_not_affect_others(
    package: ModelPackage,
) -> None:
    async with gated(package) as (predictor, runtime):
        tasks = [ask(predictor, 0)]
        await until_busy(runtime)
        tasks += [ask(predictor, 1), ask(predictor, GUILTY), ask(predictor, 2)]
        await asyncio.sleep(0)
        runtime.gate.set()
        outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[2], BadInputError)
        assert isinstance(outcomes[2].__cause__, RuntimeError)
        assert [float(outcomes[n][0]) for n in (0, 1, 3)] == [1, 3, 5]


async def test_closing_completes_the_queue_and_refuses_new_requests(package: ModelPackage) -> None:
    async with gated(package) as (predictor, runtime):
        tasks = [ask(predictor, 0)]
        await until_busy(runtime)
        tasks += [ask(predictor, n) for n in range(1, 5)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(predictor.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError, match="Model line is shutting down"):
            await ask(predictor, 5)
        assert not closing.done()
        runtime.gate.set()
        await closing
        assert [float(task.result()[0]) for task in tasks] == [1, 3, 5, 7, 9]


async def test_the_predictor_keeps_its_package(package: ModelPackage, root: Path) -> None:
    async with gated(package) as (predictor, runtime):
        assert predictor.package is package
        assert predictor.card is package.card
        assert predictor.placement.runtime is runtime


@pytest.mark.parametrize("batched", [((3,),), ()], ids=["one length proved", "an earlier card"])
async def test_a_request_of_a_size_that_is_not_proved_is_computed_alone(
    batched: tuple[tuple[int], ...], tmp_path: Path
) -> None:
    """The network mixes its rows at a length of 5, which was not tried."""
    content = onnx_file(
        [
            node("Pad", ["x", "pads"], ["padded"]),
            node("Slice", ["padded", "four", "end", "axis"], ["tail"]),
            node("ReduceSum", ["tail"], ["sum"], keepdims=0),
            node("Add", ["x", "sum"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", "length"])],
        [("y", TensorProto.FLOAT, ["batch", "length"])],
        pads=np.array([0, 0, 0, 1]), four=np.array([4]), end=np.array([9]), axis=np.array([1]),
    )  # fmt: skip
    x = RecordedTensor.of("FP32", np.ones((1, 3), np.float32))
    specs = {
        name: TensorSpec(name=name, datatype="FP32", shape=(-1, -1), meaning="not stated")
        for name in "xy"
    }
    card = ModelCard(
        name="net", version="1", summary="", task="other", inputs=(specs["x"],),
        outputs=(specs["y"],), batched_shapes=tuple({"x": shape} for shape in batched),
        example=Example(inputs={"x": x}, outputs={"y": x}, tolerance=1e-4), intended_use="",
    )  # fmt: skip
    package = write_package(tmp_path, card, {"model.onnx": content})

    placed = place(package, "onnx", "cpu", threads=1, max_batch_rows=4)
    predictor = Predictor(package, placed, Settings(max_batch_rows=4))
    inputs = {n: np.full((2, n), float(n), np.float32) for n in (3, 5)}
    responses = await asyncio.gather(*(predictor.predict({"x": inputs[n]}) for n in (3, 5, 3, 5)))
    outputs = [response.outputs["y"] for response in responses]
    for n, output in zip((3, 5, 3, 5), outputs, strict=True):
        np.testing.assert_array_equal(output, inputs[n] + (10 if n == 5 else 0))
    big = await predictor.predict({"x": np.ones((9, 5), np.float32)})
    assert big.batch_rows == 9
    rows = (await predictor.predict({"x": np.ones((9, 3), np.float32)})).batch_rows
    assert rows == (1 if batched else 9)  # the last of 4, 4 and 1
    await predictor.close()
