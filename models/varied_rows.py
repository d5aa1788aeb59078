"""Rows unlike the given ones, on which neighbours that matter show."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from models.runtimes import Arrays, Runtime

KINDS = 6
"""As given, scaled, mixed of several rows, drawn anew, extremes alone, the row before again."""


def varied_rows(
    rows: Arrays, count: int, signed: Collection[str] = ()
) -> dict[str, NDArray[np.generic]]:
    """So many rows, the same on every call, within or about the range of the given ones.

    Args:
        rows: inputs by name, of numbers or truth values, all with as many rows.
        count: of the rows to give.
        signed: the inputs of whole numbers of which some rows are to be negative.

    Returns:
        Inputs by name. Whole numbers stay between the least and the largest given, or between these
        with another sign; others are at most eight times as large as the given ones.
    """
    random = np.random.default_rng(1)
    kinds = random.integers(0, KINDS, count)
    given = random.integers(0, len(next(iter(rows.values()))), count)
    factors = 2.0 ** random.uniform(-6, 3, count)
    varied: dict[str, NDArray[np.generic]] = {}
    for name, array in rows.items():
        floats = array.dtype.kind == "f"
        if not array.size:
            varied[name] = np.empty((count, *array.shape[1:]), array.dtype)
            continue
        shape, least, largest = array.shape[1:], array.min(), array.max()
        many = array[given].copy()
        for index, kind in enumerate(kinds):
            if kind == 1 and floats:
                many[index] = (array[given[index]] * factors[index]).astype(array.dtype)
            elif kind == 2:
                chosen = random.integers(0, len(array), shape)
                many[index] = np.take_along_axis(array, chosen[None], axis=0)[0]
            elif kind == 3 and floats:
                magnitude = max(abs(float(least)), abs(float(largest))) or 1.0
                many[index] = (random.normal(size=shape) * magnitude / 2).astype(array.dtype)
            elif kind in (1, 3):
                many[index] = random.integers(least, largest, shape, array.dtype, endpoint=True)
                if kind == 1 and name in signed:
                    many[index] = -many[index]
            elif kind == 4:
                high = random.integers(0, 2, shape) == 1
                many[index] = np.where(high, largest, least)
                if floats:  # not the same number twice, or what sorts them may choose
                    some = random.uniform(0, 1e-3, shape) * (float(largest) - float(least))
                    many[index] += np.where(high, -some, some).astype(array.dtype)
            elif kind == KINDS - 1 and index:
                many[index] = many[index - 1]
        varied[name] = many
    return varied


def computable(network: Runtime, rows: Arrays) -> dict[str, NDArray[np.generic]]:
    """Those of the rows to which the network, given each alone, answers like to the others.

    A row that nobody gave may be none that the network takes: that says nothing of the network.
    """
    kept, usual = [], None
    for index in range(len(next(iter(rows.values())))):
        try:
            answer = network({name: array[index : index + 1] for name, array in rows.items()})
        except Exception:  # noqa: BLE001, S112 - whatever it is, this row is left out
            continue
        shapes = {name: array.shape for name, array in answer.items()}
        usual = usual or shapes
        if shapes == usual and all(np.isfinite(array).all() for array in answer.values()):
            kept.append(index)
    return {name: array[kept] for name, array in rows.items()}
