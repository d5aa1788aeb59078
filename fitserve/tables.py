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
    """Return the rows as the estimator takes them, in the precision of the exported network."""
    if isinstance(rows, Mapping):
        (array,) = columns_of(rows).values()
        return array
    return rows if hasattr(rows, "columns") else columns_of(rows)[NAME]


def _single(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype.kind in "fiu" else array
