"""A network whose output is much larger than its input."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from models.package.model_package import ModelPackage, write_package

REPEATS = 4096


def write_wide(root: Path, name: str) -> ModelPackage:
    """Write a network that repeats each row of `x`, FP32 [-1, -1], `REPEATS` times, as `y`."""
    graph = helper.make_graph(
        [helper.make_node("Tile", ["x", "repeats"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "repeated"])],
        [numpy_helper.from_array(np.array([1, REPEATS], np.int64), "repeats")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    example = np.array([[3]], np.float32)
    card = ModelCard(
        name=name,
        version="1",
        summary="A network that repeats its input.",
        task="regression",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, -1), meaning="in"),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, -1), meaning="out"),),
        batching="none",
        example=Example(
            inputs={"x": RecordedTensor.of("FP32", example)},
            outputs={"y": RecordedTensor.of("FP32", np.repeat(example, REPEATS, axis=1))},
            tolerance=1e-6,
        ),
        intended_use="Tests.",
    )
    return write_package(root, card, {"model.onnx": model.SerializeToString()})
