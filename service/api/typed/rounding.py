"""Round single precision to its seven significant digits for JSON."""

import numpy as np
from numpy.typing import NDArray

DIGITS = 7
_EXACT = 22
"""The largest power of ten that a double holds exactly, so that a division by it rounds once."""
_FEW = 10  # values that Python rounds faster than numpy


def seven_digits(values: NDArray[np.float32]) -> list[float]:
    """Round to seven significant digits.

    Args:
        values: finite, of shape [N].

    Returns:
        The doubles nearest to these decimals: JSON shows at most seven digits of each.
    """
    if values.size > _FEW:
        exact = values.astype(np.float64)
        magnitudes = np.abs(exact)
        exponents = np.log10(magnitudes, out=np.zeros_like(exact), where=magnitudes > 0)
        places = DIGITS - 1 - np.floor(exponents)
        if places.min() >= 0 and places.max() <= _EXACT:
            powers = 10.0**places
            rounded: list[float] = (np.rint(exact * powers) / powers).tolist()
            return rounded
    return [float(f"{value:.{DIGITS - 1}e}") for value in values.tolist()]
