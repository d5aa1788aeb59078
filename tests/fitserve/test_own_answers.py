"""An export is compared with the network itself on one row, on other sizes and other numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fitserve
from fitserve.exported import ExportError
from fitserve.own_answers import further_records, record_of
from fitserve.torch_networks import flat_module
from models.package.repository import ModelRepository

ROWS = torch.randn(5, 4)
STEPS = [torch.randn(3, 20, 4), torch.randn(3, 30, 4)]


class OneRow(nn.Module):
    """Code that decides by the number of rows, of which torch.export keeps the way of several."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 1 else x + 1


class OneStep(nn.Module):
    """The same by a length."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) * 7 if x.shape[1] == 1 else x.sum(1)


class Long(nn.Module):
    """Code that decides by a length beyond those of the samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if x.shape[1] <= 100 else x.sum(1)


class Even(nn.Module):
    """Code that torch.export does not take, and a trace takes for even lengths."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if x.shape[1] % 2 == 0 else x.sum(1)


class Counted(nn.Module):
    """The same by the number of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        steps: Tensor = self.rnn(x)[0].mean(1)
        return steps / len(x)


class Quotient(nn.Module):
    """An integer division, which torch's older exporter rounds towards zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (x // 3).to(torch.float32)


@pytest.mark.parametrize(
    ("make", "sample", "place"),
    [
        (OneRow, ROWS, r"x \[1, 4\]"),
        (OneStep, STEPS, r"x \[1, 1, 4\]"),
        (Long, STEPS, r"x \[1, 101, 4\]"),
        (lambda: torch.jit.script(Quotient()), torch.arange(20).view(5, 4), r"x \[5, 4\]"),
    ],
    ids=["rows", "length", "long", "negative"],
)
def test_an_export_that_lost_a_way_of_the_code_is_refused(
    make: Callable[[], nn.Module], sample: Tensor, place: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"other rows than the sample's \({place}\)"):
        fitserve.save("net", make(), sample, repository=tmp_path)
    assert not list(tmp_path.glob("net/*"))


def test_larger_sizes_may_be_excluded(tmp_path: Path) -> None:
    fitserve.save("net", Long(), STEPS, repository=tmp_path, options=("--max-length", "100"))
    card = ModelRepository(tmp_path).get("net").card
    assert card.inputs[0].max_shape == (-1, 100, 4)


@pytest.mark.parametrize(
    ("make", "line"), [(Even, "x.shape[1] % 2 == 0"), (Counted, "steps / len(x)")]
)
def test_python_that_a_trace_would_keep_for_the_sample_is_named(
    make: type[nn.Module], line: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="Python takes a number or a decision") as error:
        fitserve.save("net", make(), STEPS, repository=tmp_path)
    assert line in str(error.value)


class Squeezed(nn.Module):
    """Answers without the axis of the batch for one row."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).squeeze()


def test_an_answer_to_one_row_may_lack_the_axis_of_the_batch() -> None:
    flat = flat_module(Squeezed(), ["x"])
    record = record_of(flat, {"x": ROWS})
    single, *_ = further_records(flat, [{"x": ROWS}], [record], {})
    assert single.samples["x"].shape == (1, 4)
    np.testing.assert_array_equal(single.answers["output"], record.answers["output"][:1])


class Table(nn.Module):
    """A table of positions, which ends at 64."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x.log() + self.places(torch.arange(x.shape[1]))


def test_rows_that_the_network_does_not_take_are_left_out() -> None:
    samples = [{"x": rows.abs() + 1} for rows in STEPS]
    flat = flat_module(Table(), ["x"])
    records = [record_of(flat, one) for one in samples]
    further = further_records(flat, samples, records, {})
    shapes = [record.samples["x"].shape for record in further]
    assert {(1, 20, 4), (4, 20, 4), (1, 1, 4), (1, 31, 4), (1, 64, 4)} <= set(shapes)
    assert max(shape[1] for shape in shapes) == 64
    assert all((record.samples["x"] > 0).all() for record in further)
