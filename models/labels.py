"""The classes of an added network: an output that names them agrees with their scores.

Converters disagree on which column is which class: of a two-class SVC, scikit-learn's converter to
ONNX writes the scores in the other order than the labels, and a client would be told two classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import TensorSpec
from models.foreign import AddError
from models.runtimes import Arrays

_TIE = 1e-6
"""Scores that differ by less, relative to the largest of their row, are equal."""


def require_agreement(file: str, answers: Arrays, outputs: Sequence[TensorSpec]) -> None:
    """Check that every output that names a class names the one whose labelled column is largest.

    An output names classes where it holds one whole number for each row of labelled columns, each
    of which is the place of a label, or the label itself. Classes may be numbered from 1.

    Args:
        file: the graph's, for the error.
        answers: by output name, to all samples.
        outputs: of the graph, with the labels.

    Raises:
        AddError: two outputs name different classes for one row.
    """
    for scores in outputs:
        if scores.labels is None:
            continue
        columns = answers[scores.name]
        for spec in outputs:
            places = _places(answers[spec.name], columns, scores.labels)
            if spec is scores or places is None or _agree(places, columns):
                continue
            wrong = np.flatnonzero(~_are_largest(places, columns))
            first = columns.reshape(-1, columns.shape[-1])[wrong[0]]
            said, largest = scores.labels[places[wrong[0]]], scores.labels[int(first.argmax())]
            raise AddError(
                f"{file}: in {len(wrong)} of {places.size} rows the output {spec.name} names "
                f"another class than the largest column of {scores.name} (as {said!r} and "
                f"{largest!r}): export scores of which the largest is the class that is named, or "
                "leave one of the two outputs out"
            )


def _places(
    named: NDArray[Any], columns: NDArray[Any], labels: Sequence[str]
) -> NDArray[np.intp] | None:
    """Which label `named` gives each row of `columns`, flat; None where it names no classes."""
    rows = columns.shape[:-1]
    if named.dtype.kind not in "iub" or named.shape not in (rows, (*rows, 1)):
        return None
    values = named.ravel().astype(int).tolist()
    by_text = {label: place for place, label in enumerate(labels)}
    if all(str(value) in by_text for value in values):
        return np.array([by_text[str(value)] for value in values], np.intp)
    if all(0 <= value < len(labels) for value in values):
        return np.array(values, np.intp)
    return None


def _agree(places: NDArray[np.intp], columns: NDArray[Any]) -> bool:
    """Whether the places are those of the largest columns, counted from 0 or from 1."""
    if _are_largest(places, columns).all():
        return True
    several = len(np.unique(places)) > 1  # of one class alone it is not known where it was counted
    return several and places.min() > 0 and bool(_are_largest(places - 1, columns).all())


def _are_largest(places: NDArray[np.intp], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the column at the place of each row is the largest, or as large."""
    rows = columns.reshape(-1, columns.shape[-1]).astype(np.float64)
    chosen = np.take_along_axis(rows, places[:, None], axis=1)[:, 0]
    largest: NDArray[np.bool_] = chosen >= rows.max(axis=1) - _TIE * np.abs(rows).max(axis=1)
    return largest
