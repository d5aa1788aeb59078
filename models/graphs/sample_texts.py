"""Texts for the checks of a network: those that its graph names, and others unlike them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.graphs.graph import all_nodes, constant_array, tensors

if TYPE_CHECKING:
    import onnx

UNLIKE = (
    *("", " ", "\t\n", "a", "0", "-1.5", "true", "Straße", "日本語 テスト", "e\u0301", "😀", "#"),
    *("two words", "UPPER lower", "don't stop, go on!", "a\x00b", "word " * 200, "x" * 1000),
)
"""Texts that may be in no table of a network."""
_MOST_WORDS = 1_000


def words_of(model: "onnx.ModelProto") -> list[str]:
    """Return texts that a graph compares its inputs with, such as categories and words."""
    found = [text for node in all_nodes(model.graph.node) for one in node.attribute
             for text in one.strings]  # fmt: skip
    for tensor in tensors(model):
        if tensor.string_data:
            found += constant_array(tensor).ravel().tolist()
    decoded = (text.decode(errors="ignore") for text in found[:_MOST_WORDS])
    return list(dict.fromkeys(filter(None, decoded)))


def made_up(
    random: np.random.Generator, shape: Sequence[int], words: Sequence[str] = ()
) -> NDArray[Any]:
    """Return texts: words, several of them, and, for a quarter, texts unlike them.

    Args:
        random: the generator.
        shape: of the array.
        words: texts that the network knows; may be empty.
    """
    texts = np.empty(int(np.prod(shape)), object)
    for at in range(len(texts)):
        if not words or random.random() < 0.25:
            texts[at] = UNLIKE[random.integers(len(UNLIKE))]
        else:
            count = 1 if random.random() < 0.5 else int(random.integers(2, 9))
            texts[at] = " ".join(words[at] for at in random.integers(len(words), size=count))
    reshaped: NDArray[Any] = texts.reshape(shape)
    return reshaped


def varied(
    random: np.random.Generator,
    rows: NDArray[Any],
    kinds: NDArray[np.integer],
    sources: NDArray[np.integer],
) -> NDArray[Any]:
    """Return variations of rows of texts, as `varied_rows.varied_rows` says.

    Args:
        random: the generator.
        rows: the given rows.
        kinds: for each row to return, one of `varied_rows.KINDS`; the second kind is a longer row.
        sources: for each row to return, the given row that is varied.
    """
    shape, known = rows.shape[1:], rows.ravel().tolist()
    longest = max(known, key=len, default="")
    result: NDArray[Any] = rows[sources].copy()
    for index, kind in enumerate(kinds.tolist()):
        if kind == 1:
            others = made_up(random, shape, known)
            joined = np.frompyfunc(lambda *both: " ".join(both), 2, 1)
            result[index, ...] = joined(result[index], others)
        elif kind == 2:
            chosen = random.integers(0, len(rows), shape)
            result[index, ...] = np.take_along_axis(rows, chosen[None], axis=0)[0]
        elif kind == 3:
            result[index, ...] = made_up(random, shape)
        elif kind == 4:
            result[index, ...] = np.where(random.integers(0, 2, shape) == 1, longest, "")
        elif kind == 5 and index:
            result[index, ...] = result[index - 1]
    return result
