"""The rules of the operators of text: whether they keep the rows of a batch apart.

Tokenizer and StringSplit fill each row up to the longest of the batch, so the size of their last
axis depends on the other rows. Only TfIdfVectorizer may take such a value: it counts words, among
which the filling is not.
"""

from collections.abc import Mapping
from typing import Any

from models.graphs.graph import Node
from models.graphs.row_rules import Call, MixesError, Rows, Rule, Structure

FILLED_UP = {"StringSplit", "com.microsoft.Tokenizer"}
"""Operators whose first output has the size of the longest row of the batch."""
KEEPING = {"Flatten", "Identity"}
"""Operators that may pass such a value on."""


def filling_of(node: Node, known: Mapping[str, bytes]) -> bytes | None:
    """Return the text with which rows of a node's first output are filled up; None if with none.

    Args:
        node: the node.
        known: the same for the values of earlier nodes, by name.

    Raises:
        MixesError: the node computes with the filling, whose length depends on other rows.
    """
    if filled := [known[name] for name in node.inputs if name in known]:
        if node.kind in KEEPING:
            return filled[0]
        if node.kind == "TfIdfVectorizer" and _ignores(node.attributes, filled[0]):
            return None
        raise MixesError("computes with rows that are filled up to the longest of the batch")
    if node.kind not in FILLED_UP:
        return None
    filling: bytes = node.attributes.get("pad_value", b"")
    return filling


def _ignores(attributes: Mapping[str, Any], filling: bytes) -> bool:
    """Return whether no n-gram holds the filling, or reaches over it."""
    pool = attributes.get("pool_strings", [])
    return bool(pool) and filling not in pool and attributes.get("max_skip_count", 0) == 0


def _of_one_text(call: Call) -> Structure:
    """Check that a row is one text: of several, only the shorter are filled up."""
    if call.alone() != Rows(0) or call.shape(0)[1:] not in ((), (1,)):
        raise MixesError("takes several texts of a row")
    return 1, 1


def _normalized(call: Call) -> Structure:
    """StringNormalizer keeps the number of texts without stop words, which are not listed."""
    if call.alone() != Rows(0) or len(call.shape(0)) != 1:
        raise MixesError("takes a list of texts that is no list of rows")
    return 1, 1


def _counted(call: Call) -> Structure:
    if call.alone() != Rows(0) or len(call.shape(0)) != 2:
        raise MixesError("uses the axis of the rows for another purpose")
    return 1, 1


TEXT_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(FILLED_UP, _of_one_text),
    "StringNormalizer": _normalized,
    "TfIdfVectorizer": _counted,
}
