"""The largest size of each free dimension: as `--max-length` gives it, or found by doubling.

A request with a larger size is refused. Without the option, the sizes are doubled while a row takes
little time and memory, so that a short sample does not make a short maximum. If the network itself
has a largest size, as one with a table of positions, that size is found.
"""

import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from models.errors import AddError
from models.runtimes.arena import limit_arena
from models.runtimes.differences import is_finite
from models.runtimes.runtime import Arrays, DeclaredTensor, Runtime, one_line
from models.sources.free_sizes import (
    MOST_NUMBERS,
    count_values,
    dimension_key,
    free_dimensions,
    resized,
)
from models.sources.importing import ForeignGraph
from models.sources.samples import Samples

FACTOR = 16
"""By default, the maximum is at most this many times the size of the sample, or `LEAST_GOAL`."""
LEAST_GOAL = 512
LONGEST_ROW_SECONDS = 0.5
"""After a row that takes longer, the sizes are not doubled again."""
ROW_BYTES = 2**30
"""Sizes at which a row takes more memory are not found; `--max-length` may give them."""

Sizes = Mapping[Hashable, int]
"""Free dimensions, by `free_sizes.dimension_key`."""


class Failure(NamedTuple):
    """Why a size is not computed: `too_costly`, or an error of the network."""

    reason: str
    too_costly: bool = False


class MaxLength(NamedTuple):
    """The largest size of the free dimension called `name`; without a name, of all of them."""

    name: str | None
    size: int


def parse_max_length(text: str) -> MaxLength:
    """Parse `512`, `length=512` (the graph's name of a dimension) or `x.1=512` (axis 1 of x).

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, equals, size = text.rpartition("=")
    if not (size.isascii() and size.isdigit() and 0 < int(size) < 2**31) or (equals and not name):
        raise ArgumentTypeError(f"{text!r} must be N or NAME=N, as 512, length=512 or x.1=512")
    return MaxLength(name or None, int(size))


def given_sizes(inputs: Sequence[DeclaredTensor], lengths: Sequence[MaxLength]) -> Sizes:
    """Return the sizes of `--max-length`, by dimension.

    Raises:
        AddError: a name is unknown, or names a dimension twice.
    """
    keys = {
        f"{tensor.name}.{axis}": dimension_key(tensor, axis)
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if axis > 0 and (not isinstance(size, int) or size < 0)
    }
    keys |= {key: key for key in keys.values() if isinstance(key, str)}
    if lengths and not keys:
        raise AddError("--max-length is for free dimensions, and the inputs have none: omit it")
    sizes: dict[Hashable, int] = {}
    for name, size in sorted(lengths, key=lambda length: length.name is not None):
        if name is None:
            sizes |= dict.fromkeys(keys.values(), size)
        elif name not in keys:
            known = ", ".join(keys)
            raise AddError(f"--max-length names {name!r}: the free dimensions are {known}")
        else:
            sizes[keys[name]] = size
    if len({keys.get(length.name or "") for length in lengths}) < len(lengths):
        raise AddError("--max-length names a dimension twice: give each dimension one size")
    return sizes


def within(samples: Samples, inputs: Sequence[DeclaredTensor], given: Sizes) -> Samples:
    """Return the samples; random rows are cut to the given sizes.

    Raises:
        AddError: a given row is larger.
    """
    sizes = free_dimensions(inputs, samples.rows)
    smaller = {key: size for key, size in given.items() if size < sizes[key]}
    if not smaller:
        return samples
    if samples.real:
        key, size = next(iter(smaller.items()))
        raise AddError(
            f"the sample has the size {sizes[key]} in {shown(key)}, and --max-length is {size}: "
            "give shorter rows, or a larger maximum"
        )
    rows = {
        tensor.name: resized(tensor, samples.rows[tensor.name], sizes | smaller)
        for tensor in inputs
    }
    return replace(samples, rows=rows)


def largest_sizes(graph: ForeignGraph, content: bytes, rows: Arrays, given: Sizes) -> Sizes:
    """Return the largest size of each free dimension; one row is computed at all of them.

    Args:
        graph: the network.
        content: the bytes of its file.
        rows: samples; as many rows as the network takes at a time are used.
        given: sizes that are not changed.

    Raises:
        AddError: the network fails at a given size.
    """
    inputs = graph.network.inputs
    sizes = free_dimensions(inputs, rows)
    if not sizes:
        return {}
    batch = graph.fixed_batch or 1
    goals = {key: max(FACTOR * size, LEAST_GOAL) for key, size in sizes.items()}
    growing = sizes.keys() - given.keys()
    sizes |= given
    if given:
        failure = _failure(graph.network, inputs, rows, sizes, batch)
        if failure:
            shapes = ", ".join(f"{shown(key)}={size}" for key, size in given.items())
            raise AddError(
                f"{graph.file}: it fails at --max-length {shapes} ({failure.reason}): give the "
                "largest size that it can compute"
            )
    if not growing:
        return sizes
    limit_arena(ROW_BYTES)
    network = graph.opened(content, bounded=True)

    def failure_at(tried_sizes: Sizes) -> Failure | None:
        return _failure(network, inputs, rows, tried_sizes, batch)

    while True:
        larger = _doubled(sizes, growing, goals)
        if larger == sizes:
            return sizes
        started = time.monotonic()
        failure = failure_at(larger)
        if failure is None:
            sizes = larger
            if (time.monotonic() - started) / batch > LONGEST_ROW_SECONDS:
                return sizes
            continue
        if failure.too_costly:
            return sizes
        # Some dimensions may have one size only, although the graph leaves them free.
        growable = {key for key in growing if failure_at(_doubled(sizes, {key}, goals)) is None}
        if not growable:
            return _between(sizes, larger, failure_at)
        if growable == growing:
            return sizes
        growing = growable


def _between(sizes: Sizes, failing: Sizes, failure_at: Callable[[Sizes], Failure | None]) -> Sizes:
    """Return the largest sizes that are computed between two, by bisection."""
    low, high = 0, max(failing[key] - sizes[key] for key in sizes)
    while high - low > 1:
        middle = (low + high) // 2
        tried_sizes = {key: min(size + middle, failing[key]) for key, size in sizes.items()}
        if failure_at(tried_sizes) is None:
            low = middle
        else:
            high = middle
    return {key: min(size + low, failing[key]) for key, size in sizes.items()}


def at_sizes(inputs: Sequence[DeclaredTensor], rows: Arrays, sizes: Sizes) -> Arrays:
    """Return the rows at these sizes, cut or repeated from the start."""
    return {tensor.name: resized(tensor, rows[tensor.name], sizes) for tensor in inputs}


def shown(key: Hashable) -> str:
    """Return a free dimension as `--max-length` names it."""
    return key if isinstance(key, str) else "{}.{}".format(*key) if isinstance(key, tuple) else ""


def _doubled(sizes: Sizes, keys: Collection[Hashable], goals: Sizes) -> dict[Hashable, int]:
    doubled = {key: min(max(2 * sizes[key], 1), max(goals[key], sizes[key])) for key in keys}
    return {**sizes, **doubled}


def _failure(
    network: Runtime, inputs: Sequence[DeclaredTensor], rows: Arrays, sizes: Sizes, batch: int
) -> Failure | None:
    """Return why the network does not compute the smallest batch at these sizes."""
    if (
        sum(count_values(tensor, rows[tensor.name][:batch], sizes) for tensor in inputs)
        > MOST_NUMBERS
    ):
        return Failure(f"a row has more than {MOST_NUMBERS:,} values", too_costly=True)
    batches = at_sizes(inputs, {name: array[:batch] for name, array in rows.items()}, sizes)
    try:
        outputs = network(batches)
    except Exception as error:  # noqa: BLE001 - any error: the network does not take this size
        return Failure(one_line(error), isinstance(error, MemoryError))
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != batch:
            return Failure(f"the output {name} is {list(array.shape)} for a batch of {batch}")
        if not is_finite(array):
            return Failure(f"the output {name} is infinite or NaN")
    return None
