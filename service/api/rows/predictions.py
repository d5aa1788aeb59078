"""A model's outputs → one prediction for each row, as pure functions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.answers import LabelsSpec, NumberSpec
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import Tokens, cut, is_per_token
from models.package.card import ModelCard
from service.batching.batch import Arrays
from service.errors import BadInputError

ALL_CLASSES = 32
"""The scores of all classes are listed if there are at most this many."""
BEST_CLASSES = 5
"""The number of scores that are listed of more classes."""


def predictions(
    card: ModelCard,
    outputs: Arrays,
    asked: LabelsSpec | None = None,
    tokens: Sequence[Tokens] = (),
) -> list[Any]:
    """Return each row's prediction in the terms of the model.

    A classifier gives the best class as `label`, its `score`, and the `scores` of the classes,
    descending; with several labels for a row, `labels` in place of `label` and `score`. A
    classifier of tokens gives a list of the tokens, each with its class. Other outputs are numbers
    or lists, with their unit if the card has one; of several, each has its name.

    Args:
        card: of the model.
        outputs: of the network.
        asked: the labels that the request asks for; None for those of the card.
        tokens: of each row, if the tokenizer of the package read it.
    """
    card = card.rows_first
    labelled = [spec for spec in card.outputs if spec.labels and len(spec.shape) == 2]
    if len(labelled) == 1:
        (spec,) = labelled
        classes = _classes(spec, outputs[spec.name], asked or labels_of(card))
        # Converters name the output of the class's index `label`.
        others = [other for other in card.outputs if other is not spec and other.name != "label"]
        columns = {other.name: _plain(other, outputs[other.name]) for other in others}
        return [
            {**row, **{name: values[at] for name, values in columns.items()}}
            for at, row in enumerate(classes)
        ]
    columns = {spec.name: _plain(spec, outputs[spec.name]) for spec in card.outputs}
    for spec in _of_tokens(card, tokens):
        rows = cut(tokens, outputs[spec.name])
        columns[spec.name] = _token_classes(spec.labels, tokens, rows) if spec.labels else rows
    return _named(columns)


def labels_of(card: ModelCard) -> LabelsSpec:
    """Return which labels the card answers."""
    answers = (spec.answer for spec in card.outputs)
    return next((one for one in answers if isinstance(one, LabelsSpec)), LabelsSpec())


def asked_labels(card: ModelCard, parameters: Any) -> LabelsSpec | None:
    """Return the labels that the `parameters` of a request ask for; None for those of the card.

    Raises:
        BadInputError: a parameter is unknown or out of its range.
    """
    if not parameters:
        return None
    if not isinstance(parameters, dict) or parameters.keys() - {"top", "threshold"}:
        raise BadInputError("'parameters' must be an object with 'top', 'threshold', or both.")
    top, threshold = parameters.get("top"), parameters.get("threshold")
    if top is not None and (type(top) is not int or top < 1):
        raise BadInputError("The parameter 'top' must be a whole number from 1.")
    if threshold is not None and type(threshold) not in (int, float):
        raise BadInputError("The parameter 'threshold' must be a number.")
    stated = {name: value for name, value in parameters.items() if value is not None}
    return replace(labels_of(card), **stated)


def rows_of(card: ModelCard, outputs: Arrays, tokens: Sequence[Tokens] = ()) -> list[Any]:
    """Return each row as the output has it; of several outputs, an object of them by name."""
    return _named(columns_of(card, outputs, tokens))


def columns_of(
    card: ModelCard, outputs: Arrays, tokens: Sequence[Tokens] = ()
) -> dict[str, Sequence[Any]]:
    """Return the rows of each output; of texts, without the parts of padding."""
    columns: dict[str, Sequence[Any]] = {
        spec.name: _rows(outputs[spec.name]) for spec in card.outputs
    }
    for spec in _of_tokens(card, tokens):
        columns[spec.name] = cut(tokens, outputs[spec.name])
    return columns


def _of_tokens(card: ModelCard, tokens: Sequence[Tokens]) -> list[TensorSpec]:
    """Return the outputs with a part for each token, if the rows are texts."""
    return [spec for spec in card.outputs if tokens and is_per_token(spec.shape)]


def _named(columns: dict[str, Sequence[Any]]) -> list[Any]:
    if len(columns) == 1:
        (values,) = columns.values()
        return list(values)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(spec: TensorSpec, values: NDArray[Any]) -> Sequence[Any]:
    """Return the rows of an output; a row of one number is that number."""
    rows = values[:, 0] if spec.shape[1:] == (1,) else values
    if not isinstance(spec.answer, NumberSpec):
        return _rows(rows)
    numbers, unit = _rows(spec.answer.values(rows)), spec.answer.unit
    return [{"value": row, "unit": unit} for row in numbers] if unit else numbers


def _rows(values: NDArray[Any]) -> list[Any]:
    """Return the rows of an output; each is contiguous, as JSON is written."""
    if values.ndim == 1 and values.dtype.kind in "iu":
        # INT64 of ONNX Runtime is numpy's `longlong`, of which orjson writes arrays alone.
        whole: list[Any] = values.tolist()
        return whole
    return list(np.ascontiguousarray(values))


def _token_classes(
    labels: Sequence[str], tokens: Sequence[Tokens], scores: Sequence[NDArray[Any]]
) -> list[list[dict[str, Any]]]:
    """Return the best class of each token of each text, without special tokens."""
    return [
        [
            {
                "token": one.texts[at],
                "start": one.offsets[at][0],
                "end": one.offsets[at][1],
                "label": labels[index],
                "score": rows[at, index],
            }
            for at, index in enumerate(rows.argmax(axis=-1).tolist())
            if not one.special[at]
        ]
        for one, rows in zip(tokens, scores, strict=True)
    ]


def _classes(spec: TensorSpec, scores: NDArray[Any], chosen: LabelsSpec) -> list[dict[str, Any]]:
    labels = spec.labels or ()
    is_few = len(labels) <= ALL_CLASSES
    count = chosen.top or (len(labels) if is_few or chosen.multi_label else BEST_CLASSES)
    order = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(scores, order, axis=1)
    rows: list[dict[str, Any]] = []
    for indices, row in zip(order.tolist(), best, strict=True):
        named = [(labels[index], score) for index, score in zip(indices, row, strict=True)]
        kept = [pair for pair in named if chosen.least is None or pair[1] >= chosen.least]
        if chosen.multi_label:
            listed = named if is_few or chosen.top else kept
            rows.append({"labels": [label for label, _ in kept], "scores": dict(listed)})
        else:
            label, score = kept[0] if kept else (None, named[0][1])
            rows.append({"label": label, "score": score, "scores": dict(kept)})
    return rows
