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

from models.adding.add import add
from models.errors import AddError
from models.graphs.graph import UNFILLED, Node, ObservedGraph, Value
from models.graphs.row_attributes import ATTRIBUTES
from models.graphs.row_mixing import mixing, row_mixing
from models.graphs.row_rules import RULES
from models.graphs.row_texts import TEXT_RULES
from models.kinds.batch_axes import BatchAxes
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.proofs import row_proof
from service.settings import Settings

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")

node = helper.make_node
ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"


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
            output: torch.Tensor = self.network(x.unsqueeze(1))[0].squeeze(1)
            return output

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


@pytest.mark.parametrize(
    "draw",
    [
        node("RandomNormal", [], ["drawn"], shape=[1]),
        node("RandomUniform", [], ["drawn"], shape=[1]),
        node("RandomNormalLike", ["x"], ["drawn"]),
        node("RandomUniformLike", ["x"], ["drawn"]),
        node("Bernoulli", ["x"], ["drawn"]),
        node("Multinomial", ["x"], ["whole"]),
        node("Dropout", ["x", "half", "training"], ["drawn"]),
    ],
    ids=lambda draw: draw.op_type,
)
def test_random_numbers_that_no_tried_row_shows_are_named(draw: Any, tmp_path: Path) -> None:
    """They matter for numbers above a million alone."""
    nodes = [
        draw,
        *([node("Cast", ["whole"], ["drawn"], to=T.FLOAT)] if draw.output[0] == "whole" else []),
        node("Greater", ["x", "million"], ["is_large"]),
        node("Where", ["is_large", "drawn", "x"], ["y"]),
    ]
    constants = {
        "million": np.array(1e6, np.float32),
        "half": np.array(0.5, np.float32),
        "training": np.array(True),
    }
    card = added(tmp_path, write(tmp_path, Network(nodes, constants)), np.ones((8, 4), np.float32))
    assert card.batching == "none"
    assert draw.op_type in card.limits[-1]


SEEN_BY_TRIAL = [
    "one quantization scale",
    "a scale by the largest of the batch",
    "a branch on the least confidence",
    "a lag",
    "the batch's mean",
    "a running sum",
    "the next row beside each",
]


@pytest.mark.parametrize("rows", EQUAL, ids=["ones", "zeros"])
@pytest.mark.parametrize("name", SEEN_BY_TRIAL)
def test_varied_rows_show_what_equal_rows_do_not(
    name: str, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check by computation, without the graph. The lag is 168 rows."""
    monkeypatch.setattr(row_proof, "row_mixing", lambda _, sizes, *__: [None] * len(sizes))
    card = added(tmp_path, write(tmp_path, MIXED[name]), rows)
    assert card.batching == "none"
    assert "differs by" in card.limits[-1]


def test_batches_of_the_largest_size_of_the_service_are_tried() -> None:
    assert Settings.model_fields["max_batch_rows"].default == row_proof.LARGEST_BATCH


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


class Pooled(torch.nn.Module):
    """The end of a ConvNeXt or Swin: the mean of an image whose channels are last."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 4, 4)
        self.norm = torch.nn.LayerNorm(8)
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """FP32 [N, 8] of images [N, 3, 16, 16]."""
        last: torch.Tensor = self.norm(self.patches(x).permute(0, 2, 3, 1))
        pooled: torch.Tensor = self.pool(last.permute(0, 3, 1, 2))
        return pooled.flatten(1)


@pytest.mark.slow
def test_the_rows_are_followed_through_a_view_of_torch(tmp_path: Path) -> None:
    """Its exporter writes the pool as a Gather of computed places."""
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        Pooled().eval(), (torch.ones(2, 3, 16, 16),), dynamo=True, input_names=["x"],
        dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "pooled.onnx")
    kinds = {one.op_type for one in onnx.load(tmp_path / "pooled.onnx").graph.node}
    assert {"Range", "Gather"} <= kinds
    rows = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    assert added(tmp_path, tmp_path / "pooled.onnx", rows).batching == "rows"


def test_every_shipped_network_keeps_its_rows_apart(root: Path) -> None:
    packages = [package for _, package in ModelRepository(root / "models")]
    assert packages
    for package in packages:
        assert isinstance(package, ModelPackage)
        example = package.card.example.inputs
        rows = {name: tensor.array() for name, tensor in example.items()}
        assert row_mixing(bytes(package.load("model.onnx")), [rows])[0] is None, package.label


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
    reason = row_mixing(model.SerializeToString(), [rows])[0]
    assert reason is not None
    assert "reduces over the rows" in reason


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
    reason = row_mixing(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])[0]
    assert reason is not None
    assert f"it defines {name}" in reason


def test_a_file_that_states_two_versions_of_its_operators_is_not_followed() -> None:
    x = helper.make_tensor_value_info("x", T.FLOAT, shaped("batch", 4))
    y = helper.make_tensor_value_info("y", T.FLOAT, shaped("batch", 4))
    graph = helper.make_graph([node("Softmax", ["x"], ["y"], axis=1)], "g", [x], [y])
    versions = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx", 11)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    reason = row_mixing(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])[0]
    assert reason is not None
    assert "two versions" in reason


def test_a_file_that_states_no_version_of_its_operators_is_not_followed() -> None:
    """The runtime takes its newest version, in which Resize has its scales at another place."""
    x = helper.make_tensor_value_info("x", T.FLOAT, shaped("batch", 4))
    y = helper.make_tensor_value_info("y", T.FLOAT, shaped("batch", 4))
    resize = node("Resize", ["x", "region", "scales"], ["y"])
    constants = [
        helper.make_tensor("region", T.FLOAT, [2], [1, 1]),
        helper.make_tensor("scales", T.FLOAT, [2], [1.003, 1]),
    ]
    graph = helper.make_graph([resize], "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(ML, 3)], ir_version=8)
    reason = row_mixing(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])[0]
    assert reason is not None
    assert "states no version" in reason


@pytest.mark.parametrize(
    ("operator", "value"),
    [("Equal", -1), ("Mul", 0)],
    ids=["a number of rows that is compared", "a number of rows that is multiplied"],
)
def test_the_number_of_rows_and_a_shared_value_are_not_taken_for_a_constant(
    operator: str, value: int
) -> None:
    """With another value, the result depends on the number of rows."""
    file = onnx_file(
        [
            node("Shape", ["x"], ["count"], end=1),
            node(operator, ["count", "shared"], ["result"]),
            node("Cast", ["result"], ["number"], to=T.FLOAT),
            node("Add", ["x", "number"], ["y"]),
        ],
        [("x", T.FLOAT, shaped("batch", 4)), ("shared", T.INT64, [])],
        [("y", T.FLOAT, shaped("batch", 4))],
    )
    rows = {"x": np.ones((3, 4), np.float32), "shared": np.full(3, value)}
    axes = BatchAxes({"x": 0, "shared": None}, {"y": 0})
    assert row_mixing(file, [rows], axes) == ["Add (y) computes with the number of rows"]


def test_what_cannot_be_followed_is_not_taken_for_independent(tmp_path: Path) -> None:
    file = onnx_file([node("Relu", ["x"], ["y"])], [("x", T.FLOAT, shaped(4, 4))],
                     [("y", T.FLOAT, shaped(4, 4))])  # fmt: skip
    rows = {"x": np.ones((1, 4), np.float32)}
    reason = row_mixing(file, [rows])[0]
    assert reason is not None
    assert "cannot be followed" in reason


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
    attributes = {
        attribute.name: helper.get_attribute_value(attribute) for attribute in made.attribute
    }
    unknown = Node(kind, "y", tuple(made.input), tuple(made.output), attributes, None)
    x = Value(((1, 4), (2, 4), (3, 4)), np.dtype(np.float32), False, None)
    graph = ObservedGraph(("x",), ("y",), (unknown,), {"x": x, "y": x}, opset)
    assert mixing(graph) is not None


def test_every_operator_with_listed_attributes_has_a_rule() -> None:
    assert set(ATTRIBUTES) <= {*RULES, *TEXT_RULES}


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


SCALED = ("scale", "zero")
UNFILLED_NODES = {
    "Concat": node("Concat", ["row", "row"], ["memory"], axis=0),
    "Conv": node("Conv", ["image", "image"], ["memory"]),
    "ConvInteger": node("ConvInteger", ["bytes", "bytes"], ["memory"]),
    "MatMul": node("MatMul", ["row", "column"], ["memory"]),
    "MatMulInteger": node("MatMulInteger", ["bytes", "bytes"], ["memory"]),
    "GRU": node("GRU", ["steps", "three", "three"], ["", "memory"], hidden_size=1),
    "LSTM": node("LSTM", ["steps", "four", "four"], ["", "", "memory"], hidden_size=1),
    "RNN": node("RNN", ["steps", "single", "single"], ["", "memory"], hidden_size=1),
    "QLinearConv": node(
        "QLinearConv", ["bytes", *SCALED, "bytes", *SCALED, *SCALED], ["memory"]
    ),
    "QLinearMatMul": node(
        "QLinearMatMul", ["bytes", *SCALED, "bytes", *SCALED, *SCALED], ["memory"]
    ),
}  # fmt: skip
INNER_CONSTANTS = {
    "row": np.ones((1, 4), np.float32),
    "column": np.ones((4, 1), np.float32),
    "image": np.ones((1, 1, 2, 2), np.float32),
    "bytes": np.ones((1, 1, 2, 2), np.uint8),
    "steps": np.ones((2, 1, 1), np.float32),
    "single": np.ones((1, 1, 1), np.float32),
    "three": np.ones((1, 3, 1), np.float32),
    "four": np.ones((1, 4, 1), np.float32),
    "scale": np.array(1, np.float32),
    "zero": np.array(0, np.uint8),
    "yes": np.array(True),
    "once": np.array(1, np.int64),
}


def inside(inner: Any) -> bytes:
    """Return a graph that computes `memory` of constants in a loop, and adds it."""
    value = helper.make_tensor_value_info
    nodes = [
        inner,
        node("Cast", ["memory"], ["number"], to=T.FLOAT),
        node("Identity", ["on"], ["still_on"]),
    ]
    given = [value("turn", T.INT64, []), value("on", T.BOOL, [])]
    results = [value("still_on", T.BOOL, []), value("number", T.FLOAT, None)]
    body = helper.make_graph(nodes, "body", given, results)
    outer = node("Loop", ["once", "yes"], ["numbers"], body=body)
    sums = [node("ReduceSum", ["numbers"], ["sum"], keepdims=0), node("Add", ["x", "sum"], ["y"])]
    ends: Any = [(name, T.FLOAT, ["batch", 4]) for name in "xy"]
    return onnx_file([outer, *sums], ends[:1], ends[1:], **INNER_CONSTANTS)


@pytest.mark.parametrize("name", sorted(UNFILLED))
def test_an_operator_that_may_leave_its_output_unset_is_not_followed_inside_a_node(
    name: str,
) -> None:
    """Shapes inside a node are not observed, so a tensor there may be empty."""
    rows = [{"x": np.ones((2, 4), np.float32)}]
    assert row_mixing(inside(node("Neg", ["row"], ["memory"])), rows) == [None]
    (found,) = row_mixing(inside(UNFILLED_NODES[name]), rows)
    assert found is not None
    assert f"{name} is inside a node, with tensors of any shape" in found
