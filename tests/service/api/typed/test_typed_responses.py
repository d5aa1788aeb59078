"""The responses of the typed endpoints, made of a network's outputs."""

import numpy as np

from service.api.typed.responses import curve


def test_a_curve_of_small_values_is_not_rounded_to_zero() -> None:
    y = np.array([[3e-9], [1.2345678e-20], [0], [12345.678]], np.float32)
    assert curve("net", "1", y)["y"] == [3e-9, 1.234568e-20, 0.0, 12345.68]
