"""BF16: graphs, TorchScript and programs whose inputs and outputs are bfloat16."""

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_packages import property_test
from torch import Tensor, nn

import fitserve
from models.__main__ import main
from models.adding.add import add
from models.errors import AddError
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes import bfloat16
from models.runtimes.differences import BFLOAT16
from models.runtimes.loading import open_runtime

BF16 = TensorProto.BFLOAT16
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@property_test
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_numbers_are_rounded_as_others_round_them(bits: list[int]) -> None:
    numbers = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bfloat16.rounded(numbers), expected)


@given(st.integers(0, 2**16 - 1))
def test_every_number_stays_as_it_is(bits: int) -> None:
    numbers = bfloat16.from_bits(np.array([bits], np.uint16))
    is_nan = np.isnan(numbers[0])
    assert is_nan or bfloat16.to_bits(numbers).tolist() == [bits]
    assert np.isnan(bfloat16.rounded(numbers)[0]) == is_nan


def product(*after: Any, output: str = "product", columns: int = 3) -> onnx.ModelProto:
    """Return a graph that casts BF16 to FP32, multiplies, and casts its result back."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["w"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["single", "weights"], ["product"]),
            *after,
            helper.make_node("Cast", [output], ["y"], to=BF16),
        ],
        "graph",
        [helper.make_tensor_value_info("x", BF16, ["batch", 4])],
        [helper.make_tensor_value_info("y", BF16, ["batch", columns])],
        [numpy_helper.from_array(WEIGHTS.astype(ml_dtypes.bfloat16), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def expected(x: NDArray[Any]) -> NDArray[Any]:
    rounded = bfloat16.rounded(WEIGHTS)
    return bfloat16.rounded(np.asarray(bfloat16.rounded(x) @ rounded))


def added(model: onnx.ModelProto, folder: Path) -> ModelPackage:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return add(folder / "repository", "net", folder / "net.onnx")


def datatypes(card: ModelCard) -> list[str]:
    return [spec.to_text() for spec in (*card.inputs, *card.outputs)]


def test_a_graph_takes_and_gives_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = added(product(), tmp_path)
    card = package.card
    assert datatypes(card) == ["BF16 [-1, 4]", "BF16 [-1, 3]"]
    assert (card.batching, card.example.tolerance) == ("rows", BFLOAT16)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    outputs = open_runtime(package, "onnx")({"x": x})["y"]
    np.testing.assert_allclose(outputs, expected(x), rtol=bfloat16.EPS)
    assert bfloat16.rounded(outputs).tolist() == outputs.tolist()
    options = ["--repository", str(tmp_path / "repository")]
    assert main([*options, "verify"]) == 0
    assert main([*options, "check", "net"]) == 0
    assert '/models/net/predict -d \'{"instances": [[' in capsys.readouterr().out


def test_rows_that_mix_in_a_graph_of_bfloat16_are_found(tmp_path: Path) -> None:
    mixed = [
        helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=1),
        helper.make_node("Add", ["product", "sum"], ["mixed"]),
    ]
    card = added(product(*mixed, output="mixed"), tmp_path).card
    assert card.batching == "none"
    assert any("ReduceSum" in limit for limit in card.limits)


def test_random_numbers_of_a_range_are_bfloat16(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(product().SerializeToString())
    options = ["--repository", str(tmp_path / "repository"), "--range", "x=0:0.3"]
    assert main(["add", "net", "--onnx", str(tmp_path / "net.onnx"), *options]) == 0
    example = ModelRepository(tmp_path / "repository").get("net").card.example
    recorded = example.inputs["x"].array()
    assert bfloat16.rounded(recorded).tolist() == recorded.tolist()


def test_what_a_cpu_does_not_compute_in_bfloat16_is_computed_in_single_precision(
    tmp_path: Path,
) -> None:
    """Also in branches, with constants of nodes, and with a rounding between."""
    branches = {
        name: helper.make_graph(
            [
                helper.make_node("Constant", [], ["by"], value=half(value, "")),
                helper.make_node("Mul", ["scaled", "by"], ["product"]),
                helper.make_node("Add", ["product", "more"], [f"{name}_out"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", BF16, None)],
            [half(0.25, "more")],
        )
        for name, value in (("then_branch", 2.0), ("else_branch", 9.0))
    }
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"]),
        helper.make_node("If", ["yes"], ["chosen"], **branches),
        helper.make_node("Cast", ["chosen"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["single"], ["rounded"], to=BF16),
        helper.make_node("Tanh", ["rounded"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", BF16, ["batch", 4])],
        [helper.make_tensor_value_info("y", BF16, ["batch", 4])],
        [half(0.3, "w"), numpy_helper.from_array(np.array(True), "yes")],
        value_info=[helper.make_tensor_value_info("scaled", BF16, ["batch", 4])],
    )
    opsets = [helper.make_opsetid("", 18)]
    package = added(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path)
    card = package.card
    assert datatypes(card) == ["BF16 [-1, 4]", "BF16 [-1, 4]"]
    assert card.batching == "rows"
    assert any("is computed in FP32 between" in limit for limit in card.limits)
    x = bfloat16.rounded(np.random.default_rng(1).normal(size=(5, 4)))
    weight = bfloat16.rounded(np.float32([0.3]))
    wanted = bfloat16.rounded(np.tanh(bfloat16.rounded(x * weight * 2 + np.float32(0.25))))
    outputs = open_runtime(package, "onnx")({"x": x})["y"]
    np.testing.assert_allclose(outputs, wanted, rtol=bfloat16.EPS, atol=1e-6)


def half(value: float, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array([value], ml_dtypes.bfloat16), name)


class Deep(nn.Module):
    """Computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers for each picture."""
        return self.last(self.first(x).relu().mean((2, 3)))


@pytest.mark.slow
def test_a_network_of_torch_in_bfloat16_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Deep().bfloat16().eval()
    pictures = torch.randn(6, 1, 5, 5, dtype=torch.bfloat16)
    fitserve.save("net", network, pictures, repository=tmp_path)
    package = ModelRepository(tmp_path).get("net")
    assert datatypes(package.card) == ["BF16 [-1, 1, 5, 5]", "BF16 [-1, 3]"]
    assert (package.card.batching, package.card.runtimes) == ("rows", ("onnx", "torchscript"))
    wanted = network(pictures).detach().float().numpy()
    for name in package.card.runtimes:
        found = open_runtime(package, name)({"x": pictures.float().numpy()})["output"]
        np.testing.assert_allclose(found, wanted, rtol=2 * bfloat16.EPS, atol=bfloat16.EPS / 2)


class Mixed(nn.Module):
    """Computes in single precision between bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three numbers for each row."""
        return self.layer(x.float()).tanh().to(torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torchscript", "pt2"])
def test_torch_takes_and_gives_bfloat16(runtime: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    rows = torch.randn(6, 4, dtype=torch.bfloat16)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (rows,), dynamic_shapes=shapes)
    given = network if runtime == "torchscript" else program
    fitserve.save("net", given, rows, repository=tmp_path)
    package = ModelRepository(tmp_path).get("net")
    assert datatypes(package.card) == ["BF16 [-1, 4]", "BF16 [-1, 3]"]
    assert package.card.runtimes == ("onnx", runtime)
    wanted = network(rows).detach().float().numpy()
    for name in package.card.runtimes:
        outputs = open_runtime(package, name)({"x": rows.float().numpy()})
        np.testing.assert_allclose(
            outputs["output"], wanted, rtol=bfloat16.EPS, atol=bfloat16.EPS / 4
        )


def test_a_torchscript_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    rows = torch.randn(8, 4, dtype=torch.bfloat16)
    batch = {0: torch.export.Dim("batch")}
    stream = io.BytesIO()
    exported = torch.onnx.export(network, (rows,), input_names=["x"], dynamic_shapes=(batch,),
                                 verbose=False)  # fmt: skip
    assert exported is not None
    exported.save(tmp_path / "net.onnx")
    with torch.no_grad():
        network.layer.weight.mul_(1.2)
    torch.jit.save(torch.jit.script(network), stream)
    (tmp_path / "net.pt").write_bytes(stream.getvalue())
    with pytest.raises(AddError, match=r"net.pt: its answers are not those of net.onnx"):
        add(
            tmp_path / "repository",
            "net",
            tmp_path / "net.onnx",
            torchscript=tmp_path / "net.pt",
        )
