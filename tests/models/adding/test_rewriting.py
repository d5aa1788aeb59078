"""Graphs that ONNX Runtime computes in another way after its optimizations."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file

from models.adding.add import add
from models.command_line import main
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import OnnxRuntime

node = helper.make_node


def padded_pool() -> bytes:
    """Return a graph that pads with zeros before a maximum, which ONNX Runtime fuses wrongly."""
    shape: Any = ["batch", 1, 2, 2]
    nodes = [
        node("Pad", ["x", "pads"], ["padded"]),
        node("MaxPool", ["padded"], ["y"], kernel_shape=[2, 2]),
    ]
    return onnx_file(
        nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, None)],
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )  # fmt: skip


def test_a_graph_that_is_optimized_wrongly_is_computed_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(padded_pool())
    package = add(tmp_path / "repository", "net", file)
    assert not package.card.optimized
    assert package.card.batching == "rows"
    assert "as it is written, since ONNX Runtime computes other outputs" in package.card.limits[-1]
    x = -np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    expected = [[0, 0, 0], [0, -1, 0], [0, 0, 0]]
    actual = open_runtime(package, "onnx")({"x": x})["y"]
    np.testing.assert_array_equal(actual, [[expected]])


def test_the_command_says_that_a_graph_is_not_optimized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(padded_pool())
    assert main(["add", "net", "--onnx", str(file), "--repository", str(tmp_path / "all")]) == 0
    assert "  optimizations: none, since ONNX Runtime" in capsys.readouterr().out


def test_another_graph_is_optimized(tmp_path: Path) -> None:
    file = tmp_path / "network.onnx"
    shape: Any = ["batch", 4]
    file.write_bytes(
        onnx_file([node("Relu", ["x"], ["y"])], [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)])
    )
    assert add(tmp_path / "repository", "net", file).card.optimized


def test_weights_of_four_bits_do_not_round_the_rows() -> None:
    """By default, ONNX Runtime rounds the rows to eight bits: 0.7 % of the largest output."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 255, 512, np.uint8)
    weights = onnx.TensorProto(
        name="q", data_type=T.INT4, dims=[64, 16], raw_data=numbers.tobytes()
    )
    scales = random.random((2, 16), np.float32)
    nodes = [
        node("DequantizeLinear", ["q", "scales"], ["w"], axis=0, block_size=32),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", T.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", T.FLOAT, ["batch", 16])
    constants = [weights, onnx.numpy_helper.from_array(scales, "scales")]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    rows = {"x": random.normal(size=(9, 64)).astype(np.float32)}
    content = model.SerializeToString()
    actual = OnnxRuntime(content)(rows)["y"]
    expected = OnnxRuntime(content, optimized=False)(rows)["y"]
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
