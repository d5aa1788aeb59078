"""The rows that a network of unknown origin is tried on: those that are given, or random ones."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import TensorSpec
from models.files import FileError, open_file, unreadable
from models.foreign import AddError
from models.ranges import check_samples, whole_numbers
from models.runtimes import Arrays

RANDOM_ROWS = 64
FREE_SIZE = 32
"""The size of random rows in a dimension that may have any."""
LARGEST_ROW = 2**16
"""Numbers in a random row, as far as the sizes of free dimensions decide it."""
MOST_NUMBERS = 2**26
"""Numbers in all random rows together, as far as two rows allow."""


@dataclass(frozen=True)
class Samples:
    """Two or more rows of every input; where the batch is fixed, whole batches."""

    rows: Arrays
    real: bool
    """Whether somebody gave them; else they are random."""
    fixed_batch: int | None
    signed: frozenset[str] = frozenset()
    """The inputs of whole numbers that may be negative, though the rows may hold none."""

    @property
    def count(self) -> int:
        """How many rows there are of every input."""
        return len(next(iter(self.rows.values())))

    @property
    def row_size(self) -> int:
        """How many numbers one row of all inputs holds."""
        return sum(array[0].size for array in self.rows.values())

    @property
    def smallest(self) -> list[Arrays]:
        """All rows in the smallest batches that the network takes: each row alone, if it can."""
        size = self.fixed_batch or 1
        return [
            {name: array[start : start + size] for name, array in self.rows.items()}
            for start in range(0, self.count, size)
        ]

    def resized(self, count: int) -> Arrays:
        """So many rows: the first ones, and again from the first where there are too few."""
        return {
            name: np.resize(array, (count, *array.shape[1:])) for name, array in self.rows.items()
        }


def random_samples(inputs: Sequence[TensorSpec], fixed_batch: int | None) -> Samples:
    """Random rows, the same on every call.

    Floating-point numbers come from a standard normal distribution, in sixteenths: they are exact
    in every datatype, and short in the card. Whole numbers are 0 to 255, or to the datatype's end.
    Where a range is stated, numbers are drawn evenly from it; of one that is open on a side, from
    256 numbers at the end that is stated. Of large rows there are fewer.
    """
    random = np.random.default_rng(0)
    free = _free_size(inputs)
    row = sum(_count(spec, free) for spec in inputs)
    wanted = min(max(MOST_NUMBERS // row, 2), RANDOM_ROWS)
    count = wanted if fixed_batch is None else -(-wanted // fixed_batch) * fixed_batch
    rows = {}
    for spec in inputs:
        shape = (count, *(free if size == -1 else size for size in spec.shape[1:]))
        rows[spec.name] = _random_values(random, spec, shape)
    return Samples(rows, False, fixed_batch, _signed(inputs))


def _free_size(inputs: Sequence[TensorSpec]) -> int:
    """The size of free dimensions: `FREE_SIZE`, or less, so that several make no huge row."""
    size = FREE_SIZE
    while size > 2 and sum(_count(spec, size) for spec in inputs) > LARGEST_ROW:
        size //= 2
    return size


def _count(spec: TensorSpec, free: int) -> int:
    """How many numbers a row holds whose free dimensions have this size."""
    return math.prod(free if size == -1 else size for size in spec.shape[1:])


def _random_values(
    random: np.random.Generator, spec: TensorSpec, shape: Sequence[int]
) -> NDArray[Any]:
    floats = spec.dtype.kind == "f"
    if not spec.enforced:
        if floats:
            return (np.round(random.normal(size=shape) * 16) / 16).astype(spec.dtype)
        largest = {"BOOL": 1, "INT8": 127}.get(spec.datatype, 255)
        return random.integers(0, largest, shape, endpoint=True).astype(spec.dtype)
    low, high = spec.minimum, spec.maximum
    if low is None:
        low = (high or 0) - 255
    if high is None:
        high = low + 255
    if floats:
        share = random.uniform(size=shape)  # high - low may be infinite
        return (low * (1 - share) + high * share).astype(spec.dtype).clip(low, high)
    least, largest = whole_numbers(spec)
    numbers = random.integers(
        max(int(low), least), min(int(high), largest), shape, np.dtype(spec.dtype), endpoint=True
    )
    return numbers.astype(spec.dtype)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file.

    Raises:
        AddError: it cannot be read, or is something else.
    """
    try:
        with open_file(path) as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileError as error:
        raise AddError(f"{path}: {error}") from error
    except OSError as error:
        raise AddError(f"{path}: {unreadable(error)}") from error
    except MemoryError as error:
        raise AddError(f"{path}: its arrays do not fit into the memory: give fewer rows") from error
    except (AttributeError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise AddError(f"{path}: it is no .npz file: write it with numpy.savez") from error


def given_samples(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    inputs: Sequence[TensorSpec],
    fixed_batch: int | None,
) -> Samples:
    """The arrays as rows, in the datatypes of the inputs.

    Raises:
        AddError: they are no rows of these inputs.
    """
    rows = {}
    for spec in inputs:
        array = arrays[spec.name]
        fits = replace(spec, shape=(-1, *spec.shape[1:])).takes(array.shape)  # any number of rows
        if not fits or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise AddError(
                f"{path}: {spec.name} is {array.dtype} {list(array.shape)}, and the network takes "
                f"{spec.describe()}: give rows of that shape, as {spec.dtype}"
            )
        if not np.isfinite(array).all():
            raise AddError(f"{path}: {spec.name} holds infinity or NaN: give finite numbers")
        rows[spec.name] = _converted(path, spec, array)
    check_samples(rows, inputs, str(path))
    counts = {len(array) for array in rows.values()}
    if len(counts) > 1 or min(counts) < 2:
        found = ", ".join(f"{len(array)} rows of {name}" for name, array in rows.items())
        raise AddError(f"{path}: it holds {found}: give two or more, and as many of every input")
    if fixed_batch and min(counts) % fixed_batch:
        raise AddError(
            f"{path}: it holds {min(counts)} rows, and the network computes {fixed_batch} at a "
            f"time: give a multiple of {fixed_batch} rows"
        )
    return Samples(rows, True, fixed_batch, _signed(inputs))


def _converted(path: Path, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        found = array.astype(spec.dtype)
    if not np.isfinite(found).all() or (array.dtype.kind in "iu" and (found != array).any()):
        raise AddError(
            f"{path}: {spec.name} holds a number that is no {spec.datatype}: give smaller numbers"
        )
    return found


def _signed(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    return frozenset(
        spec.name for spec in inputs if spec.dtype.kind == "i" and spec.minimum is None
    )
