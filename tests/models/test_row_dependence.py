"""Rows that depend on each other are found, also where the given rows do not show it.

Such a network is added, and each request to it is computed alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mixing_networks import APART, MIXED, Network, write
from onnx import TensorProto as T
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from small_packages import onnx_file

from models.add import add
from models.card import ModelCard
from models.graph import Node, ObservedGraph, Value
from models.importing import AddError
from models.row_attributes import ATTRIBUTES
from models.row_mixing import mixing, row_mixing
from models.row_rules import RULES

node = helper.make_node


def added(tmp_path: Path, file: Path, rows: Any, torchscript: Path | None = None) -> ModelCard:
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=rows)
    repository = tmp_path / "repository"
    return add(repository, "net", file, sample=sample, torchscript=torchscript).card


EQUAL = [np.ones((8, 4), np.float32), np.zeros((2, 4), np.float32)]


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_rows_is_named_and_computed_alone(name: str, rows: Any, tmp_path: Path) -> None:
    network = MIXED[name]
    card = added(tmp_path, write(tmp_path, network), rows)
    assert card.batching == "none"
    assert network.named in card.limits[-1]
    assert "computed alone" in card.limits[-1]


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
@pytest.mark.parametrize("name", APART)
def test_rows_that_are_computed_for_themselves_are_proved(
    name: str, rows: Any, tmp_path: Path
) -> None:
    card = added(tmp_path, write(tmp_path, APART[name]), rows)
    assert card.batching == "rows", card.limits


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
def test_a_network_that_was_quantized_dynamically_is_computed_alone(
    rows: Any, tmp_path: Path
) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    whole = write(tmp_path, Network(nodes, {"w": weights}))
    quantize_dynamic(whole, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    card = added(tmp_path, tmp_path / "int8.onnx", rows)
    assert card.batching == "none"
    assert "DynamicQuantizeLinear" in card.limits[-1]


@pytest.mark.slow
def test_a_recurrent_network_that_takes_rows_for_time_is_found(tmp_path: Path) -> None:
    """Without `batch_first=True`, a popular mistake: right for one row, wrong in a batch."""

    class Wrong(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.GRU(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.network(x.unsqueeze(1))[0].squeeze(1)
            return answer

    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        Wrong().eval(), (torch.ones(2, 4),), dynamo=True, input_names=["x"],
        dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "gru.onnx")
    card = added(tmp_path, tmp_path / "gru.onnx", np.ones((3, 4), np.float32))
    assert card.batching == "none"
    assert "takes rows for steps in time" in card.limits[-1]


def test_a_varied_row_that_the_network_cannot_compute_says_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, Network([node("Log", ["x"], ["y"])]))
    assert added(tmp_path, file, np.ones((3, 4), np.float32)).batching == "rows"


def test_random_numbers_are_refused(tmp_path: Path) -> None:
    nodes = [node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])]
    with pytest.raises(AddError, match="differs when the same row is computed again"):
        added(tmp_path, write(tmp_path, Network(nodes)), np.ones((3, 4), np.float32))


def shaped(*dimensions: int | str) -> Sequence[int | str]:
    return list(dimensions)


@pytest.mark.slow
def test_the_rows_are_followed_through_attention(tmp_path: Path) -> None:
    """Reshapes, transposes and two products of rows with rows."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        layer, (torch.ones(2, 5, 8),), dynamo=True, input_names=["x"],
        dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "layer.onnx")
    content = (tmp_path / "layer.onnx").read_bytes()
    rows = {"x": np.ones((1, 5, 8), np.float32)}
    assert row_mixing(content, [rows])[0] is None


def test_every_shipped_network_keeps_its_rows_apart(root: Path) -> None:
    files = sorted(root.glob("models/*/*/model.onnx"))
    assert files
    for file in files:
        (stated,) = onnx.load(file).graph.input
        shape = [one.dim_value for one in stated.type.tensor_type.shape.dim][1:]
        dtype = helper.tensor_dtype_to_np_dtype(stated.type.tensor_type.elem_type)
        rows = {stated.name: np.ones((1, *shape), dtype)}
        assert row_mixing(file.read_bytes(), [rows])[0] is None, file


def test_a_function_inside_the_file_is_followed_into(tmp_path: Path) -> None:
    inner = [node("ReduceMax", ["a"], ["m"], keepdims=0), node("Sub", ["a", "m"], ["b"])]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "Centre", ["a"], ["b"], inner, [opset])
    x = helper.make_tensor_value_info("x", T.FLOAT, shaped("batch", 4))
    y = helper.make_tensor_value_info("y", T.FLOAT, shaped("batch", 4))
    graph = helper.make_graph([node("Centre", ["x"], ["y"], domain="own")], "g", [x], [y])
    imports = [opset, helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=9)
    rows = {"x": np.ones((1, 4), np.float32)}
    found = row_mixing(model.SerializeToString(), [rows])[0]
    assert found is not None
    assert "reduces over the rows" in found


@pytest.mark.parametrize(
    ("domain", "name"), [("", "Hardmax"), ("com.microsoft.nchwc", "ReorderInput")]
)
def test_a_function_that_has_the_name_of_an_operator_is_not_followed(
    domain: str, name: str
) -> None:
    """The runtime computes its own of that name, and not the function."""
    opset = helper.make_opsetid("", 17)
    function = helper.make_function(
        domain, name, ["a"], ["b"], [node("Identity", ["a"], ["b"])], [opset]
    )
    x = helper.make_tensor_value_info("x", T.FLOAT, shaped("batch", 4))
    y = helper.make_tensor_value_info("y", T.FLOAT, shaped("batch", 4))
    graph = helper.make_graph([node(name, ["x"], ["y"], domain=domain)], "g", [x], [y])
    imports = [opset, *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=9)
    found = row_mixing(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])[0]
    assert found is not None
    assert f"it defines {name}" in found


def test_a_file_that_states_two_versions_of_its_operators_is_not_followed() -> None:
    x = helper.make_tensor_value_info("x", T.FLOAT, shaped("batch", 4))
    y = helper.make_tensor_value_info("y", T.FLOAT, shaped("batch", 4))
    graph = helper.make_graph([node("Softmax", ["x"], ["y"], axis=1)], "g", [x], [y])
    versions = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx", 11)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    found = row_mixing(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])[0]
    assert found is not None
    assert "two versions" in found


def test_what_cannot_be_followed_is_not_taken_for_independent(tmp_path: Path) -> None:
    file = onnx_file([node("Relu", ["x"], ["y"])], [("x", T.FLOAT, shaped(4, 4))],
                     [("y", T.FLOAT, shaped(4, 4))])  # fmt: skip
    rows = {"x": np.ones((1, 4), np.float32)}
    found = row_mixing(file, [rows])[0]
    assert found is not None
    assert "cannot be followed" in found


ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"
UNKNOWN: dict[str, tuple[Any, int]] = {
    "across_channels": (node("MeanVarianceNormalization", ["x"], ["y"], across_channels=1), 8),
    "PROBIT": (
        node("LinearRegressor", ["x"], ["y"], domain=ML, coefficients=[1.0] * 4, targets=1,
             post_transform="PROBIT"), 20,
    ),
    "the least of several trees": (
        node("TreeEnsembleRegressor", ["x"], ["y"], domain=ML, aggregate_function="MIN"), 20,
    ),
    "the greatest of several trees": (
        node("TreeEnsemble", ["x"], ["y"], domain=ML, aggregate_function=3), 20,
    ),
    "storage_order": (
        node("MaxPool", ["x"], ["y"], kernel_shape=[1], storage_order=1), 20,
    ),
    "opset": (
        node("QLinearSoftmax", ["x", "s", "z", "s", "z"], ["y"], domain=MICROSOFT, opset=12), 20,
    ),
    "training": (node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m", "v"]), 9),
    "Hardmax": (node("Hardmax", ["x"], ["y"]), 20),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_attribute_that_is_not_listed_makes_an_operator_unknown(name: str) -> None:
    made, opset = UNKNOWN[name]
    kind = made.op_type if not made.domain else f"{made.domain}.{made.op_type}"
    attributes = {one.name: helper.get_attribute_value(one) for one in made.attribute}
    given = Node(kind, "y", tuple(made.input), tuple(made.output), attributes, None)
    x = Value(((1, 4), (2, 4), (3, 4)), np.dtype(np.float32), False, None)
    graph = ObservedGraph(("x",), ("y",), (given,), {"x": x, "y": x}, opset)
    assert mixing(graph) is not None


def test_every_operator_with_listed_attributes_has_a_rule() -> None:
    assert set(ATTRIBUTES) <= set(RULES)


LYING = [("v", [1, 4]), ("v", ["batch", 5]), ("v", ["batch", "batch"]), ("v", ["batch"])]


@pytest.mark.parametrize(("name", "shape"), LYING)
def test_a_shape_that_is_stated_wrongly_is_found(name: str, shape: Any, tmp_path: Path) -> None:
    """The optimizer of ONNX Runtime believes it: at [1, 4], all rows are reshaped to one."""
    nodes = [
        node("Relu", ["x"], ["v"]),
        node("Shape", ["v"], ["count"], end=1),
        node("Concat", ["count", "minus"], ["sizes"], axis=0),
        node("Reshape", ["x", "sizes"], ["joined"]),
        node("Softmax", ["joined"], ["weights"], axis=-1),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["weights", "shape"], ["y"]),
    ]
    file = write(tmp_path, Network(nodes, {"minus": np.array([-1])}))
    rows = {"x": np.ones((2, 4), np.float32)}
    assert row_mixing(file.read_bytes(), [rows]) == [None]
    model = onnx.load(file)
    model.graph.value_info.append(helper.make_tensor_value_info(name, T.FLOAT, shape))
    (found,) = row_mixing(model.SerializeToString(), [rows])
    assert found is not None
    assert f"it states {shape} for v" in found


def test_a_function_of_another_opset_that_is_called_in_a_branch_is_not_followed() -> None:
    """It draws random numbers, and is not put where it is called."""
    opset = helper.make_opsetid("", 17)
    noise = helper.make_function(
        "own", "Noise", [], ["b"], [node("RandomUniform", [], ["b"], shape=[1])], [opset]
    )
    value = helper.make_tensor_value_info
    noisy = helper.make_graph(
        [node("Noise", [], ["k"], domain="own")], "t", [], [value("k", T.FLOAT, None)]
    )
    calm = helper.make_graph(
        [node("Constant", [], ["l"], value_floats=[0.0])], "e", [], [value("l", T.FLOAT, None)]
    )
    nodes = [
        node("Constant", [], ["c"], value=helper.make_tensor("", T.BOOL, [], [False])),
        node("If", ["c"], ["r"], then_branch=noisy, else_branch=calm),
        node("Add", ["x", "r"], ["y"]),
    ]
    tensors = [value(name, T.FLOAT, shaped("batch", 4)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[noise], opset_imports=imports, ir_version=9)
    (found,) = row_mixing(model.SerializeToString(), [{"x": np.ones((2, 4), np.float32)}])
    assert found is not None
    assert "another version" in found
