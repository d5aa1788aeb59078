"""The check that an output of class indices agrees with the output of class scores.

Converters disagree on the order of the classes: for an SVC with two classes, scikit-learn's
converter to ONNX writes the scores in the opposite order of the labels. A client would then receive
two different classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.runtimes.runtime import Arrays

_TIE = 1e-6
"""Scores that differ by less, relative to the largest of their row, are equal."""


def require_agreement(file: str, results: Arrays, outputs: Sequence[TensorSpec]) -> None:
    """Check that every output of classes names the class with the largest score.

    An output holds classes if it has one whole number or text for each row of labelled columns,
    each of which is the index of a label or the label itself. Indices may start at 0 or 1.

    Args:
        file: the name of the graph's file, for the error.
        results: the outputs for all samples, by name.
        outputs: the specifications of the outputs, with the labels.

    Raises:
        AddError: two outputs name different classes for one row.
    """
    for scores in outputs:
        if scores.labels is None:
            continue
        columns = results[scores.name]
        for spec in outputs:
            indices = _indices(results[spec.name], columns, scores.labels)
            if spec is scores or indices is None or _agree(indices, columns):
                continue
            wrong_rows = np.flatnonzero(~_are_largest(indices, columns))
            wrong_scores = columns.reshape(-1, columns.shape[-1])[wrong_rows[0]]
            chosen, largest = (
                scores.labels[indices[wrong_rows[0]]],
                scores.labels[int(wrong_scores.argmax())],
            )
            raise AddError(
                f"{file}: in {len(wrong_rows)} of {indices.size} rows the output {spec.name} names "
                f"another class than the largest column of {scores.name} (as {chosen!r} and "
                f"{largest!r}): export scores of which the largest is the class that is named, or "
                "leave one of the two outputs out"
            )


def _indices(
    named: NDArray[Any], columns: NDArray[Any], labels: Sequence[str]
) -> NDArray[np.intp] | None:
    """Return the label index that `named` has for each row of `columns`, as a flat array.

    Returns:
        None if `named` does not hold classes.
    """
    rows = columns.shape[:-1]
    if named.dtype.kind not in "iubO" or named.shape not in (rows, (*rows, 1)):
        return None
    by_text = {label: index for index, label in enumerate(labels)}
    if named.dtype == object:
        texts = named.ravel().tolist()
        is_named = all(text in by_text for text in texts)
        return np.array([by_text[text] for text in texts], np.intp) if is_named else None
    values = named.ravel().astype(int).tolist()
    if all(str(value) in by_text for value in values):
        return np.array([by_text[str(value)] for value in values], np.intp)
    if all(0 <= value < len(labels) for value in values):
        return np.array(values, np.intp)
    return None


def _agree(indices: NDArray[np.intp], columns: NDArray[Any]) -> bool:
    """Return whether the indices, counted from 0 or from 1, are those of the largest columns."""
    if _are_largest(indices, columns).all():
        return True
    several = len(np.unique(indices)) > 1  # a single class does not show where the count starts
    return several and indices.min() > 0 and bool(_are_largest(indices - 1, columns).all())


def _are_largest(indices: NDArray[np.intp], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return, for each row, whether the column at its index is the largest or tied with it."""
    rows = columns.reshape(-1, columns.shape[-1]).astype(np.float64)
    chosen = np.take_along_axis(rows, indices[:, None], axis=1)[:, 0]
    largest: NDArray[np.bool_] = chosen >= rows.max(axis=1) - _TIE * np.abs(rows).max(axis=1)
    return largest
