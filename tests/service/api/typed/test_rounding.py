"""Seven significant digits of any float32: small values are kept, noise is removed."""

from collections.abc import Sequence

import numpy as np
import pytest

from service.api.typed.rounding import seven_digits


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


def test_no_values_give_no_values() -> None:
    assert seven_digits(np.zeros(0, np.float32)) == []


def test_both_algorithms_round_equally() -> None:
    drawn = np.random.default_rng(1)
    values = (drawn.standard_normal(50_000) * 10 ** drawn.uniform(-14, 6, 50_000)).astype(
        np.float32
    )
    values[::100] = 0
    assert seven_digits(values) == decimals(values.tolist())
