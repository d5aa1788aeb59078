"""Single precision as JSON: the seven significant digits that it has, and none of the noise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 7
_SMALLEST, _LARGEST = -45, 38  # decimal exponents of float32
# Each power of ten as the sum of two doubles: one double holds it exactly up to 10^22 alone.
_POWERS = [10**exponent for exponent in range(DIGITS - _SMALLEST + 1)]
_HIGH = np.array([float(power) for power in _POWERS])
_LOW = np.array([float(power - int(float(power))) for power in _POWERS])
_FEW = 10  # values that Python rounds sooner than numpy does
_SPLIT = 2.0**27 + 1


def seven_digits(values: NDArray[np.float32]) -> list[Any]:
    """Round to seven significant digits.

    Args:
        values: finite, of any shape.

    Returns:
        As `tolist` nests them, the doubles nearest to those decimals: JSON shows at most seven
        digits of each.
    """
    if values.size <= _FEW:
        rounded = [float(f"{value:.{DIGITS - 1}e}") for value in values.ravel().tolist()]
        return np.array(rounded).reshape(values.shape).tolist()  # type: ignore[no-any-return]  # nested
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
    exponents = np.clip(exponents, _SMALLEST, _LARGEST)  # 0 has -infinity
    shift = (DIGITS - 1 - exponents).astype(np.intp)
    if shift.min() >= 0 and shift.max() <= 22:
        power = _HIGH[shift]
        return (np.rint(exact * power) / power).tolist()  # type: ignore[no-any-return]  # nested
    high, low = _HIGH[np.abs(shift)], _LOW[np.abs(shift)]
    whole = np.rint(np.where(shift >= 0, exact * high, exact / high))
    # The quotient and the product, each corrected by what its rounding left over.
    quotient = whole / high
    product = quotient * high
    quotient += (whole - product - _error(quotient, high, product) - quotient * low) / high
    product = whole * high
    product += _error(whole, high, product) + whole * low
    return np.where(shift >= 0, quotient, product).tolist()  # type: ignore[no-any-return]  # nested


def _error(
    a: NDArray[np.float64], b: NDArray[np.float64], product: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a * b has beyond `product`, its rounding: exact (Dekker's product)."""
    a_high, b_high = (x * _SPLIT - (x * _SPLIT - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    error: NDArray[np.float64] = (
        (a_high * b_high - product) + a_high * b_low + a_low * b_high
    ) + a_low * b_low
    return error
