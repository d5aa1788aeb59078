"""TorchScript operators that mix the rows of a batch, found in the module's code."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from mixing_networks import Network, write
from onnx import helper
from torch import Tensor, nn

from models.add import add
from models.runtimes import TorchScriptRuntime
from models.script_mixing import observed_mixing, script_mixing


class _Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.narrow(1, 0, 1).squeeze() > 1e9):
            x = x / 255
        return torch.relu(x)


class _Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.max() > 1e9, x / 255, torch.relu(x))


class _Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class _First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x[0]


class _Dropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(x, 0.5, True)


class _Outliers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[x > 1e9].numel() > 0:
            x = x / 255
        return torch.relu(x)


class _Found(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.nonzero(x > 1e9).shape[0] > 0:
            x = x / 255
        return torch.relu(x)


class _Count(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.count_nonzero(x > 1e9)


class _Backwards(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e9)
        return torch.relu(x) + large.amax(-2)


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e9)
        return torch.relu(x) + large.reshape(1, -1).sum(1)


class _Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        large = torch.relu(x - 1e9)
        return torch.relu(x) + large @ (large.t() @ large)


class _PerRow(nn.Module):
    """A module without mixing: it uses a shape, a maximum of two tensors and inner axes."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], -1, 2).sum(2).repeat_interleave(2, dim=1)
        return torch.max(x, y.clamp(min=0)) - x.mean(1, keepdim=True) + x.softmax(-1)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (_Branch(), "aten::Bool takes a number"),
        (_Largest(), "aten::max reduces the whole batch"),
        (_Centred(), "aten::mean works along the first axis"),
        (_Noise(), "aten::randn_like draws random numbers"),
        (_First(), "aten::select works along the first axis"),
        (_Dropped(), "aten::dropout works as in training"),
        (_Outliers(), "aten::index picks some of the rows"),
        (_Found(), "aten::nonzero counts numbers of the whole batch"),
        (_Count(), "aten::count_nonzero reduces the whole batch"),
        (_PerRow(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_operator_that_mixes_rows_is_named(module: nn.Module, named: str | None) -> None:
    found = script_mixing(torch.jit.freeze(torch.jit.script(module.eval())).graph)
    assert (found is None) == (named is None), found
    assert found is None or named is None or named in found


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (_Backwards(), "aten::amax reduces over the rows"),
        (_Flat(), "aten::sum reduces over the rows"),
        (_Product(), "aten::m"),
        (_PerRow(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_reduction_over_the_rows_is_seen_wherever_their_axis_is(
    module: nn.Module, named: str | None
) -> None:
    saved = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), saved)
    runtime = TorchScriptRuntime(saved.getvalue(), outputs=["y"])
    found = observed_mixing(runtime, {"x": np.ones((5, 4), np.float32)})
    assert (found is None) == (named is None), found
    assert found is None or named is None or found.startswith(named)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_module_that_mixes_rows_is_not_batched_even_if_all_tried_rows_agree(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, Network([helper.make_node("Relu", ["x"], ["y"])]))
    torch.jit.save(torch.jit.script(_Largest().eval()), tmp_path / "model.pt")
    np.savez(tmp_path / "rows.npz", x=np.ones((8, 4), np.float32))
    options = {"torchscript": tmp_path / "model.pt", "sample": tmp_path / "rows.npz"}
    card = add(tmp_path / "repository", "net", file, **options).card
    assert card.batching == "none"
    assert "aten::max reduces the whole batch" in card.limits[-1]
