"""The networks of the attacks, as ONNX files: none of them is large, and each has one weakness."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 512
"""Features of a row of the network `subnormals`."""
WIDE_COLUMNS = 4096
"""Outputs of a row of the network `wide`."""
_OPSET = 17
_IR_VERSION = 8


def save(name: str, folder: Path) -> Path:
    """Write the network `name` to a file in `folder`, and return the file."""
    nodes, input_, output, constants = NETWORKS[name]()
    graph = helper.make_graph(
        nodes,
        name,
        [input_],
        [output],
        initializer=[numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


Parts = tuple[Sequence[onnx.NodeProto], Any, Any, Mapping[str, Any]]
"""The nodes, the input, the output and the constants of a graph."""


def _subnormals() -> Parts:
    """Return 512-512-512-10 with ReLU and without biases: subnormal rows stay subnormal."""
    random, sizes = np.random.default_rng(0), (WIDTH, WIDTH, WIDTH, 10)
    nodes, weights, value = [], {}, "x"
    for index, (inside, outside) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        weight = random.standard_normal((inside, outside)) * np.sqrt(2 / inside)
        weights[f"w{index}"] = weight.astype(np.float32)
        linear = "y" if last else f"linear{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [linear]))
        if not last:
            value = f"relu{index}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    return nodes, _floats("x", ["N", WIDTH]), _floats("y", ["N", 10]), weights


def _wide() -> Parts:
    """Return a network with 4,096 outputs for each number."""
    weight = np.random.default_rng(0).standard_normal((1, WIDE_COLUMNS)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return nodes, _floats("x", ["N", 1]), _floats("y", ["N", WIDE_COLUMNS]), {"w": weight}


def _free() -> Parts:
    """Return the tanh of each number of a row of any length, averaged."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["tanh"]),
        helper.make_node("ReduceMean", ["tanh"], ["y"], axes=[1], keepdims=1),
    ]
    return nodes, _floats("x", ["N", "L"]), _floats("y", ["N", 1]), {}


def _constant_of_shape() -> Parts:
    """Return the sum of `n` ones, which are written to the memory."""
    single = numpy_helper.from_array(np.array([1], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["ones"], value=single),
        helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=1),
        helper.make_node("Reshape", ["sum", "shape"], ["y"]),
    ]
    n = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    return nodes, n, _floats("y", [1, 1]), {"shape": np.array([1, 1])}


def _range() -> Parts:
    """Return `n`, plus the sum of the numbers below the largest `n`."""
    nodes = [
        helper.make_node("ReduceMax", ["n"], ["end"], keepdims=0),
        helper.make_node("Range", ["zero", "end", "one"], ["numbers"]),
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
        helper.make_node("Add", ["n", "sum"], ["y"]),
    ]
    n = helper.make_tensor_value_info("n", TensorProto.INT64, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, ["N", 1])
    return nodes, n, y, {"zero": np.array(0), "one": np.array(1)}


def _floats(name: str, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


NETWORKS: Mapping[str, Callable[[], Parts]] = {
    "subnormals": _subnormals,
    "wide": _wide,
    "free": _free,
    "constant-of-shape": _constant_of_shape,
    "range": _range,
}
