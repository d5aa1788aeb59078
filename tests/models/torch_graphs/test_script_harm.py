"""A file of torch is left out if a request may change the answers to others, or end the process."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mixing_networks import Network, write
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file
from torch import Tensor, nn

from models.adding.add import add
from models.package.card import ModelCard
from models.runtimes.torch_runtimes import ProgramRuntime, TorchScriptRuntime
from models.torch_graphs.script_harm import harm

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")


class _Written(nn.Module):
    """Adds to a weight, for rows of a width that no check tries."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 37:
            self.total.view(1, 1)[0].add_(x.sum())
        return torch.relu(x) + self.total


class _Counted(nn.Module):
    """Counts such requests in a number."""

    calls: int

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 37:
            self.calls = self.calls + 1
        return torch.relu(x) + self.calls


class _Normalized(nn.Module):
    """Normalizes such rows as in training, which changes the statistics."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(37))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x)
        if x.shape[1] == 37:
            y = torch.nn.functional.batch_norm(y, self.mean, torch.ones(37), training=True)
        return y + self.mean[0]


CHANGED = torch.zeros(4)


class _Constant(nn.Module):
    """Changes a tensor that is no attribute, and a constant of its trace."""

    def forward(self, x: Tensor) -> Tensor:
        CHANGED.add_(torch.relu(x.max() - 1e6))
        return torch.relu(x) + CHANGED


class _Truncated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.div(x.long(), x.long() + 9, rounding_mode="trunc").to(torch.float32)


class _Harmless(nn.Module):
    """Changes tensors of its own, and rounds quotients by a constant."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(1))
        self.norm = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 37:
            return x
        y = torch.zeros(1)
        y.add_(1.0)
        whole = torch.div(x.long(), 3, rounding_mode="trunc").to(torch.float32)
        return self.norm(x) + whole + (y - self.weight)


HARMFUL = {
    "a weight in a branch": (_Written(), "attribute total"),
    "a number in a branch": (_Counted(), "attribute calls"),
    "statistics in a branch": (_Normalized(), "a constant"),
    "a constant": (_Constant(), "a constant"),
    "a quotient of integers": (_Truncated(), "ends the process"),
}


def saved(module: nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        ready = module.eval()
        traced = isinstance(module, _Constant)
        example = torch.ones(2, 4)
        script = torch.jit.trace(ready, example) if traced else torch.jit.script(ready)
        torch.jit.save(script, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", HARMFUL)
def test_harm_is_named(name: str) -> None:
    module, named = HARMFUL[name]
    found = harm(TorchScriptRuntime(saved(module), outputs=["y"]))
    assert found is not None
    assert named in found


def test_a_module_that_changes_its_own_values_is_harmless() -> None:
    assert harm(TorchScriptRuntime(saved(_Harmless()), outputs=["y"])) is None


class _Remembering(nn.Module):
    """Changes one of its values for each request, in one of many ways."""

    total: Tensor

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("total", torch.zeros(4))
        self.count = torch.zeros(1)
        self.weight = nn.Embedding(5, 4, max_norm=1.0)

    def forward(self, x: Tensor) -> Tensor:
        match self.way:
            case "in place":
                self.total.copy_(torch.maximum(self.total, x.max() - 1e3))
            case "in a view":
                self.total.view(2, 2)[0].add_(1)
            case "in a part":
                self.total.split(2)[1].mul_(2)
            case "behind a dropout":
                nn.functional.dropout(self.total, training=False).add_(1)
            case "a constant":
                self.count.add_(1)
            case "statistics":
                return nn.functional.batch_norm(x, self.total, torch.ones(4), training=True)
            case "a weight":
                return x + self.weight(torch.tensor([1]))
            case "nothing":
                return torch.relu_(x + self.total) + x.clone().add_(self.count)
        return x + self.total + self.count


WAYS = {
    "in place": "total",
    "in a view": "total",
    "in a part": "total",
    "behind a dropout": "total",
    "a constant": "count",
    "statistics": "total",
    "a weight": "weight.weight",
}


def exported(module: nn.Module, *, decomposed: bool = False) -> ProgramRuntime:
    program = torch.export.export(module.eval(), (torch.ones(2, 4),), strict=False)
    if decomposed:
        program = program.run_decompositions()
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return ProgramRuntime(stream.getvalue(), outputs=["y"])


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_remembers_requests_is_found(way: str) -> None:
    found = harm(exported(_Remembering(way)))
    assert found == f"it may change its attribute {WAYS[way]}, which later requests would see"


def test_a_decomposed_program_that_remembers_requests_is_found() -> None:
    """Its operators change nothing; the changed values are outputs."""
    found = harm(exported(_Remembering("in place"), decomposed=True))
    assert found == "it may change its attribute total, which later requests would see"


@pytest.mark.parametrize("module", [_Remembering("nothing"), _Harmless()])
def test_a_program_that_changes_its_own_values_is_harmless(module: nn.Module) -> None:
    assert harm(exported(module)) is None


def test_a_program_that_divides_integers_is_found() -> None:
    found = harm(exported(_Truncated()))
    assert found is not None
    assert "ends the process" in found


def added(tmp_path: Path, graph: Path, module: nn.Module) -> ModelCard:
    (tmp_path / "model.pt").write_bytes(saved(module))
    return add(tmp_path / "repository", "net", graph, torchscript=tmp_path / "model.pt").card


def test_a_file_that_remembers_requests_of_another_width_is_left_out(tmp_path: Path) -> None:
    shape = ["batch", "width"]
    graph = tmp_path / "relu.onnx"
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    graph.write_bytes(onnx_file(relu, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)]))
    card = added(tmp_path, graph, _Written())
    assert card.batching == "rows"
    assert card.runtimes == ("onnx",)
    assert "which later requests would see" in card.limits[-1]


def test_a_file_that_remembers_requests_is_left_out_if_requests_are_computed_alone(
    tmp_path: Path,
) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Sub", ["x", "most"], ["low"]),
        helper.make_node("Relu", ["low"], ["none"]),
        helper.make_node("Relu", ["x"], ["real"]),
        helper.make_node("Add", ["real", "none"], ["y"]),
    ]
    card = added(tmp_path, write(tmp_path, Network(nodes)), _Constant())
    assert card.batching == "none"
    assert card.runtimes == ("onnx",)
    np.testing.assert_array_equal(CHANGED, 0)
