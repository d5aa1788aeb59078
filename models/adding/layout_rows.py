"""The samples of an added network: given in its own layout, checked with the rows first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.batch_axes import Axes
from models.runtimes.runtime import Arrays
from models.sources.importing import ForeignGraph
from models.sources.source import Record, Source
from models.sources.stated_batch import Stated


def sample_rows(file: str, graph: ForeignGraph, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return a sample with the rows first.

    Args:
        file: the name of the sample, for errors.
        graph: the graph.
        arrays: the sample: each tensor as the network takes it, with any number of rows. Of a
            tensor without rows, a further axis in front holds several such tensors.

    Raises:
        AddError: the names of the arrays are not those of the inputs, or an array has too few axes.
    """
    if graph.axes.is_rows_first or set(arrays) != set(graph.axes.inputs):
        return dict(arrays)
    return _with_rows_first(
        file, arrays, graph.axes.inputs, {one.name: one.shape for one in graph.network.inputs}
    )


def with_rows_first(graph: ForeignGraph, source: Source) -> Source:
    """Return the source with the rows first in its samples and records.

    Raises:
        AddError: as `sample_rows`.
    """
    if graph.axes.is_rows_first:
        return source
    file, samples = str(source.samples_file), source.samples
    return replace(
        source,
        samples=None if samples is None else sample_rows(file, graph, samples),
        records=[_record_rows(graph, record) for record in source.records],
        further=[_record_rows(graph, record) for record in source.further],
    )


def _record_rows(graph: ForeignGraph, record: Record) -> Record:
    known = {name: array for name, array in record.answers.items() if name in graph.axes.outputs}
    shapes = {one.name: one.shape for one in graph.network.outputs}
    samples = sample_rows("the export", graph, record.samples)
    count = len(next(iter(samples.values())))
    answers = _with_rows_first("the export", known, graph.axes.outputs, shapes, count)
    return Record(samples, {**record.answers, **answers})


def _with_rows_first(
    file: str,
    arrays: Arrays,
    axes: Axes,
    shapes: Mapping[str, Sequence[object]],
    count: int = 1,
) -> dict[str, NDArray[Any]]:
    """Return tensors with the rows first; those without rows are repeated, `count` times at least.

    The shapes have the rows first.
    """
    rows: dict[str, NDArray[Any]] = {}
    single: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        axis = axes[name]
        if axis is None and array.ndim != len(shapes[name]):
            single[name] = array
        elif axis is None:
            rows[name] = array
        elif array.ndim <= axis:
            raise AddError(
                f"{file}: {name} is {list(array.shape)}, and its rows are on axis {axis}: give "
                "each input as the network takes it"
            )
        else:
            rows[name] = np.moveaxis(array, axis, 0)
    count = max([count, *(len(array) for array in rows.values())])
    repeated = {
        name: np.broadcast_to(array, (count, *array.shape)) for name, array in single.items()
    }
    return {name: (rows | repeated)[name] for name in arrays}


def shared_values(graph: ForeignGraph, stated: Stated) -> Mapping[str, Sequence[float]]:
    """Return the inputs that the rows share, with the values that the options state for them."""
    return {name: stated.shared.get(name, ()) for name in graph.axes.shared}


def with_values(
    graph: ForeignGraph, few: Arrays, others: Sequence[Arrays], stated: Stated
) -> list[dict[str, NDArray[Any]]]:
    """Return the rows of every size with each further value of the shared inputs, if computable."""
    found: list[dict[str, NDArray[Any]]] = []
    for name, values in shared_values(graph, stated).items():
        for value in values:
            for rows in (few, *others):
                if np.all(rows[name] == value):
                    continue
                changed = {**rows, name: np.full_like(rows[name], value)}
                try:
                    graph.network({key: array[:1] for key, array in changed.items()})
                except Exception:  # noqa: BLE001, S112 - it does not take the value at this size
                    continue
                found.append(changed)
    return found
