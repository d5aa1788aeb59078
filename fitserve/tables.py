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

    Raises:
        ExportError: the rows are no table of numbers.
    """
    if isinstance(rows, Mapping):
        return {name: _single(name, np.asarray(array)) for name, array in rows.items()}
    if hasattr(rows, "columns"):
        return {
            str(name): _single(str(name), rows[name].to_numpy()[:, None]) for name in rows.columns
        }
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ExportError(
            f"the sample is {list(array.shape)}: give an array [rows, columns] of numbers"
        )
    return {NAME: _single(NAME, array)}


def rows_of(rows: Any) -> Any:
    """Return the rows as the estimator takes them.

    They keep double precision: a threshold of a tree may be a value of the data, and both are
    rounded in the same way when they are exported.
    """
    if isinstance(rows, Mapping):
        (array,) = rows.values()
        return np.asarray(array)
    return rows if hasattr(rows, "columns") else np.asarray(rows)


def drop_texts(model: Any) -> None:
    """Take out outputs of text: the labels name the columns of the probabilities."""
    from onnx import TensorProto

    texts = [
        output
        for output in model.graph.output
        if output.type.tensor_type.elem_type == TensorProto.STRING
    ]
    for output in texts if len(texts) < len(model.graph.output) else ():
        model.graph.output.remove(output)


def with_name(model: Any, old: str, new: str) -> None:
    """Rename an output of an ONNX model, if it has it."""
    for output in model.graph.output:
        if output.name == old:
            output.name = new
            for node in model.graph.node:
                node.output[:] = [new if name == old else name for name in node.output]
                node.input[:] = [new if name == old else name for name in node.input]


def _single(name: str, array: Any) -> Any:
    if array.dtype.kind not in "fiub":
        raise ExportError(
            f"the column {name} of the sample holds {array.dtype} and not numbers: only numbers "
            "are served; make numbers of it before the network, and fit the network on them"
        )
    return array if array.dtype.kind == "b" else array.astype(np.float32)
