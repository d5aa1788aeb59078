"""How far an output is from the one that is expected, relative to the output's own magnitude.

An output of 1e-6 that is wrong by 1e-6 is as wrong as an output of 1 that is wrong by 1. So a
difference is divided by the magnitude of its column, or of its row where the row is larger.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING_STEPS = 8
"""The steps of its datatype by which an honest output may differ, whatever the tolerance."""
FEW_ROWS = 8
"""In fewer rows, a column that holds zeros alone does not tell its magnitude."""


def relative_difference(
    found: NDArray[Any], wanted: NDArray[Any], *, probabilities: bool = False
) -> NDArray[np.float64]:
    """|found - wanted| over the magnitude of `wanted`, for each number of an output.

    Args:
        found: numbers of any floating-point type.
        wanted: the same shape, the rows first.
        probabilities: whether the last dimension sums to 1: then the magnitude is that of the
            whole output, which such a sum gives.

    Returns:
        In the shape of `wanted`; infinite where `found` is NaN, or differs where all is 0.
    """
    if not wanted.size:
        return np.zeros(wanted.shape)
    expected = wanted.astype(np.float64)
    difference = np.abs(found.astype(np.float64) - expected)
    difference[np.isnan(difference)] = np.inf
    difference[difference < _indistinct(wanted.dtype)] = 0.0
    magnitude = np.abs(expected)
    scale = magnitude.max(initial=0.0) if probabilities else _scales(magnitude)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)


def tolerated(tolerance: float, dtype: np.dtype[Any]) -> float:
    """The relative difference that an output of this type may have, where `tolerance` is asked."""
    return max(tolerance, ROUNDING_STEPS * float(np.finfo(dtype).eps))


def _scales(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """The magnitude that each number is measured by: that of its column, enlarged in large rows.

    A row of numbers that are `n` times as large as usual has rounding errors that are so too.
    """
    columns = _column_magnitudes(magnitude)
    with np.errstate(divide="ignore", invalid="ignore"):
        enlarged = np.nan_to_num(magnitude / columns, nan=0.0, posinf=0.0)
    rows = enlarged.max(axis=tuple(range(1, magnitude.ndim)), initial=1.0, keepdims=True)
    scales: NDArray[np.float64] = columns * rows
    return scales


def _column_magnitudes(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """The usual magnitude of each column, in a shape that broadcasts.

    A column is one index of an inner dimension: of several, the one along which they differ most.
    """
    usual = _usual(magnitude, tuple(range(magnitude.ndim)))
    if len(magnitude) < 2 or magnitude.ndim < 2:
        return usual
    columns = max(
        (
            _usual(magnitude, tuple(other for other in range(magnitude.ndim) if other != axis))
            for axis in range(1, magnitude.ndim)
        ),
        key=_spread,
    )
    return np.where(columns == 0, usual, columns) if len(magnitude) < FEW_ROWS else columns


def _spread(columns: NDArray[np.float64]) -> float:
    """The largest of some magnitudes over the smallest that is not 0."""
    some = columns[columns > 0]
    return float(some.max() / some.min()) if some.size else 0.0


def _usual(magnitude: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """The median of what is not 0, over some axes; 0 where all is."""
    moved = np.moveaxis(magnitude, axes, range(len(axes)))
    flat = np.sort(moved.reshape(-1, *moved.shape[len(axes) :]), axis=0)
    zeros = (flat == 0).sum(axis=0)
    middle = np.minimum((zeros + len(flat)) // 2, len(flat) - 1)
    median = np.take_along_axis(flat, middle[None], axis=0)[0]
    return np.expand_dims(median, axes)


def _indistinct(dtype: np.dtype[Any]) -> float:
    """Below this, a type has so few numbers left that a device may take them for 0."""
    limits = np.finfo(dtype)
    return float(limits.tiny) if dtype.itemsize > 2 else 4 * float(limits.smallest_subnormal)
