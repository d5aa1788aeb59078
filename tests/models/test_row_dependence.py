"""Rows that depend on each other are found, also where the given rows do not show it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file

from models.add import add
from models.foreign import AddError

node = helper.make_node


def added(tmp_path: Path, nodes: list[Any], rows: Any, **constants: NDArray[Any]) -> None:
    """Add a graph of `x` and `y`, [N, 4] each, with these rows as its sample."""
    file, sample = tmp_path / "model.onnx", tmp_path / "sample.npz"
    values: Any = ("batch", 4)
    x, y = ("x", T.FLOAT, list(values)), ("y", T.FLOAT, list(values))
    file.write_bytes(onnx_file(nodes, [x], [y], **constants))
    np.savez(sample, x=rows)
    add(tmp_path / "repository", "net", file, sample=sample)


EQUAL = [np.ones((8, 4), np.float32), np.zeros((2, 4), np.float32)]


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
def test_one_quantization_scale_for_the_whole_batch_is_found(rows: Any, tmp_path: Path) -> None:
    quantize = node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"])
    back = node("DequantizeLinear", ["q", "scale", "zero"], ["y"])
    with pytest.raises(AddError, match="depends on the rows beside it"):
        added(tmp_path, [quantize, back], rows)


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
def test_a_scale_that_depends_on_the_largest_of_the_batch_is_found(
    rows: Any, tmp_path: Path
) -> None:
    nodes = [
        node("ReduceMax", ["x"], ["largest"], keepdims=0),
        node("Greater", ["largest", "one"], ["is_large"]),
        node("Div", ["x", "white"], ["small"]),
        node("Where", ["is_large", "small", "x"], ["y"]),
    ]
    constants = {"one": np.array(1, np.float32), "white": np.array(255, np.float32)}
    with pytest.raises(AddError, match="depends on the rows beside it"):
        added(tmp_path, nodes, rows, **constants)


def test_a_lag_beyond_the_given_rows_is_found(tmp_path: Path) -> None:
    nodes = [
        node("Slice", ["padded", "start", "end", "start"], ["lagged"]),
        node("Add", ["x", "lagged"], ["y"]),
    ]
    pads = np.array([168, 0, 0, 0], np.int64)
    pad, shape = node("Pad", ["x", "pads"], ["padded"]), node("Shape", ["x"], ["end"], end=1)
    constants = {"pads": pads, "start": np.array([0], np.int64)}
    nodes[0] = node("Slice", ["padded", "start", "end"], ["lagged"])
    with pytest.raises(AddError, match="depends on the rows beside it"):
        added(tmp_path, [pad, shape, *nodes], np.ones((2, 4), np.float32), **constants)


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
def test_rows_that_are_computed_for_themselves_are_proved(rows: Any, tmp_path: Path) -> None:
    added(tmp_path, [node("Softmax", ["x"], ["y"], axis=1)], rows)


def test_a_varied_row_that_the_network_cannot_compute_says_nothing(tmp_path: Path) -> None:
    added(tmp_path, [node("Log", ["x"], ["y"])], np.ones((3, 4), np.float32))
