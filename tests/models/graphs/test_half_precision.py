"""Deep networks in half precision: rounding is tolerated, different weights are not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from onnx import TensorProto as T

from models.__main__ import main
from models.graphs.half_precision import half_tolerance
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, RecordedTensor
from models.package.repository import ModelRepository
from models.runtimes.differences import BFLOAT16, HALF_PRECISION, excess, relative_difference
from models.runtimes.loading import example_mismatch, open_runtime
from models.runtimes.runtime import Arrays, OnnxRuntime

Weights = Sequence[NDArray[np.float16]]
WIDTH, DEPTH, ROWS = 64, 24, 64
HALF = np.dtype(np.float16)


def weights_of(width: int = WIDTH, depth: int = DEPTH, seed: int = 0) -> Weights:
    """Return the layers of a network that keeps the magnitude of its inputs."""
    random = np.random.default_rng(seed)
    scale = (2 / width) ** 0.5
    return [
        (random.normal(size=(width, width)) * scale).astype(np.float16) for _ in range(depth)
    ]  # fmt: skip


def nearby(weights: Weights, by: float) -> Weights:
    """Return the network with random changes of its weights, relative to their magnitude."""
    random = np.random.default_rng(7)
    return [
        (layer * (1 + by * random.normal(size=layer.shape))).astype(np.float16) for layer in weights
    ]


# Rounding as on a GPU.


def product(x: NDArray[Any], layer: NDArray[Any], sums: str) -> NDArray[Any]:
    """Return the product of rows and a layer, with the sums of a runtime."""
    wide = x.astype(np.float32), layer.astype(np.float32)
    if sums in ("exact", "single"):
        return (wide[0] @ wide[1]).astype(np.float32 if sums == "exact" else np.float16)
    total = np.zeros((len(x), layer.shape[1]), np.float16)
    step = len(layer) // 8 if sums == "eight blocks" else 64
    for start in range(0, len(layer), step):
        part = wide[0][:, start : start + step] @ wide[1][start : start + step]
        total = (total + part.astype(np.float16)).astype(np.float16)
    return total


def answers(weights: Weights, x: NDArray[Any], sums: str) -> NDArray[np.float16]:
    """Return the outputs of the network. `exact` does not round between layers, like a CPU."""
    for number, layer in enumerate(weights, start=1):
        x = product(x, layer, sums)
        if number < len(weights):
            x = np.maximum(x, x.dtype.type(0))
    return x.astype(np.float16)


def differs(actual: NDArray[Any], expected: NDArray[Any], *, same: bool = False) -> str:
    return excess(relative_difference(actual, expected), 1e-3, HALF, same=same)


@pytest.mark.parametrize("sums", ["single", "eight blocks", "blocks of 64"])
@pytest.mark.parametrize(("width", "depth"), [(64, 1), (64, 12), (64, 24), (512, 24), (4096, 2)])
def test_different_sums_are_tolerated_and_different_weights_are_not(
    width: int, depth: int, sums: str
) -> None:
    weights = weights_of(width, depth)
    x = np.random.default_rng(1).normal(size=(16, width)).astype(np.float16)
    expected = answers(weights, x, "exact")
    assert differs(answers(weights, x, sums), expected) == ""
    if sums == "single":
        assert differs(answers(weights_of(width, depth, seed=1), x, sums), expected)
        assert differs(answers(nearby(weights, 0.05), x, sums), expected)


def test_results_of_one_runtime_have_the_strict_tolerance() -> None:
    """With the tolerance for two runtimes, slightly dependent rows would pass."""
    x = np.random.default_rng(1).normal(size=(16, WIDTH)).astype(np.float16)
    expected = answers(weights_of(), x, "exact")
    actual = answers(weights_of(), x, "single")
    assert differs(actual, expected) == ""
    assert "more than 0.0078125" in differs(actual, expected, same=True)


def test_a_single_wrong_number_is_found() -> None:
    expected = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float16)
    actual = expected.copy()
    actual[5, 5] += np.float16(1)
    assert differs(actual, expected).endswith("more than 0.0625")


@pytest.mark.parametrize(("tolerance", "dtype"), [(1e-3, np.float32), (1e-4, np.float64)])
def test_single_and_double_precision_keep_the_given_tolerance(tolerance: float, dtype: Any) -> None:
    difference = np.zeros((64, 64))
    difference[3, 3] = 1.1 * tolerance
    assert excess(difference, tolerance, np.dtype(dtype)) == (
        f"by {1.1 * tolerance:g}, more than {tolerance:g}"
    )


@pytest.mark.parametrize(
    ("depth", "channels", "kernel"), [(2, 256, 4), (50, 32, 3)], ids=["4,096 terms", "50 layers"]
)
def test_convolutions_with_rounding_between_layers_are_tolerated(
    depth: int, channels: int, kernel: int
) -> None:
    """On a CPU, torch rounds after each layer, like a GPU; ONNX Runtime does not."""
    random = np.random.default_rng(0)
    scale = (2 / (channels * kernel**2)) ** 0.5
    shape = (channels, channels, kernel, kernel)
    weights = [(random.normal(size=shape) * scale).astype(np.float16) for _ in range(depth)]
    x = random.normal(size=(8, channels, 6, 6)).astype(np.float16)
    nodes = [helper.make_node("Identity", ["x"], ["z0"])]
    for number in range(depth):
        inputs = [f"z{number}", f"w{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], auto_pad="SAME_UPPER"))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"z{number + 1}"]))
    graph = helper.make_graph(
        nodes, "deep",
        [helper.make_tensor_value_info("x", T.FLOAT16, ["rows", *x.shape[1:]])],
        [helper.make_tensor_value_info(f"z{depth}", T.FLOAT16, ["rows", *x.shape[1:]])],
        [numpy_helper.from_array(layer, f"w{number}") for number, layer in enumerate(weights)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    expected = OnnxRuntime(model.SerializeToString())({"x": x})[f"z{depth}"]

    def found(layers: Weights) -> NDArray[Any]:
        rows = torch.from_numpy(x)
        for layer in layers:
            rows = torch.conv2d(rows, torch.from_numpy(layer), padding="same").relu()
        return np.asarray(rows.numpy())

    assert differs(found(weights), expected) == ""
    assert differs(found(nearby(weights, 0.05)), expected)


# The two files of one network.


def onnx_of(weights: Weights, ends: int, *, softmax: bool = False) -> bytes:
    """Return the network as ONNX. With FP32 `ends`, it casts to half precision and back."""
    nodes: list[NodeProto] = [helper.make_node("Cast", ["x"], ["z0"], to=T.FLOAT16)]
    for number in range(len(weights)):
        last = number == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [f"z{number}", f"w{number}"], [f"m{number}"]))
        kind = "Softmax" if softmax and last else "Identity" if last else "Relu"
        nodes.append(helper.make_node(kind, [f"m{number}"], [f"z{number + 1}"]))
    nodes.append(helper.make_node("Cast", [f"z{len(weights)}"], ["y"], to=ends))
    width = len(weights[0])
    graph = helper.make_graph(
        nodes, "deep",
        [helper.make_tensor_value_info("x", ends, ["rows", width])],
        [helper.make_tensor_value_info("y", ends, ["rows", weights[-1].shape[1]])],
        [numpy_helper.from_array(layer, f"w{number}") for number, layer in enumerate(weights)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(model.SerializeToString())


class Deep(torch.nn.Module):
    """The network as a module."""

    def __init__(self, weights: Weights, *, softmax: bool, single: bool) -> None:
        super().__init__()
        layers = [torch.from_numpy(layer.copy()) for layer in weights]
        self.layers = torch.nn.ParameterList(
            [torch.nn.Parameter(layer, requires_grad=False) for layer in layers]
        )
        self.softmax, self.single = softmax, single

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        x = x.half()
        for layer in self.layers[:-1]:
            x = (x @ layer).relu()
        x = x @ self.layers[-1]
        if self.softmax:
            x = x.softmax(-1)
        return x.float() if self.single else x


def add(
    folder: Path, weights: Weights, others: Weights, ends: int, *, softmax: bool = False
) -> int:
    """Add the ONNX file of a network with the TorchScript file of another; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.onnx").write_bytes(onnx_of(weights, ends, softmax=softmax))
    module = Deep(others, softmax=softmax, single=ends == T.FLOAT).eval()
    example = torch.zeros(
        2, len(weights[0]), dtype=torch.float32 if ends == T.FLOAT else torch.half
    )
    torch.jit.trace(module, example).save(str(folder / "net.pt"))
    rows = np.random.default_rng(1).normal(size=(ROWS, len(weights[0])))
    np.savez(folder / "rows.npz", x=rows.astype(np.float32 if ends == T.FLOAT else np.float16))
    files = ["--onnx", "net.onnx", "--torchscript", "net.pt", "--sample", "rows.npz"]
    arguments = [str(folder / file) if "." in file else file for file in files]
    return main(["add", "net", *arguments, "--repository", str(folder / "models")])


@pytest.mark.parametrize("ends", [T.FLOAT16, T.FLOAT], ids=["FP16", "FP32"])
def test_a_deep_network_in_half_precision_is_added_and_a_different_file_is_refused(
    ends: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_of()
    assert add(tmp_path, weights, weights, ends) == 0, capsys.readouterr()
    package = ModelRepository(tmp_path / "models").get("net")
    assert package.card.batching == "rows"
    for name in package.card.runtimes:
        open_runtime(package, name)
    for others in (weights_of(seed=1), nearby(weights, 0.05), [*weights[:-1], weights[0]]):
        assert add(tmp_path, weights, others, ends) == 1
        assert "its answers are not those of net.onnx" in capsys.readouterr().err


def test_classes_within_the_tolerance_of_half_precision_may_be_swapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runtimes round at different places. Less similar classes must not be swapped."""
    weights = [*weights_of(depth=12)]
    twin = weights[-1][:, :1] + np.random.default_rng(2).normal(size=(WIDTH, 1)) * 1e-3
    weights[-1] = np.concatenate([weights[-1][:, :1], twin, weights[-1][:, 2:4]], 1).astype(HALF)
    assert add(tmp_path, weights, weights, T.FLOAT, softmax=True) == 0, capsys.readouterr()
    (record, *_) = ModelRepository(tmp_path / "models").get("net").card.parity
    assert record.tolerance == f"{HALF_PRECISION:g} absolute"
    swapped = [*weights[:-1], weights[-1][:, [2, 1, 0, 3]]]
    assert add(tmp_path, weights, swapped, T.FLOAT, softmax=True) == 1


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(np.float16, HALF_PRECISION), (ml_dtypes.bfloat16, BFLOAT16), (np.float32, 0)],
)
@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_half_precision_is_found_anywhere_in_a_graph(
    kind: Any, tolerance: float, where: str
) -> None:
    value = numpy_helper.from_array(np.ones(1, kind), "one")
    constant = helper.make_node("Constant", [], ["one"], value=value)
    if where == "branch":
        outputs = [helper.make_tensor_value_info("one", value.data_type, [1])]
        branch = helper.make_graph([constant], "branch", [], outputs)
        constant = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [] if where == "initializer" else [constant], "graph",
        [helper.make_tensor_value_info("x", T.BOOL, [])], [],
        [value] if where == "initializer" else [],
    )  # fmt: skip
    assert half_tolerance(helper.make_model(graph).SerializeToString()) == tolerance


def test_a_recorded_prediction_in_half_precision_holds_on_another_runtime() -> None:
    """The prediction of another network does not hold."""
    weights = weights_of()
    x = np.random.default_rng(3).normal(size=(2, WIDTH)).astype(np.float16)
    recorded = answers(weights, x, "exact")
    outputs = [TensorSpec(name="y", datatype="FP16", shape=(-1, WIDTH), meaning="out")]
    example = Example(
        inputs={"x": RecordedTensor.of("FP16", x)},
        outputs={"y": RecordedTensor.of("FP16", recorded)},
        tolerance=1e-3,
    )

    def computing(others: Weights) -> Any:
        def compute(inputs: Arrays) -> Arrays:
            return {"y": answers(others, inputs["x"], "eight blocks")}

        return compute

    assert example_mismatch(computing(weights), example, outputs) is None
    for others in (weights_of(seed=1), nearby(weights, 0.05)):
        mismatch = example_mismatch(computing(others), example, outputs)
        assert mismatch is not None
        assert mismatch.startswith("y differs from the recorded prediction by ")
