"""Networks that fail for one input, each in its own way, and are correct for all others.

Two never fail: one takes long, and one takes much memory.

All map `x`, FP32 [-1, 1], to `y` = 2 x + 1. The failing input is `VICTIM`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from models.package.model_package import ModelPackage, write_package

VICTIM = 13.0
_LONG = 10**11  # iterations of a loop that outlast every test

_node = helper.make_node
_IS_VICTIM = _node("Equal", ["x", "victim"], ["is_victim"])


def answer(x: float) -> float:
    """Return the output of each network for an input on which it does not fail."""
    return 2 * x + 1


def write_sound(root: Path, name: str) -> ModelPackage:
    """Write a network that is correct for every input."""
    return _write(root, name, [_node("Identity", ["line"], ["y"])])


def write_raising(root: Path, name: str) -> ModelPackage:
    """Write a network that raises: it looks up a missing entry."""
    nodes = [
        _IS_VICTIM,
        _node("Cast", ["is_victim"], ["index"], to=TensorProto.INT64),
        _node("Gather", ["zeros", "index"], ["zero"]),
        _node("Add", ["line", "zero"], ["y"]),
    ]
    return _write(root, name, nodes)


def write_hanging(root: Path, name: str) -> ModelPackage:
    """Write a network that does not end in time: it counts to a very large number."""
    nodes = [
        _IS_VICTIM,
        _node("Cast", ["is_victim"], ["index"], to=TensorProto.INT64),
        _node("ReduceMax", ["index"], ["any"], keepdims=0),
        _node("Mul", ["any", "long"], ["steps"]),
        *_counting(),
    ]
    return _write(root, name, nodes)


def write_slow(root: Path, name: str, steps: int) -> ModelPackage:
    """Write a network that computes this many iterations of a loop per row, on one thread."""
    nodes = [
        _node("Shape", ["x"], ["rows"], start=0, end=1),
        _node("Squeeze", ["rows"], ["count"]),
        _node("Mul", ["count", "each"], ["steps"]),
        *_counting(),
    ]
    return _write(root, name, nodes, {"each": np.array(steps, np.int64)})


def write_large(root: Path, name: str, row_bytes: int) -> ModelPackage:
    """Write a network that needs this much memory per row."""
    nodes = [
        _node("Expand", ["line", "wide"], ["expanded"]),
        _node("ReduceMax", ["expanded", "second"], ["y"]),
    ]
    wide, second = np.array([1, row_bytes // 4], np.int64), np.array([1], np.int64)
    return _write(root, name, nodes, {"wide": wide, "second": second})


def write_undefined(root: Path, name: str, *, limits: bool) -> ModelPackage:
    """Write a network that returns NaN; with `limits`, its card accepts -100 to 100."""
    nodes = [_IS_VICTIM, _node("Where", ["is_victim", "nan", "line"], ["y"])]
    return _write(root, name, nodes, limits=limits)


def write_miscounting(root: Path, name: str) -> ModelPackage:
    """Write a network that leaves out rows of its output."""
    nodes = [
        _IS_VICTIM,
        _node("Not", ["is_victim"], ["kept"]),
        _node("Reshape", ["kept", "flat"], ["kept_rows"]),
        _node("Compress", ["line", "kept_rows"], ["y"], axis=0),
    ]
    return _write(root, name, nodes)


def _counting() -> list[NodeProto]:
    """Return a loop of this many iterations, which adds zero to the output."""
    body = helper.make_graph(
        [_node("Identity", ["go"], ["go_on"]), _node("Mul", ["held", "held"], ["next"])],
        "count",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    return [
        _node("Loop", ["steps", "yes", "nought"], ["zero"], body=body),
        _node("Add", ["line", "zero"], ["y"]),
    ]


def _write(
    root: Path,
    name: str,
    nodes: Sequence[NodeProto],
    more: Mapping[str, NDArray[Any]] | None = None,
    *,
    limits: bool = False,
) -> ModelPackage:
    constants: dict[str, NDArray[Any]] = {
        "two": np.array([2], np.float32),
        "one": np.array([1], np.float32),
        "victim": np.array([VICTIM], np.float32),
        "zeros": np.zeros(1, np.float32),
        "nought": np.zeros(1, np.float32),
        "nan": np.array([np.nan], np.float32),
        "long": np.array(_LONG, np.int64),
        "yes": np.array(True),
        "flat": np.array([-1], np.int64),
        **(more or {}),
    }
    line = [_node("Mul", ["x", "two"], ["doubled"]), _node("Add", ["doubled", "one"], ["line"])]
    every = [*line, *nodes]
    used = {name for node in every for name in node.input}
    graph = helper.make_graph(
        every,
        "faulty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["answers", 1])],
        [numpy_helper.from_array(value, key) for key, value in constants.items() if key in used],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    example = np.array([[3]], np.float32)
    least, most = (-100.0, 100.0) if limits else (None, None)
    card = ModelCard(
        name=name,
        version="1",
        summary="A network that fails for one input.",
        task="regression",
        inputs=(
            TensorSpec(
                name="x", datatype="FP32", shape=(-1, 1), meaning="in", minimum=least, maximum=most
            ),
        ),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="out"),),
        example=Example(
            inputs={"x": RecordedTensor.of("FP32", example)},
            outputs={"y": RecordedTensor.of("FP32", example * 2 + 1)},
            tolerance=1e-6,
        ),
        intended_use="Tests.",
    )
    return write_package(root, card, {"model.onnx": model.SerializeToString()})
