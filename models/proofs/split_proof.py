"""`--split-by`: which outputs are divided among the rows, and the check that rows keep their own.

The graph must select the entries of each row by itself, which is followed (`entry_mixing`). In
addition, rows are computed alone and beside others, and must have equal entries in the same order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.graphs.entry_mixing import entry_mixing
from models.kinds.split_rows import SplitError, SplitSpec
from models.package.card import ParityRecord
from models.proofs.parity import BATCH_SIZES, RELATIVE_TOLERANCE
from models.proofs.varied_rows import computable, varied_rows
from models.runtimes.differences import excess, relative_difference
from models.runtimes.rows_first import RowsFirst
from models.runtimes.runtime import Arrays, one_line
from models.sources.importing import ForeignGraph
from models.sources.samples import Samples
from models.sources.stated_batch import StatedSplit

ALONE = "omit --split-by: each request is then computed alone"
"""What to do if outputs cannot be divided, as the end of a sentence."""


@dataclass
class _Difference:
    """The largest differences so far."""

    absolute: float = 0.0
    relative: float = 0.0


def planned_split(graph: ForeignGraph, stated: StatedSplit, samples: Samples) -> SplitSpec:
    """Return which outputs are divided, from the entries of single rows.

    Args:
        graph: the network.
        stated: what `--split-by` says.
        samples: the rows.

    Raises:
        AddError: the network has no such output, takes no batch, or its outputs do not belong to
            the index.
    """
    names = [tensor.name for tensor in graph.network.outputs]
    shown = stated.to_text()
    if stated.output not in names:
        raise AddError(f"{shown}: the outputs are {', '.join(names)}")
    if not graph.whole or graph.batch != -1 or any(graph.axes.inputs.values()):
        raise AddError(
            f"{graph.file}: {shown} is for a network that takes any number of rows, as the first "
            "dimension of each input, and whose entries are as many as the values say: export it "
            f"with a dynamic batch, or {ALONE}"
        )
    found = [_network(graph).runtime(row) for row in samples.smallest]
    whole = [name for name in names if graph.axes.outputs[name] is None]
    for outputs in found:
        index = outputs[stated.output]
        fits = index.dtype.kind in "iuf" and (
            index.ndim == 2 and index.shape[1] > stated.column
            if stated.column is not None
            else index.ndim == 1 or index.shape[1:] == (1,)
        )
        if not fits:
            raise AddError(
                f"{graph.file}: the output {stated.output} is {index.dtype} {list(index.shape)}, "
                f"and {shown} is for one number for each entry: name the column of the index, as "
                f"{stated.output}:0"
            )
        for name in whole:
            if outputs[name].shape[:1] != (len(index),):
                raise AddError(
                    f"{graph.file}: the output {name} is {list(outputs[name].shape)} for a row of "
                    f"{len(index)} entries in {stated.output}: leave it out, or {ALONE}"
                )
    counts = [len(outputs[stated.output]) for outputs in found]
    if max(counts) < 2 or len({*counts}) < 2:
        raise AddError(
            f"{graph.file}: each row of the sample has {max(counts)} entries in {stated.output}: "
            "give rows with unlike numbers of entries, as --sample FILE.npz"
        )
    return SplitSpec(index=stated.output, column=stated.column, outputs=tuple(whole))


def prove_split(
    graph: ForeignGraph, content: bytes, split: SplitSpec, samples: Samples, *, half: float
) -> ParityRecord:
    """Check that each row has beside others the entries that it has alone.

    Args:
        graph: the network.
        content: the bytes of its file.
        split: which outputs are divided.
        samples: the rows to compute, with variations of them.
        half: the tolerance of the half precision in which the network computes; else 0.

    Raises:
        AddError: the operators that select entries cannot be followed, or a row differs.
    """
    axes = replace(graph.axes, split=split)
    if reason := entry_mixing(content, samples.rows, axes, split, graph.weights):
        raise AddError(
            f"{graph.file}: it is not proved that the entries of a row do not depend on the rows "
            f"beside it ({reason}): {ALONE}"
        )
    network = RowsFirst(_network(graph).runtime, axes)
    largest, count = _Difference(), 0
    sizes = [size for size in BATCH_SIZES[1:] if size <= samples.largest_check]
    for rows in _variations(network, samples):
        alone = [network(row) for row in replace(samples, rows=rows).smallest]
        count += len(alone)
        for order in _batches(len(alone), sizes):
            batch = {name: array[order] for name, array in rows.items()}
            try:
                together = network(batch)
                _require_order(graph, split, network, batch)
                for place, row in enumerate(order.tolist()):
                    _compare(alone[row], {n: a[place : place + 1] for n, a in together.items()},
                             largest, half)  # fmt: skip
            except SplitError as error:
                raise AddError(
                    f"{graph.file}: in a batch of {len(order)}, {error}: name another output with "
                    f"--split-by, or {ALONE}"
                ) from error
            except Exception as error:
                raise AddError(
                    f"{graph.file}: it computes each row and fails on {len(order)} "
                    f"({one_line(error)}): {ALONE}"
                ) from error
    return ParityRecord(
        runtime="onnx",
        samples=count,
        batch_sizes=(1, *sizes),
        largest_absolute_difference=largest.absolute,
        largest_relative_difference=largest.relative,
        equal_answers=1.0,
        tolerance=f"{max(RELATIVE_TOLERANCE, half):g} relative",
    )


def _network(graph: ForeignGraph) -> RowsFirst:
    """Return the network of a graph with another layout than the rows first everywhere."""
    if not isinstance(graph.network, RowsFirst):
        raise TypeError("the outputs of the graph have the rows first")
    return graph.network


def _variations(network: RowsFirst, samples: Samples) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the samples, and rows unlike them."""
    yield samples.rows
    count = min(samples.largest_check, BATCH_SIZES[-1])
    varied = varied_rows(samples.rows, count, samples.signed, samples.shared)
    kept = computable(network, varied)
    if len(next(iter(kept.values()))) > 1:
        yield kept


def _batches(count: int, sizes: Sequence[int]) -> Iterator[NDArray[np.integer]]:
    """Yield the rows of batches: all rows in order, and some in another order."""
    random = np.random.default_rng(2)
    for size in sizes:
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count))
        yield random.integers(0, count, size)


def _require_order(graph: ForeignGraph, split: SplitSpec, network: RowsFirst, rows: Arrays) -> None:
    """Check that the entries are in the order of the rows, in which requests get them.

    Raises:
        AddError: they are not.
    """
    places = split.places(network.runtime(graph.axes.inputs_of_network(rows)))
    if np.any(np.diff(places) < 0):
        raise AddError(
            f"{graph.file}: its entries are not in the order of the rows, in which requests would "
            f"get them: sort them by {split.index}, or {ALONE}"
        )


def _compare(alone: Arrays, beside: Arrays, largest: _Difference, half: float) -> None:
    """Compare the outputs of one row.

    Raises:
        SplitError: they differ.
    """
    for name, expected_row in alone.items():
        expected, found = expected_row[0], beside[name][0]
        if found.shape != expected.shape:
            raise SplitError(
                f"a row has {list(found.shape)} in {name}, and alone {list(expected.shape)}"
            )
        if expected.dtype.kind != "f":
            if not np.array_equal(found, expected):
                raise SplitError(f"a row has other numbers in {name} than alone")
            continue
        if not expected.size:
            continue
        measured = relative_difference(np.atleast_1d(found), np.atleast_1d(expected))
        tolerance = max(RELATIVE_TOLERANCE, half)
        if differs := excess(measured, tolerance, expected.dtype, same=True):
            raise SplitError(f"a row differs in {name} from the same row alone {differs}")
        absolute = np.abs(found.astype(np.float64) - expected).max(initial=0.0)
        largest.absolute = max(largest.absolute, float(absolute))
        largest.relative = max(largest.relative, float(measured.max(initial=0.0)))
