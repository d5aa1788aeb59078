"""The sample rows for tests of a network of unknown origin: given rows or random rows."""

import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.graphs.sample_texts import made_up
from models.kinds.tensor_spec import TensorSpec
from models.package.files import FileError, open_file, unreadable
from models.runtimes.bfloat16 import rounded
from models.runtimes.differences import is_finite
from models.runtimes.runtime import Arrays
from models.sources.ranges import check_samples, whole_numbers

LARGEST_BATCH = 256
"""The largest batch of the service by default, in rows."""
RANDOM_ROWS = 64
FREE_SIZE = 32
"""The size of free dimensions in random rows."""
MAX_ROW_NUMBERS = 2**16
"""The most numbers in a random row. Free dimensions are reduced, fixed dimensions are not."""
MAX_NUMBERS = 2**26
"""The most numbers in all random rows together, unless two rows already hold more."""


@dataclass(frozen=True)
class Samples:
    """Two or more rows of every input; whole batches if the batch size is fixed."""

    rows: Arrays
    real: bool
    """Whether the rows were given; otherwise they are random."""
    fixed_batch: int | None
    signed: frozenset[str] = frozenset()
    """The inputs of whole numbers that may be negative, even if no row has a negative number."""
    largest_check: int = LARGEST_BATCH
    """The most rows that are computed in one batch of the checks."""
    shared: frozenset[str] = frozenset()
    """The inputs that the rows share: all rows are equal."""
    apart: bool = False
    """Whether each row is compared by itself, since the sizes of the outputs may differ."""

    @property
    def count(self) -> int:
        """The number of rows of every input."""
        return len(next(iter(self.rows.values())))

    @property
    def row_size(self) -> int:
        """The numbers in one row of all inputs."""
        return sum(math.prod(array.shape[1:]) for array in self.rows.values())

    @property
    def smallest(self) -> list[Arrays]:
        """All rows in the smallest batches that the network takes: single rows if possible."""
        size = self.fixed_batch or 1
        return [
            {name: array[start : start + size] for name, array in self.rows.items()}
            for start in range(0, self.count, size)
        ]

    def resized(self, count: int) -> Arrays:
        """Return `count` rows: the first rows, repeated from the start if there are too few."""
        return {
            name: np.resize(array, (count, *array.shape[1:])) for name, array in self.rows.items()
        }


def random_samples(
    inputs: Sequence[TensorSpec],
    fixed_batch: int | None,
    words: Sequence[str] = (),
    shared: Mapping[str, Sequence[float]] | None = None,
) -> Samples:
    """Return random rows, the same on every call.

    The rows of a shared input are equal: a random one, or the first of its values, if it has any.

    Floating-point numbers have a standard normal distribution, rounded to sixteenths: such numbers
    are exact in every datatype and short in the card. Whole numbers are 0 to 255, or to the
    datatype's maximum. If an input has a range, its numbers are uniform in the range; if one side
    is open, in an interval of length 255 at the stated end. The number of rows is lower if rows are
    large. Texts are made of `words`, which the graph names, and of others.
    """
    random = np.random.default_rng(0)
    free = _free_size(inputs)
    row = sum(_count(spec, free) for spec in inputs)
    wanted = min(max(MAX_NUMBERS // row, 2), RANDOM_ROWS)
    count = wanted if fixed_batch is None else -(-wanted // fixed_batch) * fixed_batch
    rows = {}
    for spec in inputs:
        shape = (count, *(free if size == -1 else size for size in spec.shape[1:]))
        is_text = spec.datatype == "BYTES"
        rows[spec.name] = (
            made_up(random, shape, words) if is_text else _random_values(random, spec, shape)
        )
    for name, values in (shared or {}).items():
        rows[name][:] = values[0] if values else rows[name][0]
    return Samples(rows, False, fixed_batch, _signed(inputs), shared=frozenset(shared or {}))


def _free_size(inputs: Sequence[TensorSpec]) -> int:
    """Return the size of free dimensions: `FREE_SIZE`, or less if several make a huge row."""
    size = FREE_SIZE
    while size > 2 and sum(_count(spec, size) for spec in inputs) > MAX_ROW_NUMBERS:
        size //= 2
    return size


def _count(spec: TensorSpec, free: int) -> int:
    """Return how many numbers a row holds if its free dimensions have this size."""
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
        values = (low * (1 - share) + high * share).astype(spec.dtype).clip(low, high)
        return rounded(values) if spec.datatype == "BF16" else values
    least, largest = whole_numbers(spec)
    numbers = random.integers(
        max(int(low), least), min(int(high), largest), shape, np.dtype(spec.dtype), endpoint=True
    )
    return numbers.astype(spec.dtype)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file; texts as arrays of `str`.

    Raises:
        AddError: the file cannot be read, or has another format.
    """
    try:
        with open_file(path) as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            return {
                name: array.astype(object) if array.dtype.kind == "U" else array
                for name, array in arrays.items()
            }
    except FileError as error:
        raise AddError(f"{path}: {error}") from error
    except OSError as error:
        raise AddError(f"{path}: {unreadable(error)}") from error
    except MemoryError as error:
        raise AddError(f"{path}: its arrays do not fit into the memory: give fewer rows") from error
    except (AttributeError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):
            raise AddError(
                f"{path}: an array in it holds Python objects, which are not read: give texts as "
                "numpy.array(texts, 'U')"
            ) from error
        raise AddError(f"{path}: it is no .npz file: write it with numpy.savez") from error


def has_nan(arrays: Arrays) -> bool:
    """Return whether a number is missing."""
    return any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array in arrays.values())


def rows_without_nan(arrays: Arrays) -> NDArray[np.intp]:
    """Return the places of the rows in which no number is missing; the rows are first."""
    count = len(next(iter(arrays.values())))
    whole = np.ones(count, bool)
    for array in arrays.values():
        if array.dtype.kind == "f":
            whole &= ~np.isnan(array).reshape(count, -1).any(axis=1)
    return np.flatnonzero(whole)


def given_samples(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    inputs: Sequence[TensorSpec],
    fixed_batch: int | None,
    shared: Collection[str] = (),
) -> Samples:
    """Return the arrays as rows, in the datatypes of the inputs.

    Raises:
        AddError: the arrays do not fit the inputs.
    """
    rows = {}
    for spec in inputs:
        array = _as_texts(path, spec, arrays[spec.name])
        fits = replace(spec, shape=(-1, *spec.shape[1:])).takes(array.shape)  # any number of rows
        if not fits or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            found, wanted = _kind(array.dtype), _kind(spec.dtype)
            raise AddError(
                f"{path}: {spec.name} is {found} {list(array.shape)}, and the network takes "
                f"{spec.to_text()}: give rows of that shape, as {wanted}"
            )
        if not is_finite(array):
            raise AddError(f"{path}: {spec.name} holds infinity or NaN: give finite numbers")
        rows[spec.name] = _converted(path, spec, array)
    check_samples(rows, inputs, str(path))
    for name in shared:
        if not np.array_equal(rows[name][1:], rows[name][:-1]):
            raise AddError(
                f"{path}: it holds several values of {name}, which the rows share: give one value, "
                f"and further ones with --shared {name}=VALUE,…"
            )
    counts = {len(array) for array in rows.values()}
    if len(counts) > 1 or min(counts) < (1 if fixed_batch == 1 else 2):
        found = ", ".join(f"{len(array)} rows of {name}" for name, array in rows.items())
        raise AddError(f"{path}: it holds {found}: give two or more, and as many of every input")
    if fixed_batch and min(counts) % fixed_batch:
        raise AddError(
            f"{path}: it holds {min(counts)} rows, and the network computes {fixed_batch} at a "
            f"time: give a multiple of {fixed_batch} rows"
        )
    return Samples(rows, True, fixed_batch, _signed(inputs), shared=frozenset(shared))


def _kind(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind == "O" else str(dtype)


def _as_texts(path: Path, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as texts, which may be UTF-8 in `S`, for an input of text."""
    if spec.datatype != "BYTES":
        return array
    if array.dtype.kind not in "OS":
        raise AddError(
            f"{path}: {spec.name} is {array.dtype}, and the network takes text: give "
            "numpy.array(texts, 'U')"
        )
    try:
        texts = array if array.dtype == object else np.strings.decode(array).astype(object)
    except UnicodeDecodeError as error:
        raise AddError(f"{path}: {spec.name} holds bytes that are no UTF-8: {error}") from error
    return texts


def _converted(path: Path, spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        return array
    with np.errstate(over="ignore"):
        found = array.astype(spec.dtype)
    if spec.datatype == "BF16":
        found = rounded(found)
    if not np.isfinite(found).all() or (array.dtype.kind in "iu" and (found != array).any()):
        raise AddError(
            f"{path}: {spec.name} holds a number that is no {spec.datatype}: give smaller numbers"
        )
    return found


def _signed(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    return frozenset(
        spec.name for spec in inputs if spec.dtype.kind == "i" and spec.minimum is None
    )
