"""Rows of a table: an array, or a data frame with named columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fitserve.exported import Arrays, ExportError

NAME = "X"
"""The name of the input if the columns have none."""


def columns_of(rows: Any) -> Arrays:
    """Return the inputs of the exported network: one array, or one for each named column.

    Numbers are in single precision, as the converters of these libraries compute.
    """
    if isinstance(rows, Mapping):
        return {name: _single(np.asarray(array)) for name, array in rows.items()}
    if hasattr(rows, "columns"):
        return {str(name): _single(rows[name].to_numpy()[:, None]) for name in rows.columns}
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ExportError(f"the sample is {list(array.shape)}: give rows of columns")
    return {NAME: _single(array)}


def rows_of(rows: Any) -> Any:
    """Return the rows as the estimator takes them.

    They keep double precision: a threshold of a tree may be a value of the data, and both are
    rounded in the same way when they are exported.
    """
    if isinstance(rows, Mapping):
        (array,) = rows.values()
        return np.asarray(array)
    return rows if hasattr(rows, "columns") else np.asarray(rows)


def with_name(model: Any, old: str, new: str) -> None:
    """Rename an output of an ONNX model, if it has it."""
    for output in model.graph.output:
        if output.name == old:
            output.name = new
            for node in model.graph.node:
                node.output[:] = [new if name == old else name for name in node.output]
                node.input[:] = [new if name == old else name for name in node.input]


def _single(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype.kind in "fiu" else array
