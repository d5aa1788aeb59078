"""Rows at other sizes of the dimensions that a graph leaves free.

A network may be right at the one length that it was tried on, and at no other: a module that was
traced at that length is.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from models.runtimes import Arrays, DeclaredTensor, Runtime

TOGETHER = 840, 60
"""So many rows are tried where one fails, a multiple of many numbers; and of large rows so many."""
MOST_NUMBERS = 10**7

_CHANGES: Sequence[Callable[[int], int]] = (
    lambda _: 1,
    lambda size: size + 1,
    lambda size: 3 * size // 2,
    lambda size: 2 * size,
)


def other_sizes(
    network: Runtime, inputs: Sequence[DeclaredTensor], rows: Arrays, batch: int = 1
) -> list[dict[str, NDArray[np.generic]]]:
    """The rows at size 1, and at a larger one, of all free dimensions and of each.

    Args:
        network: computes the first rows of each, or it is left out.
        inputs: as the graph declares them; dimensions of one name have one size.
        rows: inputs by name, at least `batch` rows of each.
        batch: how many rows the network computes at a time.

    Returns:
        Inputs by name, as many rows as were given. Empty where no dimension is free, or all that
        could be tried is too large.
    """
    found = []
    for sizes in _sizes(_free(inputs, rows)):
        resized = {tensor.name: _resized(tensor, rows[tensor.name], sizes) for tensor in inputs}
        if sum(array.size for array in resized.values()) > MOST_NUMBERS:
            continue  # of the largest rows, no larger ones are tried
        try:
            network({name: array[:batch] for name, array in resized.items()})
        except Exception:  # noqa: BLE001, S112 - this size is none that the network takes
            continue
        found.append(resized)
    return found


def answered_together(
    network: Runtime, inputs: Sequence[DeclaredTensor], rows: Arrays
) -> str | None:
    """That the network fails on a row of some size and answers several; None where it does not.

    It takes the numbers of all rows for one sequence then, and shares them out anew.
    """
    for sizes in _sizes(_free(inputs, rows)):
        batch = {}
        for tensor in inputs:
            resized = _resized(tensor, rows[tensor.name], sizes)
            count = TOGETHER[resized[:1].size * TOGETHER[0] > MOST_NUMBERS]
            batch[tensor.name] = np.resize(resized, (count, *resized.shape[1:]))
        try:
            network({name: array[:1] for name, array in batch.items()})
        except Exception:  # noqa: BLE001 - it does not take one row of this size
            with suppress(Exception):
                network(batch)
                shapes = ", ".join(str(list(array.shape)) for array in batch.values())
                return f"it fails on one row and answers {shapes}"
    return None


def _free(inputs: Sequence[DeclaredTensor], rows: Arrays) -> dict[Hashable, int]:
    """The size of each free dimension of the rows."""
    return {
        _key(tensor, axis): rows[tensor.name].shape[axis]
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if axis > 0 and is_free(size)
    }


def is_free(size: int | str | None) -> bool:
    """Whether a dimension that a graph declares so may have any size; some write -1 for it."""
    return not isinstance(size, int) or size < 0


def _key(tensor: DeclaredTensor, axis: int) -> Hashable:
    size = tensor.shape[axis]
    return size if isinstance(size, str) and size else (tensor.name, axis)


def _sizes(free: Mapping[Hashable, int]) -> Iterator[dict[Hashable, int]]:
    """The sizes to try."""
    groups: list[tuple[Hashable, ...]] = [tuple(free)] if free else []
    if len(free) > 1:
        groups += [(key,) for key in free]
    for keys in groups:
        for change in _CHANGES:
            sizes = {**free, **{key: change(free[key]) for key in keys}}
            if sizes != free:
                yield sizes


def _resized(
    tensor: DeclaredTensor, array: NDArray[np.generic], sizes: Mapping[Hashable, int]
) -> NDArray[np.generic]:
    """The array with its free dimensions cut, or continued from their beginning."""
    for axis, stated in enumerate(tensor.shape):
        if axis > 0 and is_free(stated):
            size = sizes[_key(tensor, axis)]
            if not array.shape[axis]:  # nothing to continue
                shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
                array = np.zeros(shape, array.dtype)
            else:
                array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return array
