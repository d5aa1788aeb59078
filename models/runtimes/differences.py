"""The difference of an output from the expected output, relative to the output's magnitude.

An output of 1e-6 that is wrong by 1e-6 is as wrong as an output of 1 that is wrong by 1. Each
difference is therefore divided by the magnitude of its column, scaled up in rows of larger numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtimes.bfloat16 import EPS

ROUNDING_STEPS = 8
"""An output may always differ by this many rounding steps of its datatype."""
HALF_PRECISION = ROUNDING_STEPS * float(np.finfo(np.float16).eps)
"""The relative tolerance for networks whose layers round to half precision."""
BFLOAT16 = 4 * EPS
"""The same for BF16, whose steps are wider: as many of them would hide a changed network."""
OUTLIERS = 8
"""In half precision, one number may differ by this many times the tolerance."""
FEW_ROWS = 8
"""With fewer rows, the magnitude of a column of zeros is unknown."""


def relative_difference(
    actual: NDArray[Any], expected: NDArray[Any], *, probabilities: bool = False
) -> NDArray[np.float64]:
    """Return |actual - expected| over the magnitude of `expected`, for each number of an output.

    Args:
        actual: numbers of any floating-point type.
        expected: an array of the same shape, with the rows as the first dimension.
        probabilities: whether the last dimension sums to 1. Then the magnitude is the largest
            number of the whole output.

    Returns:
        An array of the shape of `expected`. A number is infinite if `actual` is NaN, or differs
        from an `expected` whose magnitude is 0.
    """
    if not expected.size:
        return np.zeros(expected.shape)
    reference = expected.astype(np.float64)
    difference = np.abs(actual.astype(np.float64) - reference)
    difference[np.isnan(difference)] = np.inf
    difference[difference < _indistinct(expected.dtype)] = 0.0
    magnitude = np.abs(reference)
    scale = magnitude.max(initial=0.0) if probabilities else _scales(magnitude)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)


def is_finite(array: NDArray[Any]) -> bool:
    """Return whether an array holds neither infinity nor NaN; texts are neither."""
    return array.dtype == object or bool(np.isfinite(array).all())


def tolerated(tolerance: float, dtype: np.dtype[Any]) -> float:
    """Return the tolerance for an output of this type: `tolerance`, or more for a coarse type."""
    return max(tolerance, ROUNDING_STEPS * float(np.finfo(dtype).eps))


def excess(
    difference: NDArray[np.float64], tolerance: float, dtype: np.dtype[Any], *, same: bool = False
) -> str:
    """Return by how much an output exceeds the tolerance, as "by 0.02, more than 0.0078".

    If each layer rounds to half precision, the rounding errors of a deep network add up. Two
    runtimes that round at different places then differ by many steps in a few numbers and by few
    steps in most. The root mean square must therefore be within the tolerance, and each number
    within `OUTLIERS` times the tolerance.

    Args:
        difference: the relative difference of each number.
        tolerance: the requested tolerance.
        dtype: the type of the output.
        same: whether one runtime computed both outputs. Then each number must be within the
            tolerance.

    Returns:
        An empty text if the output is within the tolerance.
    """
    allowed = tolerated(tolerance, dtype)
    largest = float(difference.max(initial=0.0))
    if largest <= allowed:
        return ""
    if same or allowed < HALF_PRECISION:
        return f"by {largest:.3g}, more than {allowed:g}"
    if largest > OUTLIERS * allowed:
        return f"by {largest:.3g}, more than {OUTLIERS * allowed:g}"
    usual = float(np.sqrt(np.mean(np.square(difference))))
    return f"by {usual:.3g} in most numbers, more than {allowed:g}" if usual > allowed else ""


def _scales(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the divisor of each number: the magnitude of its column, scaled up in large rows.

    If the numbers of a row are `n` times as large as usual, its rounding errors are too.
    """
    columns = _column_magnitudes(magnitude)
    with np.errstate(divide="ignore", invalid="ignore"):
        enlarged = np.nan_to_num(magnitude / columns, nan=0.0, posinf=0.0)
    rows = enlarged.max(axis=tuple(range(1, magnitude.ndim)), initial=1.0, keepdims=True)
    scales: NDArray[np.float64] = columns * rows
    return scales


def _column_magnitudes(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the usual magnitude of each column, in a shape that broadcasts.

    A column is one index of an inner dimension. Of several inner dimensions, the columns are those
    of the dimension along which the magnitudes differ most.
    """
    usual = _usual(magnitude, tuple(range(magnitude.ndim)))
    if len(magnitude) < 2 or magnitude.ndim < 2:
        return usual
    columns = max(
        (
            _usual(
                magnitude,
                tuple(other_axis for other_axis in range(magnitude.ndim) if other_axis != axis),
            )
            for axis in range(1, magnitude.ndim)
        ),
        key=_ratio,
    )
    return np.where(columns == 0, usual, columns) if len(magnitude) < FEW_ROWS else columns


def _ratio(columns: NDArray[np.float64]) -> float:
    """Return the largest of some magnitudes over the smallest that is not 0."""
    positive = columns[columns > 0]
    return float(positive.max() / positive.min()) if positive.size else 0.0


def _usual(magnitude: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the median of the numbers that are not 0, over some axes; 0 if all are 0."""
    moved = np.moveaxis(magnitude, axes, range(len(axes)))
    flat = np.sort(moved.reshape(-1, *moved.shape[len(axes) :]), axis=0)
    zeros = (flat == 0).sum(axis=0)
    middle = np.minimum((zeros + len(flat)) // 2, len(flat) - 1)
    median = np.take_along_axis(flat, middle[None], axis=0)[0]
    return np.expand_dims(median, axes)


def _indistinct(dtype: np.dtype[Any]) -> float:
    """Return the bound below which a type has so few numbers that a device may round them to 0."""
    limits = np.finfo(dtype)
    return float(limits.tiny) if dtype.itemsize > 2 else 4 * float(limits.smallest_subnormal)
