"""The largest size of a free dimension: given, or found, and recorded in the card."""

import json
import re
from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention import rows_of, write_attention
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file
from torch import Tensor, nn

from models.adding.add import add
from models.command_line import main
from models.errors import AddError
from models.package.card import ModelCard
from models.package.model_package import ModelPackage
from models.sources import free_sizes, max_length
from models.sources.max_length import MaxLength, parse_max_length

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")

node = helper.make_node


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("512", (None, 512)),
        ("length=512", ("length", 512)),
        ("x.1=7", ("x.1", 7)),
        ("a=b=3", ("a=b", 3)),
    ],
)
def test_a_maximum_is_a_number_or_a_name_and_a_number(
    text: str, wanted: tuple[str | None, int]
) -> None:
    assert parse_max_length(text) == wanted


@pytest.mark.parametrize("text", ["", "x", "=5", "x=", "0", "-1", "1.5", "x=2147483648", "x=²"])
def test_other_text_is_no_maximum(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"must be N or NAME=N"):
        parse_max_length(text)


def sample(folder: Path, **arrays: NDArray[Any]) -> Path:
    file = folder / "sample.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


def maxima(card: ModelCard) -> dict[str, tuple[int, ...] | None]:
    return {spec.name: spec.max_shape for spec in card.inputs}


@pytest.mark.parametrize(("length", "largest"), [(4, 512), (40, 640)])
def test_a_short_sample_makes_no_short_maximum(length: int, largest: int, tmp_path: Path) -> None:
    rows = sample(tmp_path, x=rows_of(length, 2))
    card = add(tmp_path / "all", "net", write_attention(tmp_path), sample=rows).card
    assert maxima(card) == {"x": (-1, largest, 8)}
    assert all(shapes["x"][0] <= largest for shapes in card.batched_shapes)
    assert {"x": (largest, 8)} in card.batched_shapes


def test_the_length_of_a_table_is_found(tmp_path: Path) -> None:
    rows = sample(tmp_path, x=rows_of(30, 2))
    card = add(tmp_path / "all", "net", write_attention(tmp_path, positions=100), sample=rows).card
    assert maxima(card) == {"x": (-1, 100, 8)}


def test_sizes_that_take_much_time_or_memory_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_length, "ROW_BYTES", 2**20)  # 512 * 512 numbers
    assert maxima(add(tmp_path / "all", "net", write_attention(tmp_path)).card)["x"] == (-1, 256, 8)
    monkeypatch.undo()
    monkeypatch.setattr(max_length, "LONGEST_ROW_SECONDS", 0.0)
    assert maxima(add(tmp_path / "all", "net", write_attention(tmp_path)).card)["x"] == (-1, 64, 8)


@pytest.mark.parametrize("given", ["600", "length=600", "x.1=600"])
def test_a_given_maximum_is_proved_and_shown(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root = write_attention(tmp_path), tmp_path / "all"
    options = ["--onnx", str(file), "--max-length", given, "--repository", str(root)]
    assert main(["add", "net", *options]) == 0
    assert (
        "  largest sizes: x.1=600; larger requests are refused; --max-length changes it\n"
        in capsys.readouterr().out
    )
    package = ModelPackage.read(root / "net" / "1")
    assert maxima(package.card) == {"x": (-1, 600, 8)}
    assert main(["show", "net", "--repository", str(root)]) == 0
    assert "| FP32 | [-1, -1, 8], at most [-1, 600, 8] |" in capsys.readouterr().out


def test_random_rows_are_no_longer_than_the_maximum(tmp_path: Path) -> None:
    file = write_attention(tmp_path, positions=9)
    card = add(tmp_path / "all", "net", file, max_lengths=[MaxLength(None, 9)]).card
    assert card.example.inputs["x"].shape[1:] == (9, 8)
    assert maxima(card) == {"x": (-1, 9, 8)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("x.1", 20)], r"the sample has the size 30 in length, and --max-length is 20: give "),
        ([("length", 200)], r"attention-100\.onnx: it fails at --max-length length=200 \(.*\): "),
        ([("x.2", 20)], r"--max-length names 'x\.2': the free dimensions are x\.1, length$"),
        ([("x.1", 50), ("length", 50)], r"--max-length names a dimension twice: give each "),
        ([(None, 50), (None, 60)], r"--max-length names a dimension twice: give each "),
    ],
)
def test_a_maximum_that_cannot_be_proved_is_refused(
    given: list[tuple[str | None, int]], message: str, tmp_path: Path
) -> None:
    file, rows = write_attention(tmp_path, positions=100), sample(tmp_path, x=rows_of(30, 2))
    lengths = [MaxLength(*size) for size in given]
    with pytest.raises(AddError, match=message):
        add(tmp_path / "all", "net", file, sample=rows, max_lengths=lengths)
    assert not (tmp_path / "all").exists()


def test_a_network_without_free_dimensions_has_no_maximum(tmp_path: Path) -> None:
    file = tmp_path / "relu.onnx"
    file.write_bytes(onnx_file([node("Relu", ["x"], ["y"])], *(
        [(name, T.FLOAT, ["batch", 3])] for name in "xy"
    )))  # fmt: skip
    with pytest.raises(AddError, match=r"--max-length is for free dimensions, and the inputs have"):
        add(tmp_path / "all", "net", file, max_lengths=[MaxLength(None, 5)])
    assert maxima(add(tmp_path / "all", "net", file).card) == {"x": None}


def test_a_dimension_that_can_have_one_size_only_keeps_it(tmp_path: Path) -> None:
    """The graph leaves the width free, and its weights do not. Lengths of one name are one."""
    nodes = [node("MatMul", ["x", "w"], ["xw"]), node("Mul", ["xw", "mask"], ["y"])]
    inputs: Any = [
        ("x", T.FLOAT, ["batch", "length", "width"]), ("mask", T.FLOAT, ["batch", "length", 1])
    ]  # fmt: skip
    file = tmp_path / "linear.onnx"
    outputs: Any = [("y", T.FLOAT, ["batch", "length", 3])]
    file.write_bytes(onnx_file(nodes, inputs, outputs, w=np.eye(4, 3, dtype=np.float32)))
    rows = sample(tmp_path, x=np.ones((2, 6, 4), np.float32), mask=np.ones((2, 6, 1), np.float32))
    card = add(tmp_path / "all", "net", file, sample=rows).card
    assert maxima(card) == {"x": (-1, 512, 4), "mask": (-1, 512, 1)}
    card = add(
        tmp_path / "all", "net", file, sample=rows, max_lengths=[MaxLength("length", 7)]
    ).card
    assert maxima(card) == {"x": (-1, 7, 4), "mask": (-1, 7, 1)}


class Late(nn.Module):
    """Adds one to rows of more than 5,000 numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of each row."""
        total = x.sum(1)
        if x.shape[1] > 5000:
            total = total + 1
        return total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seconds", [20.0, 0.0], ids=["rows proved", "one row computed"])
def test_a_file_that_differs_at_the_largest_size_is_found(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_sizes, "MOST_SECONDS", seconds)
    onnx, other = tmp_path / "sum.onnx", tmp_path / "late.pt"
    inputs: Any = [("x", T.FLOAT, ["batch", "length"])]
    nodes = [node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)]
    onnx.write_bytes(onnx_file(nodes, inputs, [("y", T.FLOAT, ["batch"])], axis=np.array([1])))
    torch.jit.save(torch.jit.script(Late().eval()), other)
    longest = [MaxLength(None, 5001)]
    message = "for [1, 5001] of x, the answers are not those" if not seconds else "its answers are"
    with pytest.raises(AddError, match=rf"late\.pt: {re.escape(message)}"):
        add(tmp_path / "all", "net", onnx, torchscript=other, max_lengths=longest)
    card = add(tmp_path / "all", "net", onnx, torchscript=other).card
    assert maxima(card) == {"x": (-1, 512)}
    assert card.runtimes


def test_cards_that_were_written_before_have_no_maximum(tmp_path: Path) -> None:
    package = add(tmp_path / "all", "net", write_attention(tmp_path))
    content = json.loads((package.path / "card.json").read_text())
    for spec in (*content["inputs"], *content["outputs"]):
        del spec["max_shape"]
    card = ModelCard.model_validate(content)
    assert maxima(card) == {"x": None}
    assert card.inputs[0].takes((1, 10**6, 8))


@pytest.mark.parametrize("wrong", [(-1, 64), (-1, -1, 8), (-1, 64, 9), (1, 64, 8), (-1, 20, 8)])
def test_a_card_whose_maximum_does_not_fit_is_refused(
    wrong: tuple[int, ...], tmp_path: Path
) -> None:
    """The last one is smaller than the example."""
    card = add(tmp_path / "all", "net", write_attention(tmp_path)).card
    inputs = (replace(card.inputs[0], max_shape=wrong),)
    with pytest.raises(ValueError, match=r"the largest shape of x is|the card says|are none of"):
        ModelCard.model_validate(card.model_copy(update={"inputs": inputs}).model_dump())
