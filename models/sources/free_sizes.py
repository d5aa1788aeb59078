"""Rows with other sizes in the free dimensions of a graph.

A network may compute correctly at the length of its samples only: for example, a module that was
traced at that length.
"""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.runtimes.runtime import Arrays, DeclaredTensor, Runtime

MOST_NUMBERS = 10**7
"""Rows with more values are not tested."""
MOST_SECONDS = 20.0
"""The total time for the row checks at sizes that are powers of two."""
RUNS = 60
"""The approximate number of rows that the check of one size computes."""
SECONDS_OF_A_NUMBER = 2e-7
"""The time to generate and compare one value."""
POWERS = tuple(2**exponent for exponent in range(10))

_CHANGES: Sequence[Callable[[int], int]] = (
    lambda _: 1,
    lambda size: size + 1,
    lambda size: 3 * size // 2,
    lambda size: 2 * size,
    lambda size: max(size // 2, 1),
)


def other_sizes(
    network: Runtime,
    inputs: Sequence[DeclaredTensor],
    rows: Arrays,
    batch: int = 1,
    largest: Mapping[Hashable, int] | None = None,
) -> list[dict[str, NDArray[np.generic]]]:
    """Return the rows with size 1 and larger sizes, in all free dimensions and in each one alone.

    The sizes include powers of two and the largest sizes, as far as the time for their check
    allows.

    Args:
        network: sizes whose first rows it cannot compute are omitted.
        inputs: the declared inputs; dimensions with the same name have the same size.
        rows: inputs by name, at least `batch` rows of each.
        batch: the batch size of the network.
        largest: the largest size of each free dimension; None for any.

    Returns:
        Inputs by name for each size, with as many rows as `rows`. Empty if no dimension is free, or
        if every size is too large.
    """
    free, resized_rows, seconds_left = free_dimensions(inputs, rows), [], MOST_SECONDS
    tried = [free]
    for sizes, is_limited in _sizes(free, largest):
        if sizes in tried or seconds_left < 0:
            continue
        if largest and any(size > largest[key] for key, size in sizes.items()):
            continue
        tried.append(sizes)
        if sum(count_values(tensor, rows[tensor.name], sizes) for tensor in inputs) > MOST_NUMBERS:
            continue
        candidate = {tensor.name: resized(tensor, rows[tensor.name], sizes) for tensor in inputs}
        started = time.monotonic()
        try:
            outputs = network({name: array[:batch] for name, array in candidate.items()})
        except Exception:  # noqa: BLE001, S112 - the network does not accept this size
            continue
        if is_limited:
            numbers = sum(
                math.prod(array.shape[1:]) for array in (*candidate.values(), *outputs.values())
            )
            seconds = (time.monotonic() - started) / batch + SECONDS_OF_A_NUMBER * numbers
            seconds_left -= RUNS * seconds
        if seconds_left >= 0:
            resized_rows.append(candidate)
    return resized_rows


def free_dimensions(inputs: Sequence[DeclaredTensor], rows: Arrays) -> dict[Hashable, int]:
    """Return the size of each free dimension of the rows."""
    return {
        dimension_key(tensor, axis): rows[tensor.name].shape[axis]
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if axis > 0 and _is_free(size)
    }


def _is_free(size: int | str | None) -> bool:
    """Return whether a declared dimension may have any size; some exporters write -1 for it."""
    return not isinstance(size, int) or size < 0


def dimension_key(tensor: DeclaredTensor, axis: int) -> Hashable:
    """Return the key that axes of the same size share: their name, or the axis itself."""
    size = tensor.shape[axis]
    return size if isinstance(size, str) and size else (tensor.name, axis)


def _sizes(
    free: Mapping[Hashable, int], largest: Mapping[Hashable, int] | None
) -> Iterator[tuple[dict[Hashable, int], bool]]:
    """Yield the sizes to test, and whether the time for their check is limited."""
    groups: list[tuple[Hashable, ...]] = [tuple(free)] if free else []
    if len(free) > 1:
        groups += [(key,) for key in free]
    for keys in groups:
        for change in _CHANGES:
            yield {**free, **{key: change(free[key]) for key in keys}}, False
    for power in POWERS if free else ():
        yield dict.fromkeys(free, power), True
    if largest:
        yield dict(largest), True


def count_values(
    tensor: DeclaredTensor, array: NDArray[np.generic], sizes: Mapping[Hashable, int]
) -> int:
    """Return the number of values of the array at these sizes."""
    return math.prod(
        sizes.get(dimension_key(tensor, axis), size) if axis else size
        for axis, size in enumerate(array.shape[: len(tensor.shape)])
    )


def resized(
    tensor: DeclaredTensor, array: NDArray[np.generic], sizes: Mapping[Hashable, int]
) -> NDArray[np.generic]:
    """Return the array with its free dimensions cut, or repeated from the start."""
    for axis, declared_size in enumerate(tensor.shape):
        if axis > 0 and _is_free(declared_size):
            size = sizes[dimension_key(tensor, axis)]
            if size == array.shape[axis]:
                continue
            if not array.shape[axis]:  # nothing to repeat
                shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
                array = np.full(shape, "" if array.dtype == object else 0, array.dtype)
            else:
                array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return array
