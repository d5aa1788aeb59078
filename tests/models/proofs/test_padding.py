"""Rows of unequal lengths share a batch if a padded row gives what it gives alone."""

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_packages import property_test
from unequal_rows import rows_of_length, write_masked_mean

from models.adding.add import add
from models.errors import AddError
from models.kinds.padding import PaddedInput, PaddingSpec
from models.package.model_package import ModelPackage
from models.package.readme import batching_note
from models.proofs.padding_proof import Pad, parse_pad
from models.sources.max_length import MaxLength
from models.sources.ranges import InputRange

pytestmark = pytest.mark.usefixtures("one_trial_of_each_graph")

SPEC = PaddingSpec(
    inputs={"x": PaddedInput(axis=1, value=-1), "mask": PaddedInput(axis=1, value=0, is_mask=True)},
    outputs={"centred": (1,)},
    lengths=(4, 8),
)


def added(folder: Path, *, masked: bool = True, unlike: int = 0, **options: Any) -> ModelPackage:
    sample = folder / "sample.npz"
    np.savez(sample, **rows_of_length(6))  # type: ignore[arg-type]
    file = write_masked_mean(folder, masked=masked, unlike=unlike)
    defaults = {"pads": [Pad("x", 0.0)], "masks": ["mask"], "max_lengths": [MaxLength(None, 20)]}
    return add(folder, "mean", file, sample=sample, **(defaults | options))


def test_rows_that_are_proved_equal_are_padded(tmp_path: Path) -> None:
    card = added(tmp_path).card
    assert card.padding == PaddingSpec(
        inputs={
            "x": PaddedInput(axis=1, value=0),
            "mask": PaddedInput(axis=1, value=0, is_mask=True),
        },
        outputs={"centred": (1,)},
        lengths=(8, 12, 16, 20),
    )
    batched = {shapes["x"] for shapes in card.batched_shapes}
    assert {(8,), (12,), (16,), (20,)} <= batched
    assert batching_note(card) == "rows padded to the lengths 8, 12, 16, 20, and batched"


def test_a_network_that_looks_at_the_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        AddError, match=r"rows of length \d+ give something else when they are padd"
    ):
        added(tmp_path, masked=False)
    assert not list(tmp_path.glob("mean/*"))


def test_a_network_that_treats_one_length_in_another_way_is_refused(tmp_path: Path) -> None:
    """42 is neither the shortest nor the middle nor the longest of those that are padded to 48."""
    with pytest.raises(AddError, match="rows of length 42 give something else when they are padd"):
        added(tmp_path, unlike=42, max_lengths=[MaxLength(None, 64)])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": []}, "the input mask has a free length as well: give its value with --pad mask"),
        ({"masks": ["other"]}, "--mask names 'other': the inputs are x, mask"),
        ({"pads": [Pad("y", 0)]}, "--pad names 'y': the inputs are x, mask"),
        (
            {"ranges": [InputRange("x", -9, 9)], "pads": [Pad("x", 10)]},
            "--pad x=10: the input takes -9 to 9: give such a value",
        ),
        ({"pads": [Pad("x", 0), Pad("x", 1)]}, "name an input twice"),
        ({"pads": [Pad("x", 0), Pad("mask", 1)]}, "name an input twice"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AddError, match=sentence):
        added(tmp_path, **options)


@pytest.mark.parametrize("text", ["", "x", "x=", "=1", "x=one", "x=inf"])
def test_other_text_is_no_padding(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="must be INPUT=VALUE"):
        parse_pad(text)


def arrays(length: int, rows: int = 2) -> dict[str, NDArray[Any]]:
    x = np.arange(rows * length, dtype=np.float32).reshape(rows, length)
    return {"x": x, "mask": np.ones((rows, length), np.int64)}


@property_test
@given(length=st.integers(1, 8), rows=st.integers(1, 3))
def test_padding_is_cut_off_again(length: int, rows: int) -> None:
    inputs = arrays(length, rows)
    target = SPEC.target(inputs)
    assert target == (None if length in (4, 8) else 4 if length < 4 else 8)
    padded = SPEC.pad(inputs, target or length)
    assert (padded["x"][:, length:] == -1).all()
    assert not padded["mask"][:, length:].any()
    assert padded["x"].dtype == np.float32
    assert padded["mask"].dtype == np.int64
    outputs = SPEC.cut({"centred": padded["x"], "mean": padded["x"][:, :1]}, length)
    np.testing.assert_array_equal(outputs["centred"], inputs["x"])
    assert outputs["mean"].shape == (rows, 1)


@pytest.mark.parametrize("mask", [[0, 0, 0], [0, 1, 1], [1, 0, 1], [2, 1, 1], [1, -1, -1]])
def test_a_row_whose_real_places_are_not_the_first_is_not_padded(mask: list[int]) -> None:
    inputs = arrays(3)
    inputs["mask"][1] = mask
    assert SPEC.target(inputs) is None


def test_a_row_that_is_padded_already_is_padded() -> None:
    inputs = arrays(3)
    inputs["mask"][1] = [1, 0, 0]
    assert SPEC.target(inputs) == 4


@pytest.mark.parametrize("length", [0, 9])
def test_rows_of_no_length_of_the_padding_are_not_padded(length: int) -> None:
    assert SPEC.target(arrays(length)) is None


def test_inputs_of_unequal_lengths_are_not_padded() -> None:
    assert SPEC.target({"x": arrays(3)["x"], "mask": arrays(5)["mask"]}) is None
