"""Seven significant digits of any float32: small values are kept, and noise is not shown."""

from collections.abc import Sequence

import numpy as np
import pytest

from service.rounding import seven_digits


def decimals(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6e}") for value in values]


@pytest.mark.parametrize("count", [1, 10, 11, 200_000])
def test_any_float32_is_the_double_nearest_to_its_seven_digits(count: int) -> None:
    bits = np.random.default_rng(count).integers(0, 2**32, count, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(3e-9))
    assert seven_digits(values) == decimals(values.tolist())


@pytest.mark.parametrize("size", [1, 30])
def test_ordinary_values_powers_of_ten_zeros_and_the_extremes(size: int) -> None:
    limits = np.finfo(np.float32)
    values = np.array(
        [0, -0.0, 3e-9, 0.1, 1, -2.5, 9.9999999, 1e7, 1e10, 1e22, 1e30, 99999.995,
         limits.max, limits.min, limits.tiny, limits.smallest_subnormal] * size,
        np.float32,
    )  # fmt: skip
    assert seven_digits(values) == decimals(values.tolist())


@pytest.mark.parametrize("rows", [0, 2, 40])
def test_rows_stay_rows(rows: int) -> None:
    values = np.full((rows, 3), 0.1, np.float32)
    assert seven_digits(values) == [[0.1] * 3] * rows
