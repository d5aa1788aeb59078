"""Differences are relative to the magnitude of the output, whether small or large."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.differences import relative_difference, tolerated

TOLERANCE = 1e-4
RANDOM = np.random.default_rng(5)
ROWS: NDArray[np.float64] = RANDOM.normal(size=(64, 5))
SCALES = [1e-12, 1e-6, 1.0, 1e6]


def differs(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    return bool(relative_difference(found, wanted).max() > tolerated(TOLERANCE, wanted.dtype))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_an_error_of_one_in_a_thousand_is_found_at_every_magnitude(scale: float, rows: int) -> None:
    wanted = (ROWS[:rows] * scale).astype(np.float32)
    assert not differs(wanted, wanted)
    assert not differs(wanted * np.float32(1 + 1e-6), wanted)
    assert differs(wanted * np.float32(1.001), wanted)
    found = wanted.copy()
    found[-1, 2] = 0
    assert differs(found, wanted)


@pytest.mark.parametrize("small", [1e-12, 1e-6, 1e-3])
def test_a_small_column_among_large_columns_has_its_own_magnitude(small: float) -> None:
    wanted = (ROWS * [1e6, 1, 1, small, 1]).astype(np.float32)
    found = wanted.copy()
    found[:, 3] = found[::-1, 3]
    assert differs(found, wanted)
    assert differs(found[:2], wanted[:2])
    rounded = wanted * (1 + RANDOM.normal(size=wanted.shape) * 2e-7).astype(np.float32)
    assert not differs(rounded, wanted)


def test_a_small_channel_of_an_image_has_its_own_magnitude() -> None:
    wanted = RANDOM.normal(size=(4, 3, 8, 8)) * np.array([1, 1e-6, 1e3])[:, None, None]
    found = wanted.copy()
    found[:, 1] *= 1.01
    assert differs(found, wanted)


def test_rounding_errors_of_cancelling_terms_are_tolerated() -> None:
    """A number near 0 among larger numbers has the rounding errors of these."""
    wanted = ROWS.astype(np.float32)
    wanted[3, 1] = 1e-9
    found = wanted + np.float32(1e-6)
    assert not differs(found, wanted)
    large = wanted * np.where(np.arange(64) == 9, 1e4, 1)[:, None].astype(np.float32)
    found = large.copy()
    found[9] += np.float32(1e-3)
    assert not differs(found, large)


def test_zeros_must_stay_zeros_if_there_are_enough_rows() -> None:
    for wanted in (np.zeros((64, 3), np.float32), np.zeros(64, np.float32), np.zeros((2, 3))):
        assert not differs(wanted, wanted)
        assert differs(wanted + wanted.dtype.type(1e-12), wanted)
    column = (ROWS * [1, 0, 1, 1, 1]).astype(np.float32)
    assert not differs(column, column)
    found = column.copy()
    found[5, 1] = 1e-12
    assert differs(found, column)
    assert not differs(found[4:6], column[4:6])  # after a ReLU, two zeros may be a coincidence


@pytest.mark.parametrize("value", [0.1, 1e-9, -4e7])
def test_the_magnitude_of_a_constant_output_is_its_value(value: float) -> None:
    wanted = np.full((64, 2), value, np.float32)
    assert not differs(wanted * np.float32(1 + 1e-6), wanted)
    assert differs(wanted * np.float32(1.001), wanted)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_half_precision_may_differ_by_a_few_rounding_steps(scale: float) -> None:
    wanted = (ROWS * scale).astype(np.float16)
    near = np.nextafter(np.nextafter(wanted, np.float16(np.inf)), np.float16(np.inf))
    assert not differs(near, wanted)
    assert differs((wanted * np.float16(1.05)).astype(np.float16), wanted)


def test_the_magnitude_of_probabilities_is_the_largest() -> None:
    wanted = np.array([[0.8, 0.2], [1e-9, 1 - 1e-9]])
    found = wanted + np.array([[8e-6, -8e-6], [0, 0]])
    difference = relative_difference(found, wanted, probabilities=True)
    np.testing.assert_allclose(difference, [[8e-6, 8e-6], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_non_finite_numbers_differ_infinitely(odd: float) -> None:
    found = ROWS.copy()
    found[7, 0] = odd
    assert relative_difference(found, ROWS).max() == np.inf
