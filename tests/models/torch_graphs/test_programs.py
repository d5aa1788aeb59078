"""Programs of torch.export: followed as ONNX graphs are, computed as a third runtime."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixing_modules import APART, MIXED
from torch import Tensor, nn

import fitserve
from models.package.card import ModelCard
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from models.runtimes.torch_runtimes import ProgramRuntime, TorchScriptRuntime
from models.torch_graphs.script_mixing import script_mixing
from service.inference.placement import place

ROWS = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}


DECIDED = {"the request before", "a size as text", "a weight that is written for one row"}
"""Modules of which torch.export keeps one branch or the first value: their programs mix no rows.

The comparison with the network's own answers tells whether the program is the network.
"""


def program_of(module: nn.Module) -> bytes:
    """Return the module as a file of torch.export, with a free batch."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        module.eval(), (torch.ones(2, 4),), dynamic_shapes=({0: batch},), strict=False
    )
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


def opened(module: nn.Module) -> ProgramRuntime:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own code
            content = program_of(module)
    except Exception as error:  # noqa: BLE001 - what torch cannot export is no program
        pytest.skip(f"torch.export: {error}"[:100])
    return ProgramRuntime(content, outputs=["y"])


@pytest.mark.parametrize("name", MIXED)
def test_a_program_that_mixes_rows_is_found(name: str) -> None:
    module, _ = MIXED[name]
    assert (script_mixing(opened(module), ROWS) is None) == (name in DECIDED)


@pytest.mark.parametrize("name", APART)
def test_a_program_that_computes_each_row_alone_is_followed(name: str) -> None:
    assert script_mixing(opened(APART[name]), ROWS) is None


@pytest.mark.parametrize("name", APART)
def test_a_program_computes_what_torchscript_computes(name: str) -> None:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(APART[name].eval()), stream)
    script = TorchScriptRuntime(stream.getvalue(), outputs=["y"])
    program = opened(APART[name])
    for count in (1, 2, 3):
        rows = {"x": ROWS["x"][:count]}
        np.testing.assert_allclose(program(rows)["y"], script(rows)["y"], rtol=1e-5, atol=1e-6)


class _Bits(nn.Module):
    """The bits of a zero, of which the maximum of 0 and -0 gives either."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x * 0
        either: Tensor = torch.maximum(zeros, -zeros).view(torch.int32).clamp(-1, 0)
        return torch.relu(x) + torch.relu(x - 1e6) * either


def test_a_program_that_reads_the_bits_of_a_zero_is_found() -> None:
    reason = script_mixing(opened(_Bits()), ROWS)
    assert reason is not None
    assert "aten::view reads the bits" in reason


class Unscriptable(nn.Module):
    """A network with a closure, which TorchScript does not support."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features and the scores of each row."""
        activated = (lambda values: torch.relu(self.hidden(values)))(x)
        return {"features": activated, "scores": self.last(activated)}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("models")
    fitserve.save("net", Unscriptable(), torch.randn(8, 4), repository=root)
    return ModelRepository(root).get("net")


@pytest.mark.slow
def test_a_network_without_torchscript_gets_a_program(package: Any) -> None:
    card: ModelCard = package.card
    assert card.runtimes == ("onnx", "pt2")
    assert {record.runtime for record in card.parity} == {"onnx", "pt2"}
    assert not any("TorchScript" in limit for limit in card.limits)
    page = Path(package.path / "README.md").read_text()
    assert "| model.pt2 | operators of torch |" in page


@pytest.mark.slow
def test_the_program_is_timed_against_the_other_runtime_and_may_be_chosen(package: Any) -> None:
    placement = place(package, "auto", "cpu", threads=1, max_batch_rows=4)
    assert set(placement.seconds) == {"onnx", "pt2"}
    chosen = place(package, "pt2", "cpu", threads=1, max_batch_rows=4).runtime
    rows = {"x": ROWS["x"]}
    for name, array in open_runtime(package, "onnx")(rows).items():
        np.testing.assert_allclose(chosen(rows)[name], array, rtol=1e-5, atol=1e-6)
