"""A model's outputs → one prediction for each row, as pure functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard, TensorSpec
from service.batching.batch import Arrays

ALL_CLASSES = 32
"""The scores of all classes are listed if there are at most this many."""
BEST_CLASSES = 5
"""The number of scores that are listed of more classes."""


def predictions(card: ModelCard, outputs: Arrays) -> list[Any]:
    """Return each row's prediction in the terms of the model.

    A classifier gives the best class as `label`, its `score`, and the `scores` of the classes,
    descending. Other outputs are numbers or lists; of several, each has its name.
    """
    card = card.rows_first
    labelled = [spec for spec in card.outputs if spec.labels and len(spec.shape) == 2]
    if len(labelled) == 1:
        classes = _classes(labelled[0].labels or (), outputs[labelled[0].name])
        # Converters name the output of the class's index `label`.
        others = [spec for spec in card.outputs if spec is not labelled[0] and spec.name != "label"]
        columns = {spec.name: _plain(spec, outputs[spec.name]) for spec in others}
        return [
            {**row, **{name: values[at] for name, values in columns.items()}}
            for at, row in enumerate(classes)
        ]
    return _named({spec.name: _plain(spec, outputs[spec.name]) for spec in card.outputs})


def rows_of(card: ModelCard, outputs: Arrays) -> list[Any]:
    """Return each row as the output has it; of several outputs, an object of them by name."""
    return _named({spec.name: _rows(outputs[spec.name]) for spec in card.outputs})


def _named(columns: dict[str, Sequence[Any]]) -> list[Any]:
    if len(columns) == 1:
        (values,) = columns.values()
        return list(values)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(spec: TensorSpec, values: NDArray[Any]) -> Sequence[Any]:
    """Return the rows of an output; a row of one number is that number."""
    return _rows(values[:, 0] if spec.shape[1:] == (1,) else values)


def _rows(values: NDArray[Any]) -> list[Any]:
    """Return the rows of an output; each is contiguous, as JSON is written."""
    return list(np.ascontiguousarray(values))


def _classes(labels: Sequence[str], scores: NDArray[Any]) -> list[dict[str, Any]]:
    count = len(labels) if len(labels) <= ALL_CLASSES else BEST_CLASSES
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(scores, order, axis=1)
    return [
        {
            "label": labels[indices[0]],
            "score": row[0],
            "scores": dict(zip((labels[index] for index in indices), row, strict=True)),
        }
        for indices, row in zip(order.tolist(), best, strict=True)
    ]
