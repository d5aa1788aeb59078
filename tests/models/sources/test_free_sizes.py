"""Networks that are right at one length alone are found; the card lists the sizes of the check."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file
from torch import Tensor, nn

from models.adding.add import add
from models.errors import AddError
from models.package.card import ModelCard
from models.runtimes.runtime import OnnxRuntime
from models.sources.free_sizes import other_sizes

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
    limit = (
        "Of x, rows of [32, 3], [1, 3], [33, 3], [48, 3], [64, 3], [16, 3], [2, 3], [4, 3], [8, "
    )
    assert package.card.limits[-1].startswith(limit)
    assert package.card.limits[-1].endswith("with rows of other sizes is computed alone.")
    assert {"x": (512, 3)} in package.card.batched_shapes
    assert len(package.card.batched_shapes) == 12


def lengths(card: ModelCard) -> set[int]:
    """The lengths that are batched."""
    return {shapes["x"][0] for shapes in card.batched_shapes}


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
    """At 48 it reduces over the rows."""
    special = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Equal", ["length", "special"], ["is_special"]),
        node("Cast", ["is_special"], ["off"], to=T.INT64),
    ]
    nodes = [
        *special,
        node("Sub", ["one", "off"], ["axis"]),
        node("ReduceMean", ["x", "axis"], ["mean"]),
        node("Sub", ["x", "mean"], ["y"]),
    ]
    shape: Any = ["batch", "length"]
    constants = {"special": np.array([48]), "one": np.array([1])}
    file = tmp_path / "axes.onnx"
    file.write_bytes(
        onnx_file(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], **constants)
    )
    card = add(tmp_path / "repository", "net", file).card
    assert lengths(card) == {1, 2, 4, 8, 16, 32, 33, 64, 128, 256, 512}
    assert card.limits[-1].startswith("Rows of [48] of x are not batched: ReduceMean (mean)")


def test_an_operand_whose_shape_depends_on_the_length_is_found(tmp_path: Path) -> None:
    """At length 100 it has seven rows, which broadcast along a batch of one or of seven."""
    nodes = [
        node("Shape", ["x"], ["length"], start=1),
        node("Equal", ["length", "special"], ["is_special"]),
        node("Where", ["is_special", "seven", "one"], ["sized"]),
        node("Squeeze", ["sized"], ["count"]),
        node("Range", ["zero", "count", "step"], ["steps"]),
        node("Cast", ["steps"], ["numbers"], to=T.FLOAT),
        node("Unsqueeze", ["numbers", "one"], ["column"]),
        node("Add", ["x", "column"], ["wide"]),
        node("Shape", ["x"], ["rows"], end=1),
        node("Slice", ["wide", "first", "rows"], ["y"]),
    ]
    shape: Any = ["batch", "length"]
    constants = {
        "special": np.array([100]), "seven": np.array([7]), "one": np.array([1]),
        "first": np.array([0]), "zero": np.array(0), "step": np.array(1),
    }  # fmt: skip
    file = tmp_path / "operand.onnx"
    file.write_bytes(
        onnx_file(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], **constants)
    )
    card = add(tmp_path / "repository", "net", file).card
    assert card.batching == "rows"
    assert 100 not in lengths(card)


def test_a_mask_of_the_length_of_its_sequence_is_none_of_these(tmp_path: Path) -> None:
    """As causal attention has: places up to the length, compared with each other."""
    nodes = [
        node("Shape", ["x"], ["sizes"], start=1),
        node("Squeeze", ["sizes"], ["length"]),
        node("Range", ["zero", "length", "step"], ["places"]),
        node("Unsqueeze", ["places", "first"], ["line"]),
        node("Unsqueeze", ["line", "first"], ["mask"]),
        node("Greater", ["mask", "three"], ["late"]),
        node("Unsqueeze", ["x", "second"], ["column"]),
        node("Where", ["late", "none", "column"], ["kept"]),
        node("ReduceSum", ["kept", "second"], ["y"], keepdims=0),
    ]
    shape: Any = ["batch", "length"]
    constants = {
        "zero": np.array(0), "step": np.array(1), "three": np.array(3),
        "first": np.array([0]), "second": np.array([1]), "none": np.array(0, np.float32),
    }  # fmt: skip
    file = tmp_path / "mask.onnx"
    file.write_bytes(
        onnx_file(nodes, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], **constants)
    )
    card = add(tmp_path / "repository", "net", file).card
    assert card.batching == "rows", card.limits


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
    assert lengths(card) == {32, 64, 128, 256, 512}


def test_dimensions_of_one_name_have_one_size(tmp_path: Path) -> None:
    shapes: Any = ["batch", "length"]
    content = onnx_file(
        [node("Mul", ["x", "mask"], ["y"])],
        [("x", T.FLOAT, shapes), ("mask", T.FLOAT, shapes)], [("y", T.FLOAT, shapes)],
    )  # fmt: skip
    network = OnnxRuntime(content)
    rows = {name: np.arange(10, dtype=np.float32).reshape(2, 5) for name in ("x", "mask")}
    resized_rows = other_sizes(network, network.inputs, rows)
    sizes = [1, 6, 7, 10, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [rows_of_size["x"].shape for rows_of_size in resized_rows] == [
        (2, size) for size in sizes
    ]
    assert all(
        rows_of_size["x"].shape == rows_of_size["mask"].shape for rows_of_size in resized_rows
    )
    np.testing.assert_array_equal(resized_rows[1]["x"], [[0, 1, 2, 3, 4, 0], [5, 6, 7, 8, 9, 5]])


def test_sizes_that_the_network_does_not_take_are_left_out(tmp_path: Path) -> None:
    content = onnx_file(
        [node("Reshape", ["x", "pairs"], ["y"])], [("x", T.FLOAT, ["batch", "length"])],
        [("y", T.FLOAT, ["batch", "half", 2])], pairs=np.array([0, -1, 2]),
    )  # fmt: skip
    network = OnnxRuntime(content)
    resized_rows = other_sizes(network, network.inputs, {"x": np.ones((2, 6), np.float32)})
    assert [rows_of_size["x"].shape[1] for rows_of_size in resized_rows] == [
        12,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
        256,
        512,
    ]


def test_nothing_is_free_where_the_graph_states_all(tmp_path: Path) -> None:
    content = onnx_file([node("Relu", ["x"], ["y"])], [("x", T.FLOAT, ["batch", 4])],
                        [("y", T.FLOAT, ["batch", 4])])  # fmt: skip
    network = OnnxRuntime(content)
    assert other_sizes(network, network.inputs, {"x": np.ones((2, 4), np.float32)}) == []


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


TAIL = [
    node("Slice", ["x", "far", "end", "first"], ["tail"]),
    node("Slice", ["x", "zero", "first", "first"], ["column"]),
    node("Concat", ["tail", "column"], ["longer"], axis=1),
    node("Shape", ["tail"], ["beyond"], start=1),
    node("Shape", ["longer"], ["count"], start=1),
    node("Shape", ["x"], ["shape"]),
    node("Shape", ["x"], ["rows"], end=1),
]
"""`beyond` is the length less 600, or 0: 0 at every length that is tried; `count` is one more."""
MIXED_BEYOND: dict[str, list[Any]] = {
    "rows joined": [
        node("Concat", ["beyond", "minus"], ["sizes"], axis=0),
        node("Reshape", ["x", "sizes"], ["joined"]),
        node("Softmax", ["joined"], ["weights"], axis=-1),
        node("Reshape", ["weights", "shape"], ["y"]),
    ],
    "a table broadcast over the rows": [
        node("Slice", ["table", "zero", "count"], ["lines"]),
        node("Add", ["x", "lines"], ["wide"]),
        node("Slice", ["wide", "zero", "rows"], ["y"]),
    ],
    "the rows' axis resized": [
        node("Mul", ["rows", "count"], ["many"]),
        node("Concat", ["many", "first"], ["sizes"], axis=0),
        node("Resize", ["column", "", "", "sizes"], ["resized"], mode="nearest"),
        node("Slice", ["resized", "zero", "rows"], ["cut"]),
        node("Add", ["x", "cut"], ["y"]),
    ],
    "rows picked": [
        node("Unsqueeze", ["x", "zero"], ["wide"]),
        node("Slice", ["places", "zero", "count", "first"], ["picked"]),
        node("GatherND", ["wide", "picked"], ["found"]),
        node("Add", ["x", "found"], ["sum"]),
        node("Reshape", ["sum", "shape"], ["y"]),
    ],
    "an axis that is the rows'": [
        node("Greater", ["beyond", "zero"], ["is_long"]),
        node("Where", ["is_long", "zero", "first"], ["axis"]),
        node("Unsqueeze", ["x", "axis"], ["wide"]),
        node("Softmax", ["wide"], ["weights"], axis=1),
        node("Reshape", ["weights", "shape"], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED_BEYOND)
def test_a_request_of_a_length_that_was_not_tried_is_computed_alone(
    name: str, tmp_path: Path
) -> None:
    """Each network mixes rows beyond a length of 600."""
    shape: Any = ["batch", "length"]
    content = onnx_file(
        [*TAIL, *MIXED_BEYOND[name]], [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)],
        far=whole(600), end=whole(2**31 - 1), first=whole(1), zero=whole(0), minus=whole(-1),
        table=np.arange(1_000, dtype=np.float32)[:, None], places=np.zeros((1, 10), np.int64),
    )  # fmt: skip
    file = tmp_path / "network.onnx"
    file.write_bytes(content)
    package = add(tmp_path / "repository", "net", file)
    assert package.card.batching == "rows", package.card.limits
    assert 32 in lengths(package.card)
    assert 601 not in lengths(package.card)
