"""Numbers as people read them: floats with the fewest digits that distinguish them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fewest_digits(array: NDArray[Any]) -> list[Any]:
    """Return the values of an array, nested in its shape; a float32 of 0.1 is 0.1."""
    if array.dtype.kind == "f":
        shortest = [float(str(value)) for value in array.ravel()]
        array = np.array(shortest, np.float64).reshape(array.shape)
    values: list[Any] = array.tolist()
    return values
