"""Graphs of other exporters are put into a form that is served, and compute the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file

from models.adding.add import add
from models.runtimes.runtime import OnnxRuntime
from models.sources.repairs import repaired

ROWS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def zipmap(**keys: Any) -> bytes:
    """Return scores of two classes with a ZipMap behind them, as skl2onnx writes it by default."""
    node = helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", **keys)
    product = helper.make_node("MatMul", ["x", "w"], ["scores"])
    key = T.STRING if "classlabels_strings" in keys else T.INT64
    element = helper.make_map_type_proto(key, helper.make_tensor_type_proto(T.FLOAT, []))
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(element))
    weights = helper.make_tensor("w", T.FLOAT, [3, 2], np.arange(6) / 8)
    graph = helper.make_graph(
        [product, node],
        "scores",
        [helper.make_tensor_value_info("x", T.FLOAT, ["batch", 3])],
        [maps],
        [weights],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        ({"classlabels_strings": ["no", "yes"]}, ("no", "yes")),
        ({"classlabels_int64s": [3, 7]}, ("3", "7")),
    ],
)
def test_a_zipmap_is_taken_out_and_its_keys_are_the_labels(
    keys: dict[str, Any], labels: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(zipmap(**keys))
    package = add(tmp_path / "packages", "net", tmp_path / "net.onnx")
    (output,) = package.card.outputs
    assert (output.name, output.to_text(), output.labels) == ("maps", "FP32 [-1, 2]", labels)
    found = OnnxRuntime(package.load("model.onnx"))({"x": ROWS})["maps"]
    np.testing.assert_allclose(found, ROWS @ (np.arange(6).reshape(3, 2) / 8), rtol=1e-5, atol=1e-6)


def test_other_labels_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(zipmap(classlabels_int64s=[3, 7]))
    package = add(tmp_path / "packages", "net", tmp_path / "net.onnx", labels=["a", "b"])
    assert package.card.outputs[0].labels == ("a", "b")


def test_a_right_graph_is_not_changed() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    right = onnx_file([node], [("x", T.FLOAT, ["n", 3])], [("y", T.FLOAT, ["n", 3])])
    assert repaired(right) == (right, ())
    fixed = onnx_file([node], [("x", T.FLOAT, [2, 3])], [("y", T.FLOAT, [2, 3])])
    assert repaired(fixed) == (fixed, ())
    assert repaired(b"no graph") == (b"no graph", ())


def test_a_first_dimension_is_cleared_only_where_the_batch_is_free() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    wrong = onnx_file([node], [("x", T.FLOAT, ["n", 3])], [("y", T.FLOAT, [1, 3])])
    content, _ = repaired(wrong)
    first, second = onnx.load_from_string(content).graph.output[0].type.tensor_type.shape.dim
    assert not first.HasField("dim_value")
    assert second.dim_value == 3
