"""TorchScript modules are followed as ONNX graphs are; a module that mixes rows is left out."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mixing_modules import APART, MIXED
from mixing_networks import Network, write
from onnx import helper
from torch import Tensor, nn

from models.adding.add import add
from models.command_line import main
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.torch_runtimes import TorchScriptRuntime
from models.torch_graphs.script_mixing import script_mixing

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")

ROWS = {"x": np.ones((3, 4), np.float32)}


def saved(module: nn.Module, *, traced: bool = False) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing warns of shapes
        ready = module.eval()
        x = torch.ones(2, 4)
        ready = torch.jit.trace(ready, x, check_trace=False) if traced else torch.jit.script(ready)
        torch.jit.save(ready, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", MIXED)
def test_the_operator_that_mixes_rows_is_named(name: str) -> None:
    module, operator = MIXED[name]
    reason = script_mixing(TorchScriptRuntime(saved(module), outputs=["y"]), ROWS)
    assert reason is not None
    assert reason.startswith(operator)


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
@pytest.mark.parametrize("name", APART)
def test_a_module_that_computes_each_row_alone_is_followed(name: str, traced: bool) -> None:
    runtime = TorchScriptRuntime(saved(APART[name], traced=traced), outputs=["y"])
    assert script_mixing(runtime, ROWS) is None


class _Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


def added(tmp_path: Path, module: nn.Module) -> ModelCard:
    """Add the module beside a graph that computes the ReLU of each row."""
    file = write(tmp_path, Network([helper.make_node("Relu", ["x"], ["y"])]))
    (tmp_path / "model.pt").write_bytes(saved(module))
    return add(tmp_path / "repository", "net", file, torchscript=tmp_path / "model.pt").card


@pytest.mark.parametrize("name", MIXED)
def test_a_module_that_mixes_rows_is_left_out_even_if_all_tried_rows_agree(
    name: str, tmp_path: Path
) -> None:
    module, operator = MIXED[name]
    card = added(tmp_path, module)
    assert card.batching == "rows"
    assert card.runtimes == ("onnx",)
    assert "TorchScript file is left out" in card.limits[-1]
    assert operator in card.limits[-1]
    assert [record.runtime for record in card.parity] == ["onnx"]


def test_a_module_of_the_same_rows_is_kept(tmp_path: Path) -> None:
    card = added(tmp_path, _Relu())
    assert card.runtimes == ("onnx", "torchscript")


def test_the_command_says_why_a_module_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, operator = MIXED["a scale by the largest of the batch"]
    file = write(tmp_path, Network([helper.make_node("Relu", ["x"], ["y"])]))
    (tmp_path / "model.pt").write_bytes(saved(module))
    options = ["--torchscript", str(tmp_path / "model.pt"), "--repository", str(tmp_path / "all")]
    assert main(["add", "net", "--onnx", str(file), *options]) == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("  torch: ")
    )
    assert "is left out" in line
    assert operator in line


def test_every_shipped_module_keeps_its_rows_apart(root: Path) -> None:
    packages = [package for _, package in ModelRepository(root / "models")]
    assert packages
    for package in packages:
        assert isinstance(package, ModelPackage)
        card = package.card
        module = TorchScriptRuntime(
            package.load("model.pt"), outputs=[spec.name for spec in card.outputs]
        )
        rows = {name: tensor.array() for name, tensor in card.example.inputs.items()}
        assert script_mixing(module, rows) is None, package.label
