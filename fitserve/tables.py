"""Rows of a table: an array, texts, or columns with names, as of a data frame."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from fitserve.exported import Arrays, ExportError

NAME, TEXT = "X", "text"
"""The name of the input if the columns have none, and that of a list of texts."""


def columns_of(rows: Any, *, texts: bool = False) -> Arrays:
    """Return the inputs of the exported network: one array, or one for each named column.

    Numbers are in single precision, as the converters of these libraries compute. Texts are an
    array of `str`.

    Args:
        rows: an array [rows, columns], texts [rows], a mapping of names to columns, or a data
            frame.
        texts: whether columns may hold text.

    Raises:
        ExportError: the rows are no table of numbers, or texts where these may be.
    """
    if isinstance(rows, Mapping):
        return {name: _column(name, np.asarray(array), texts) for name, array in rows.items()}
    if hasattr(rows, "columns"):
        return {
            str(name): _column(str(name), rows[name].to_numpy(), texts) for name in rows.columns
        }
    array = np.asarray(rows)
    if texts and array.ndim == 1 and array.dtype.kind in "OUT":
        return {TEXT: _column(TEXT, array, texts)}
    if array.ndim != 2:
        raise ExportError(
            f"the sample is {list(array.shape)}: give an array [rows, columns] of numbers"
            + (", or a list of texts" if texts else "")
        )
    return {NAME: _column(NAME, array, texts)}


def rows_of(rows: Any) -> Any:
    """Return the rows as the estimator takes them.

    They keep double precision: a threshold of a tree may be a value of the data, and both are
    rounded in the same way when they are exported.

    Raises:
        ExportError: columns with names need pandas, which is not installed.
    """
    if isinstance(rows, Mapping):
        if len(rows) == 1:
            (array,) = rows.values()
            return np.asarray(array)
        try:
            frame = import_module("pandas").DataFrame
        except ImportError as error:
            raise ExportError(
                "columns with names are given to the estimator as a data frame: pip install pandas"
            ) from error
        return frame({name: np.asarray(array).reshape(-1) for name, array in rows.items()})
    return rows if hasattr(rows, "columns") else np.asarray(rows)


def with_name(model: Any, old: str, new: str) -> None:
    """Rename an output of an ONNX model, if it has it."""
    for output in model.graph.output:
        if output.name == old:
            output.name = new
            for node in model.graph.node:
                node.output[:] = [new if name == old else name for name in node.output]
                node.input[:] = [new if name == old else name for name in node.input]


def _column(name: str, array: Any, texts: bool) -> Any:
    """Return a column as the network takes it, [rows, 1], or all columns, [rows, columns]."""
    if array.ndim == 1:
        array = array[:, None]
    if texts and array.dtype.kind in "OUT":
        return _texts(name, array)
    if array.dtype.kind not in "fiub":
        raise ExportError(
            f"the column {name} of the sample holds {array.dtype} and not numbers: "
            + (
                "make numbers or texts of it before the network, and fit the network on them"
                if texts
                else "this library takes numbers only; make numbers of it before the network, and "
                "fit the network on them"
            )
        )
    return array if array.dtype.kind == "b" else array.astype(np.float32)


def _texts(name: str, array: Any) -> Any:
    column = array.astype(object)
    others = [value for value in column.ravel().tolist() if not isinstance(value, str)]
    if not others:
        return column
    if len(others) == column.size and all(isinstance(one, int | float) for one in others):
        return column.astype(np.float32)
    found = others[0]
    if found is None or found != found:
        raise ExportError(
            f"the column {name} of the sample lacks a text in some rows ({found}): fill it before "
            "the network, as with frame.fillna(''), and fit the network on that"
        )
    raise ExportError(
        f"the column {name} of the sample holds a {type(found).__name__} among texts: make texts "
        "of all, as with .astype(str), or give each kind a column of its own in a data frame"
    )
