"""Variations of given rows, on which a dependence of rows on each other shows."""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from models.graphs import sample_texts
from models.runtimes.differences import is_finite
from models.runtimes.runtime import Arrays

KINDS = 6
"""A given row; scaled; mixed from several rows; random; extremes only; the previous row again."""


def varied_rows(
    rows: Arrays, count: int, signed: Collection[str] = (), shared: Collection[str] = ()
) -> dict[str, NDArray[np.generic]]:
    """Return `count` rows within or near the range of the given rows, the same on every call.

    Args:
        rows: inputs by name, of numbers, truth values or texts, with the same number of rows each.
        count: the number of rows to return.
        signed: the inputs of whole numbers for which some rows are to be negative.
        shared: the inputs whose rows are equal; they stay as they are.

    Returns:
        Inputs by name. Whole numbers stay between the smallest and largest given number, or between
        these with the opposite sign. Other numbers are at most eight times as large as the given
        numbers.
    """
    random = np.random.default_rng(1)
    kinds = random.integers(0, KINDS, count)
    sources = random.integers(0, len(next(iter(rows.values()))), count)
    factors = 2.0 ** random.uniform(-6, 3, count)
    varied: dict[str, NDArray[np.generic]] = {}
    for name, array in rows.items():
        if name in shared:
            varied[name] = np.resize(array, (count, *array.shape[1:]))
            continue
        floats = array.dtype.kind == "f"
        if array.dtype == object:
            varied[name] = sample_texts.varied(random, array, kinds, sources)
            continue
        if not array.size:
            varied[name] = np.empty((count, *array.shape[1:]), array.dtype)
            continue
        shape, least, largest = array.shape[1:], array.min(), array.max()
        rows_of_input = array[sources].copy()
        for index, kind in enumerate(kinds):
            if kind == 1 and floats:
                rows_of_input[index] = (array[sources[index]] * factors[index]).astype(array.dtype)
            elif kind == 2:
                chosen = random.integers(0, len(array), shape)
                rows_of_input[index] = np.take_along_axis(array, chosen[None], axis=0)[0]
            elif kind == 3 and floats:
                magnitude = max(abs(float(least)), abs(float(largest))) or 1.0
                rows_of_input[index] = (random.normal(size=shape) * magnitude / 2).astype(
                    array.dtype
                )
            elif kind in (1, 3):
                rows_of_input[index] = random.integers(
                    least, largest, shape, array.dtype, endpoint=True
                )
                if kind == 1 and name in signed:
                    rows_of_input[index] = -rows_of_input[index]
            elif kind == 4:
                high = random.integers(0, 2, shape) == 1
                rows_of_input[index] = np.where(high, largest, least)
                if floats:  # no number twice, or an operator that sorts may choose the order
                    noise = random.uniform(0, 1e-3, shape) * (float(largest) - float(least))
                    rows_of_input[index] += np.where(high, -noise, noise).astype(array.dtype)
            elif kind == KINDS - 1 and index:
                rows_of_input[index] = rows_of_input[index - 1]
        varied[name] = rows_of_input
    return varied


def computable(network: Callable[[Arrays], Arrays], rows: Arrays) -> dict[str, NDArray[np.generic]]:
    """Return the rows that the network computes alone, with finite outputs of the usual shapes.

    A generated row may not be valid input. The failure of such a row says nothing of the network.
    """
    finite_rows, usual = [], None
    for index in range(len(next(iter(rows.values())))):
        try:
            outputs = network({name: array[index : index + 1] for name, array in rows.items()})
        except Exception:  # noqa: BLE001, S112 - a row with any error is left out
            continue
        shapes = {name: array.shape for name, array in outputs.items()}
        usual = usual or shapes
        if shapes == usual and all(map(is_finite, outputs.values())):
            finite_rows.append(index)
    return {name: array[finite_rows] for name, array in rows.items()}
