"""GPU streams of TorchScript: a hung computation blocks no other.

The network computes on the CPU, and a fake torch records the streams that it would use.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeStreams, fake_onnx_cuda, fake_torch_streams

from models.package.model_package import ModelPackage
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import Runtime
from models.runtimes.torch_runtimes import TorchScriptRuntime
from service.batching.batch import InferenceResponse
from service.batching.batcher import MicroBatcher
from service.errors import ModelFaultError

HANGS = 13.0


def rows(value: float) -> dict[str, Any]:
    return {"x": np.full((2, 1), value, np.float32)}


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> FakeStreams:
    return fake_torch_streams(monkeypatch)


def opened(package: ModelPackage) -> TorchScriptRuntime:
    runtime = open_runtime(package, "torchscript", "cuda:0")
    assert isinstance(runtime, TorchScriptRuntime)
    return runtime


def on_a_thread(run: Callable[[], Any]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)


def test_loading_completes_before_another_stream_reads_the_weights(
    bend: ModelPackage, streams: FakeStreams
) -> None:
    opened(bend)
    assert streams.events[:2] == ["synchronize cuda:0", "compute on stream 1"]


def test_outputs_are_read_on_the_stream_of_their_computation(
    bend: ModelPackage, streams: FakeStreams
) -> None:
    """Such a copy waits for the stream. Afterwards, the inputs are no longer read."""
    expected = open_runtime(bend, "torchscript")(rows(2))["y"]
    runtime = opened(bend)
    streams.events.clear()
    inputs = rows(2)
    actual = runtime(inputs)["y"]
    inputs["x"][:] = np.nan
    np.testing.assert_array_equal(actual, expected)
    assert streams.events == ["compute on stream 1", "read on stream 1"]


def test_one_stream_is_shared_by_all_threads(bend: ModelPackage, streams: FakeStreams) -> None:
    """A failed computation releases its stream and the stream's memory."""
    runtime = opened(bend)
    for _ in range(3):
        on_a_thread(lambda: runtime(rows(1)))
        with pytest.raises(RuntimeError):
            runtime({"x": np.zeros((2, 7), np.float32)})
    assert streams.made == 1


def test_each_model_has_its_own_stream(bend: ModelPackage, streams: FakeStreams) -> None:
    for runtime in (opened(bend), opened(bend)):
        runtime(rows(1))
    assert streams.made == 2


def test_a_computation_on_the_cpu_has_no_stream(bend: ModelPackage, streams: FakeStreams) -> None:
    open_runtime(bend, "torchscript")(rows(1))
    assert (streams.made, set(streams.events)) == (0, {"compute on default", "read on default"})


@pytest.mark.timeout(30, func_only=True)
@pytest.mark.parametrize("name", ["onnx", "torchscript"])
async def test_a_hung_computation_shares_no_stream_with_the_next(
    name: str, bend: ModelPackage, streams: FakeStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a session, ONNX Runtime has a stream for each run in progress."""
    entered, gate = threading.Event(), threading.Event()
    fake_onnx_cuda(monkeypatch)
    opened_runtime: Runtime = open_runtime(bend, name, "cuda:0")  # type: ignore[arg-type]  # pytest's parameters are strings
    run = _wait_on_victim(opened_runtime, entered, gate)
    right = opened_runtime(rows(2))["y"]
    batcher = MicroBatcher(run, max_batch_rows=8, max_queue_rows=64, name="bend")
    loop = asyncio.get_running_loop()

    def ask(value: float) -> asyncio.Future[Any]:
        answered = loop.create_future()
        batcher.enqueue(rows(value), answered.set_result)
        return answered

    victim = ask(HANGS)
    await asyncio.to_thread(entered.wait, 30)
    other = ask(2)
    batcher.abandon_hung(0)
    assert isinstance(await victim, ModelFaultError)
    response = await other
    assert isinstance(response, InferenceResponse)
    np.testing.assert_array_equal(response.outputs["y"], right)
    first_output = response.outputs["y"].copy()
    gate.set()  # the hung computation ends, and must not overwrite memory in use
    for value in (3, 4):
        assert isinstance(await ask(value), InferenceResponse)
    np.testing.assert_array_equal(response.outputs["y"], first_output)
    await batcher.close()
    if name == "torchscript":
        assert streams.made == 2


def _wait_on_victim(runtime: Any, entered: threading.Event, gate: threading.Event) -> Any:
    """Make the runtime's network wait for the gate on one input value; return the runtime."""

    def hang(values: Any) -> None:
        if float(values[0, 0]) == HANGS:
            entered.set()
            gate.wait(30)

    if runtime.name == "torchscript":
        module = runtime._module

        def compute(x: Any) -> Any:
            hang(x)
            return module(x)

        runtime._module = compute
    else:
        session = runtime._session

        class Hanging:
            def run(self, names: Any, inputs: Any) -> Any:
                hang(inputs["x"])
                return session.run(names, inputs)

        runtime._run = Hanging().run
    return runtime
