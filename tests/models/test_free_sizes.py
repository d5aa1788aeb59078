"""Networks that are right at one length alone are found, and the sizes that were tried are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file
from torch import Tensor, nn

from models.add import add
from models.foreign import AddError
from models.free_sizes import other_sizes
from models.runtimes import OnnxRuntime

node = helper.make_node


def mean_of_any_length(tmp_path: Path) -> Path:
    file = tmp_path / "mean.onnx"
    axis = np.array([1], np.int64)
    nodes = [node("ReduceMean", ["x", "axis"], ["y"], keepdims=0)]
    inputs: Any = [("x", T.FLOAT, ["batch", "length", 3])]
    file.write_bytes(onnx_file(nodes, inputs, [("y", T.FLOAT, ["batch", 3])], axis=axis))
    return file


class Mean(nn.Module):
    """The same; traced, it divides by the length of its example."""

    def forward(self, x: Tensor) -> Tensor:
        """Add up the steps, and divide by how many there are."""
        return x.sum(1) / int(x.shape[1])


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_was_traced_at_one_length_is_found(tmp_path: Path) -> None:
    onnx, traced = mean_of_any_length(tmp_path), tmp_path / "traced.pt"
    length = 32  # that of random rows: at this one both are equal
    torch.jit.save(torch.jit.trace(Mean().eval(), torch.ones(2, length, 3)), traced)
    with pytest.raises(AddError, match=r"traced\.pt: .*torch\.jit\.script"):
        add(tmp_path / "repository", "net", onnx, torchscript=traced)
    scripted = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.script(Mean().eval()), scripted)
    package = add(tmp_path / "repository", "net", onnx, torchscript=scripted)
    assert package.card.runtimes == ("onnx", "torchscript")
    told = "Of x, only rows of [32, 3], [1, 3], [33, 3], [48, 3], [64, 3] were tried."
    assert told in package.card.limits


def test_rows_that_depend_on_each_other_at_another_length_are_found(tmp_path: Path) -> None:
    """At the length of the sample it adds nothing."""
    nodes = [
        node("Slice", ["x", "start", "end", "axis"], ["later"]),
        node("ReduceSum", ["later"], ["sum"], keepdims=0),
        node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        node("Add", ["mean", "sum"], ["y"]),
    ]
    constants = {"start": np.array([40]), "end": np.array([2**31 - 1]), "axis": np.array([1])}
    inputs: Any = [("x", T.FLOAT, ["batch", "length", 3])]
    file = tmp_path / "late.onnx"
    file.write_bytes(onnx_file(nodes, inputs, [("y", T.FLOAT, ["batch", 3])], **constants))
    card = add(tmp_path / "repository", "net", file).card
    assert card.batching == "none"


def test_axes_that_depend_on_the_length_are_found(tmp_path: Path) -> None:
    """At 100 it reduces over the rows."""
    special = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Equal", ["length", "special"], ["is_special"]),
        node("Cast", ["is_special"], ["off"], to=T.INT64),
    ]
    nodes = [
        *special,
        node("Sub", ["one", "off"], ["axis"]),
        node("ReduceMax", ["x", "axis"], ["largest"]),
        node("Sub", ["x", "largest"], ["y"]),
    ]
    shape: Any = ["batch", "length"]
    constants = {"special": np.array([48]), "one": np.array([1])}
    file = tmp_path / "axes.onnx"
    file.write_bytes(
        onnx_file(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], **constants)
    )
    assert add(tmp_path / "repository", "net", file).card.batching == "none"


def test_windows_across_rows_are_found(tmp_path: Path) -> None:
    """One row of 48 numbers makes no windows of 32, and two rows make three."""
    nodes = [
        node("Reshape", ["x", "windows"], ["parts"]),
        node("Softmax", ["parts"], ["weights"], axis=-1),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["weights", "shape"], ["y"]),
    ]
    shape: Any = ["batch", "length"]
    file = tmp_path / "windows.onnx"
    content = onnx_file(
        nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], windows=np.array([-1, 32])
    )
    file.write_bytes(content)
    card = add(tmp_path / "repository", "net", file).card
    assert card.batching == "none"
    assert "it fails on one row and answers [840, " in card.limits[-1]


def test_dimensions_of_one_name_have_one_size(tmp_path: Path) -> None:
    shapes: Any = ["batch", "length"]
    content = onnx_file(
        [node("Mul", ["x", "mask"], ["y"])],
        [("x", T.FLOAT, shapes), ("mask", T.FLOAT, shapes)], [("y", T.FLOAT, shapes)],
    )  # fmt: skip
    network = OnnxRuntime(content)
    rows = {name: np.arange(10, dtype=np.float32).reshape(2, 5) for name in ("x", "mask")}
    found = other_sizes(network, network.inputs, rows)
    assert [one["x"].shape for one in found] == [(2, 1), (2, 6), (2, 7), (2, 10)]
    assert all(one["x"].shape == one["mask"].shape for one in found)
    np.testing.assert_array_equal(found[1]["x"], [[0, 1, 2, 3, 4, 0], [5, 6, 7, 8, 9, 5]])


def test_sizes_that_the_network_does_not_take_are_left_out(tmp_path: Path) -> None:
    content = onnx_file(
        [node("Reshape", ["x", "pairs"], ["y"])], [("x", T.FLOAT, ["batch", "length"])],
        [("y", T.FLOAT, ["batch", "half", 2])], pairs=np.array([0, -1, 2]),
    )  # fmt: skip
    network = OnnxRuntime(content)
    found = other_sizes(network, network.inputs, {"x": np.ones((2, 6), np.float32)})
    assert [one["x"].shape for one in found] == [(2, 12)]


def test_nothing_is_free_where_the_graph_states_all(tmp_path: Path) -> None:
    content = onnx_file([node("Relu", ["x"], ["y"])], [("x", T.FLOAT, ["batch", 4])],
                        [("y", T.FLOAT, ["batch", 4])])  # fmt: skip
    network = OnnxRuntime(content)
    assert other_sizes(network, network.inputs, {"x": np.ones((2, 4), np.float32)}) == []
