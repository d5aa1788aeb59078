"""Networks with free dimensions: the memory of a request is limited, and any size is right."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from attention import rows_of, write_attention
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_packages import onnx_file, property_test
from torch import Tensor, nn

from models.adding.add import add
from models.package.model_package import ModelPackage, write_package
from models.runtimes import arena
from models.runtimes.runtime import OnnxRuntime
from models.sources.max_length import MaxLength
from service.errors import BadInputError, BodyTooLargeError, ComputeMemoryError
from service.inference.placement import Placement, limit_memory, place
from service.inference.predictor import Predictor
from service.settings import Settings

pytestmark = pytest.mark.timeout(180)  # a longer test hangs

LIMIT = 64 * 2**20
LONGEST = 2000  # a row of this length takes 16 MB or twice that, one of 10,000 takes 400 MB


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    limit_memory("onnx", LIMIT)
    yield
    arena._arena = None  # the sessions of other tests have no limit


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("attention")
    longest = [MaxLength("length", LONGEST)]
    return add(folder / "all", "net", write_attention(folder), max_lengths=longest)


@pytest.fixture(scope="module")
def old(package: ModelPackage) -> ModelPackage:
    """The same, with a card of an earlier version: no maximum."""
    inputs = tuple(replace(spec, max_shape=None) for spec in package.card.inputs)
    card = package.card.model_copy(update={"name": "old", "inputs": inputs})
    return write_package(package.path.parents[1], card, {"model.onnx": package.load("model.onnx")})


@pytest.fixture(scope="module")
def placed(package: ModelPackage) -> Placement:
    limit_memory("onnx", LIMIT)
    return place(package, "auto", "cpu", threads=1, max_batch_rows=4)


def alone(package: ModelPackage, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the network computes for each row by itself, without the service."""
    network = onnxruntime.InferenceSession(package.load("model.onnx"))
    outputs = [network.run(None, {"x": row[None]})[0] for row in rows]
    output: NDArray[np.float32] = np.concatenate(outputs)
    return output


async def ask(predictor: Predictor, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    output: NDArray[np.float32] = (await predictor.predict({"x": rows})).outputs["y"]
    return output


def served(package: ModelPackage, rows: int = 64) -> Predictor:
    placed = place(package, "auto", "cpu", threads=1, max_batch_rows=rows)
    return Predictor(package, placed, Settings(max_batch_rows=rows))


async def test_a_request_over_the_limit_fails_alone_and_its_neighbours_are_right(
    old: ModelPackage,
) -> None:
    predictor = served(old)
    small = [rows_of(length, 2, seed=length) for length in range(3, 40)]
    tasks = [asyncio.create_task(ask(predictor, rows)) for rows in small]
    large = asyncio.create_task(ask(predictor, rows_of(10_000)))
    tasks += [asyncio.create_task(ask(predictor, rows)) for rows in small]
    for task, rows in zip(tasks, [*small, *small], strict=True):
        np.testing.assert_allclose(await task, alone(old, rows), rtol=1e-4, atol=1e-5)
    with pytest.raises(BodyTooLargeError, match=r"than the 64 MiB of FITSERVE_MAX_COMPUTE_BYTES"):
        await large
    await predictor.close()


@pytest.mark.parametrize("length", [512, 600], ids=["a batched size", "another size"])
async def test_many_rows_are_divided_if_they_may_be(length: int, package: ModelPackage) -> None:
    """64 rows of these lengths take more than the limit together."""
    predictor = served(package)
    rows = rows_of(length, 64)
    if length == 512:
        output = await ask(predictor, rows)
        np.testing.assert_allclose(output, alone(package, rows), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(BodyTooLargeError, match="send fewer or smaller rows"):
            await ask(predictor, rows)
    await predictor.close()


@pytest.mark.parametrize("shape", [(1, 10_000, 8), (1, 5, 9)], ids=["too large", "another width"])
async def test_a_refused_request_leaves_nothing_to_the_garbage_collector(
    shape: tuple[int, ...], old: ModelPackage
) -> None:
    """A collection comes after many requests, whose rows would stay in memory until then."""
    predictor = served(old)
    references: list[weakref.ref[NDArray[np.float32]]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            rows = np.ones(shape, np.float32)
            references.append(weakref.ref(rows))
            with suppress(BodyTooLargeError, BadInputError):
                await predictor.predict({"x": rows})
        del rows
        assert (
            sum(reference() is not None for reference in references) <= 1
        )  # the thread has its last batch
    finally:
        gc.enable()
    await predictor.close()


async def test_a_request_that_may_fit_later_gets_503(old: ModelPackage) -> None:
    predictor = served(old)
    shared = arena.current_arena()
    assert shared is not None
    started, end = threading.Event(), threading.Event()

    def compute() -> None:
        with shared.computing():
            started.set()
            end.wait()

    other = threading.Thread(target=compute)
    other.start()
    started.wait()
    try:
        with pytest.raises(ComputeMemoryError, match="other requests leave of the 64 MiB"):
            await ask(predictor, rows_of(10_000))
    finally:
        end.set()
        other.join()
    with pytest.raises(BodyTooLargeError):
        await ask(predictor, rows_of(10_000))
    await predictor.close()


def test_the_memory_of_a_large_request_is_returned() -> None:
    """The output lies in the block that the largest tensor took, which was kept therefore."""
    nodes = [
        helper.make_node("ReduceMax", ["n"], ["end"], keepdims=0),
        helper.make_node("Range", ["zero", "end", "one"], ["numbers"]),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Add", ["n", "sum"], ["y"]),
    ]
    n = [("n", TensorProto.INT64, ["batch", 1])]
    y = [("y", TensorProto.INT64, ["batch", 1])]
    content = onnx_file(nodes, n, y, zero=np.array(0), one=np.array(1))
    limit_memory("onnx", 2**30)
    network = OnnxRuntime(content, threads=1, bounded=True)
    process = psutil.Process()
    before = process.memory_info().rss
    response = network({"n": np.array([[40_000_000]])})
    assert process.memory_info().rss - before < 32 * 2**20, "the computation took 320 MB"
    assert response["y"] == 40_000_000 + 40_000_000 * 39_999_999 // 2


def test_the_file_that_the_arena_runs_is_an_identity() -> None:
    onnx.checker.check_model(arena._IDENTITY, full_check=True)
    model = onnx.load_from_string(arena._IDENTITY)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


async def test_values_that_ask_for_much_memory_fail_alone(tmp_path: Path) -> None:
    """The values of a request say how often its row is repeated."""
    nodes = [
        helper.make_node("ReduceMax", ["n"], ["most"], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "zero"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["n"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["float", "sum"], ["y"]),
    ]
    file = tmp_path / "net.onnx"
    inputs = [("n", TensorProto.INT64, ["batch", 1])]
    outputs = [("y", TensorProto.FLOAT, ["batch", 1])]
    file.write_bytes(onnx_file(nodes, inputs, outputs, zero=np.array([0])))
    package = add(tmp_path / "all", "net", file)
    predictor = served(package)
    with pytest.raises(BodyTooLargeError):
        await predictor.predict({"n": np.array([[2**28]])})
    output = (await predictor.predict({"n": np.array([[1000]])})).outputs["y"]
    np.testing.assert_array_equal(output, [[1000]])
    await predictor.close()


@property_test
@given(
    st.lists(
        st.tuples(st.integers(1, LONGEST) | st.integers(1, 40), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_requests_of_any_sizes_within_the_maximum_are_right(
    package: ModelPackage, placed: Placement, sizes: list[tuple[int, int]]
) -> None:
    async def ask_all() -> list[NDArray[np.float32]]:
        predictor = Predictor(package, placed, Settings(max_batch_rows=4))
        try:
            return await asyncio.gather(*(ask(predictor, rows) for rows in requests))
        finally:
            await predictor.close()

    requests = [rows_of(*size, seed=number) for number, size in enumerate(sizes)]
    for rows, output in zip(requests, asyncio.run(ask_all()), strict=True):
        np.testing.assert_allclose(output, alone(package, rows), rtol=1e-4, atol=1e-5)


class Mean(nn.Module):
    """The mean over the length."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of each row."""
        return x.mean(1)


@pytest.mark.filterwarnings("ignore")
def test_the_runtime_whose_memory_can_be_limited_is_used(tmp_path: Path) -> None:
    file, scripted = tmp_path / "mean.onnx", tmp_path / "mean.pt"
    nodes = [helper.make_node("ReduceMean", ["x", "axis"], ["y"], keepdims=0)]
    outputs: list[tuple[str, int, list[str | int]]] = [("y", TensorProto.FLOAT, ["batch", 3])]
    inputs = [("x", TensorProto.FLOAT, ["batch", "length", 3])]
    file.write_bytes(onnx_file(nodes, inputs, outputs, axis=np.array([1])))
    torch.jit.save(torch.jit.script(Mean().eval()), scripted)
    package = add(tmp_path / "all", "net", file, torchscript=scripted)
    assert package.card.runtimes == ("onnx", "torchscript")
    assert set(place(package, "auto", "cpu", threads=1, max_batch_rows=2).seconds) == {"onnx"}
    chosen = place(package, "torchscript", "cpu", threads=1, max_batch_rows=2)
    assert chosen.runtime.name == "torchscript"
