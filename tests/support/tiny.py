"""Small hand-made packages, which the tests of the service serve."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.kinds.tensor_spec import Datatype, TensorSpec
from models.package.card import (
    Example,
    ModelCard,
    RecordedTensor,
    RuntimeName,
)
from models.package.model_package import ModelPackage, write_package

Takes = Literal["x", "point", "image"]
LABELS = ("left", "right")
WEIGHTS = np.random.default_rng(0).normal(0, 1e-3, (784, 10)).astype(np.float32)


class _Line(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + 1


class _Side(nn.Module):
    def forward(self, point: Tensor) -> Tensor:
        return point.softmax(dim=1)


class _Digit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(WEIGHTS.copy()))

    def forward(self, image: Tensor) -> Tensor:
        return (image.reshape(-1, 784).float() @ self.weights).softmax(dim=1)


class _Kind(NamedTuple):
    datatype: Datatype
    shape: tuple[int, ...]
    output: str
    width: int
    network: type[nn.Module]
    labels: tuple[str, ...] | None


_KINDS: Mapping[Takes, _Kind] = {
    "x": _Kind("FP32", (-1, 1), "y", 1, _Line, None),
    "point": _Kind("FP32", (-1, 2), "probabilities", 2, _Side, LABELS),
    "image": _Kind(
        "UINT8", (-1, 28, 28), "probabilities", 10, _Digit, tuple(str(digit) for digit in range(10))
    ),
}


def answer(takes: Takes, rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return the output of a tiny package for these rows, computed by numpy."""
    if takes == "x":
        with np.errstate(over="ignore"):
            return np.asarray(rows, np.float32) * 2 + 1
    logits = rows if takes == "point" else rows.reshape(-1, 784).astype(np.float32) @ WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def write_tiny(
    root: Path,
    name: str,
    takes: Takes = "x",
    *,
    version: str = "1",
    runtimes: tuple[RuntimeName, ...] = ("onnx", "torchscript"),
    most_rows: int | None = None,
) -> ModelPackage:
    """Write a package that computes `answer`.

    Args:
        root: the repository.
        name: of the package.
        takes: its input.
        version: of the package.
        runtimes: its files.
        most_rows: a larger batch fails in ONNX Runtime.
    """
    kind = _KINDS[takes]
    row = {"x": [[3]], "point": [[0.5, -1]], "image": np.arange(784).reshape(1, 28, 28) % 256}
    example = np.asarray(row[takes], np.uint8 if takes == "image" else np.float32)
    card = ModelCard(
        name=name,
        version=version,
        summary=f"A tiny network that takes {takes}.",
        task="regression" if takes == "x" else "classification",
        inputs=(TensorSpec(name=takes, datatype=kind.datatype, shape=kind.shape, meaning="in"),),
        outputs=(
            TensorSpec(
                name=kind.output,
                datatype="FP32",
                shape=(-1, kind.width),
                meaning="out",
                labels=kind.labels,
            ),
        ),
        example=Example(
            inputs={takes: RecordedTensor.of(kind.datatype, example)},
            outputs={kind.output: RecordedTensor.of("FP32", answer(takes, example))},
            tolerance=1e-3,
        ),
        intended_use="Tests.",
    )
    files = {}
    if "onnx" in runtimes:
        files["model.onnx"] = _onnx(takes, kind, most_rows)
    if "torchscript" in runtimes:
        files["model.pt"] = _torchscript(kind)
    return write_package(root, card, files)


def _torchscript(kind: _Kind) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(kind.network().eval()), stream)
    return stream.getvalue()


def _onnx(takes: Takes, kind: _Kind, most_rows: int | None) -> bytes:
    constants: dict[str, NDArray[Any]] = {
        "two": np.array([2], np.float32),
        "one": np.array([1], np.float32),
        "flat": np.array([-1, 784], np.int64),
        "weights": WEIGHTS,
        "first": np.array(0, np.int64),
        "only": np.array(1, np.int64),
        "zeros": np.zeros(most_rows or 1, np.float32),
    }
    nodes = {
        "x": [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Add", ["doubled", "one"], ["found"]),
        ],
        "point": [helper.make_node("Softmax", ["point"], ["found"], axis=1)],
        "image": [
            helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["grey", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["found"], axis=1),
        ],
    }[takes]
    if most_rows is None:
        nodes[-1].output[0] = kind.output
    else:  # a look-up by the last row's index fails for more rows
        nodes += [
            helper.make_node("Shape", [takes], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["rows"]),
            helper.make_node("Sub", ["rows", "only"], ["last"]),
            helper.make_node("Gather", ["zeros", "last"], ["zero"]),
            helper.make_node("Add", ["found", "zero"], [kind.output]),
        ]
    used = {name for node in nodes for name in node.input}
    element = TensorProto.UINT8 if kind.datatype == "UINT8" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(takes, element, ["rows", *kind.shape[1:]])],
        [helper.make_tensor_value_info(kind.output, TensorProto.FLOAT, ["rows", kind.width])],
        [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
