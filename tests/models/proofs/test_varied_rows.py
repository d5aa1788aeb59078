"""Variations of given rows differ from each other, and stay near the given rows."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models.proofs.varied_rows import varied_rows

COUNT = 256


@pytest.mark.parametrize("value", [0, 1])
def test_equal_rows_of_floats_become_rows_of_many_magnitudes(value: float) -> None:
    found = varied_rows({"x": np.full((2, 4), value, np.float32)}, COUNT)["x"]
    assert (found.shape, found.dtype) == ((COUNT, 4), np.float32)
    assert len(np.unique(found, axis=0)) > COUNT / 8
    assert np.abs(found).max() <= 8 * max(value, 1)
    sizes = np.abs(found).max(axis=1)
    assert sizes.max() > 1 + value
    assert any(np.array_equal(row, before) for before, row in pairwise(found))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_whole_numbers_stay_between_the_given_ones(dtype: Any) -> None:
    given = np.array([[3, 5, 9], [4, 3, 7]], dtype)
    found = varied_rows({"tokens": given}, COUNT)["tokens"]
    assert (found.min(), found.max(), found.dtype) == (3, 9, dtype)
    assert len(np.unique(found, axis=0)) > COUNT / 8


def test_inputs_that_may_be_negative_get_negative_numbers() -> None:
    given = {name: np.array([[3, 5], [4, 9]]) for name in ("index", "other")}
    found = varied_rows(given, COUNT, signed=["index"])
    assert (found["index"].min(), found["index"].max()) == (-9, 9)
    assert found["other"].min() == 3


def test_the_rows_are_the_same_on_every_call() -> None:
    given = {"x": np.random.default_rng(0).normal(size=(3, 4)), "mask": np.eye(3, dtype=bool)}
    first, second = varied_rows(given, COUNT), varied_rows(given, COUNT)
    for name, array in first.items():
        assert array.dtype == given[name].dtype
        np.testing.assert_array_equal(array, second[name])
