"""Differences are relative to the magnitude of the output, whether small or large."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.runtimes.differences import relative_difference, tolerated

TOLERANCE = 1e-4
RANDOM = np.random.default_rng(5)
ROWS: NDArray[np.float64] = RANDOM.normal(size=(64, 5))
SCALES = [1e-12, 1e-6, 1.0, 1e6]


def differs(actual: NDArray[Any], expected: NDArray[Any]) -> bool:
    return bool(relative_difference(actual, expected).max() > tolerated(TOLERANCE, expected.dtype))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_an_error_of_one_in_a_thousand_is_found_at_every_magnitude(scale: float, rows: int) -> None:
    expected = (ROWS[:rows] * scale).astype(np.float32)
    assert not differs(expected, expected)
    assert not differs(expected * np.float32(1 + 1e-6), expected)
    assert differs(expected * np.float32(1.001), expected)
    actual = expected.copy()
    actual[-1, 2] = 0
    assert differs(actual, expected)


@pytest.mark.parametrize("small", [1e-12, 1e-6, 1e-3])
def test_a_small_column_among_large_columns_has_its_own_magnitude(small: float) -> None:
    expected = (ROWS * [1e6, 1, 1, small, 1]).astype(np.float32)
    actual = expected.copy()
    actual[:, 3] = actual[::-1, 3]
    assert differs(actual, expected)
    assert differs(actual[:2], expected[:2])
    rounded = expected * (1 + RANDOM.normal(size=expected.shape) * 2e-7).astype(np.float32)
    assert not differs(rounded, expected)


def test_a_small_channel_of_an_image_has_its_own_magnitude() -> None:
    expected = RANDOM.normal(size=(4, 3, 8, 8)) * np.array([1, 1e-6, 1e3])[:, None, None]
    actual = expected.copy()
    actual[:, 1] *= 1.01
    assert differs(actual, expected)


def test_rounding_errors_of_cancelling_terms_are_tolerated() -> None:
    """A number near 0 among larger numbers has the rounding errors of these."""
    expected = ROWS.astype(np.float32)
    expected[3, 1] = 1e-9
    actual = expected + np.float32(1e-6)
    assert not differs(actual, expected)
    large = expected * np.where(np.arange(64) == 9, 1e4, 1)[:, None].astype(np.float32)
    actual = large.copy()
    actual[9] += np.float32(1e-3)
    assert not differs(actual, large)


def test_zeros_must_stay_zeros_if_there_are_enough_rows() -> None:
    for expected in (np.zeros((64, 3), np.float32), np.zeros(64, np.float32), np.zeros((2, 3))):
        assert not differs(expected, expected)
        assert differs(expected + expected.dtype.type(1e-12), expected)
    column = (ROWS * [1, 0, 1, 1, 1]).astype(np.float32)
    assert not differs(column, column)
    actual = column.copy()
    actual[5, 1] = 1e-12
    assert differs(actual, column)
    assert not differs(actual[4:6], column[4:6])  # after a ReLU, two zeros may be a coincidence


@pytest.mark.parametrize("value", [0.1, 1e-9, -4e7])
def test_the_magnitude_of_a_constant_output_is_its_value(value: float) -> None:
    expected = np.full((64, 2), value, np.float32)
    assert not differs(expected * np.float32(1 + 1e-6), expected)
    assert differs(expected * np.float32(1.001), expected)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_half_precision_may_differ_by_a_few_rounding_steps(scale: float) -> None:
    expected = (ROWS * scale).astype(np.float16)
    near = np.nextafter(np.nextafter(expected, np.float16(np.inf)), np.float16(np.inf))
    assert not differs(near, expected)
    assert differs((expected * np.float16(1.05)).astype(np.float16), expected)


def test_the_magnitude_of_probabilities_is_the_largest() -> None:
    expected = np.array([[0.8, 0.2], [1e-9, 1 - 1e-9]])
    actual = expected + np.array([[8e-6, -8e-6], [0, 0]])
    difference = relative_difference(actual, expected, probabilities=True)
    np.testing.assert_allclose(difference, [[8e-6, 8e-6], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_non_finite_numbers_differ_infinitely(odd: float) -> None:
    actual = ROWS.copy()
    actual[7, 0] = odd
    assert relative_difference(actual, ROWS).max() == np.inf
