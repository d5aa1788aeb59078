"""Texts in rows, and the outputs of texts that are computed apart, as pure functions."""

from collections.abc import Sequence
from reprlib import repr as short_repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.tokens import Text
from models.package.card import ModelCard
from service.batching.batch import Arrays
from service.errors import BadInputError

TEXT, PAIR = "text", "text_pair"
"""The keys of a row, as the pipelines of Transformers name them."""


def takes_texts(card: ModelCard, rows: Any) -> bool:
    """Return whether rows are texts, by the first of them."""
    if card.text is None or not isinstance(rows, list) or not rows:
        return False
    return isinstance(rows[0], str) or (isinstance(rows[0], dict) and TEXT in rows[0])


def row_of(text: Text) -> Any:
    """Return a text or a pair of texts as a row."""
    return text if isinstance(text, str) else dict(zip((TEXT, PAIR), text, strict=True))


def columns_of_texts(columns: Any) -> list[Any] | None:
    """Return columns named `text` and `text_pair` as rows; None for other columns."""
    if not isinstance(columns, dict) or not {TEXT} <= columns.keys() <= {TEXT, PAIR}:
        return None
    values = list(columns.values())
    if not all(isinstance(one, list) and len(one) == len(values[0]) for one in values):
        raise BadInputError(f"The columns {TEXT!r} and {PAIR!r} must be lists of as many texts.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def texts_of(rows: Sequence[Any]) -> list[Text]:
    """Return the texts in rows: each a text, `{"text": …}` or `{"text": …, "text_pair": …}`.

    Raises:
        BadInputError: a row is something else.
    """
    return [_text(row) for row in rows]


def merged(groups: Sequence[Sequence[int]], outputs: Sequence[Arrays]) -> Arrays:
    """Return the outputs of groups of texts in the order of the texts.

    Args:
        groups: the places of the texts of each group.
        outputs: of each group; shorter ones are padded with zeros.
    """
    if len(groups) == 1:
        return outputs[0]
    order = np.argsort([at for group in groups for at in group])
    return {
        name: np.concatenate(_equal_lengths([one[name] for one in outputs]))[order]
        for name in outputs[0]
    }


def _text(row: Any) -> Text:
    if isinstance(row, str):
        return row
    if isinstance(row, dict) and {TEXT} <= row.keys() <= {TEXT, PAIR}:
        text, pair = row[TEXT], row.get(PAIR)
        if isinstance(text, str) and pair is None:
            return text
        if isinstance(text, str) and isinstance(pair, str):
            return text, pair
    raise BadInputError(
        f'A row must be a text, {{"text": "…"}} or {{"text": "…", "text_pair": "…"}}, and one is '
        f"{short_repr(row)}."
    )


def _equal_lengths(arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return arrays of one length in axis 1, those that are shorter with zeros behind."""
    if arrays[0].ndim < 2 or len({array.shape[1] for array in arrays}) == 1:
        return list(arrays)
    longest = max(array.shape[1] for array in arrays)
    rest = [(0, 0)] * (arrays[0].ndim - 2)
    return [np.pad(array, [(0, 0), (0, longest - array.shape[1]), *rest]) for array in arrays]
