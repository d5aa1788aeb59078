"""The steps of scikit-learn that split texts into words, as ONNX Runtime computes them.

skl2onnx writes a Tokenizer for a vectorizer. Its words are of ASCII, or of one letter, where those
of scikit-learn are not, and its regular expressions are those of RE2, whose classes of letters are
of ASCII too. So the known patterns are written anew, and others are refused: a sample may hold no
word that shows the difference.
"""

import re
from collections.abc import Iterator
from typing import Any

from fitserve.exported import ExportError

LETTER = r"[\p{L}\p{N}_]"
"""What Python's class of letters matches, in RE2."""
CASE_NOTE = (
    "Of texts, two capital letters become other small ones than in Python: İ, and Σ at the end of "
    "a word."
)
_DEFAULT = "[a-zA-Z0-9_]+"
"""What skl2onnx writes for the default pattern."""
_WORDS = re.compile(r"(\(\?u\))?(?P<ends>\\b)?(?P<letters>(\\w)+)\+(?(ends)\\b)")
"""Words of as many letters as it names, or more."""
_SAME = re.compile(r"(\[[^\[\]\\^]+\]|[A-Za-z0-9_ ])([+*]|\{\d+(,\d*)?\})?")
"""A pattern that is the same in both."""


def case_notes(network: Any) -> list[str]:
    """Return what a user should know of the steps of an estimator."""
    return [CASE_NOTE] if any(step.lowercase for step in _vectorizers(network)) else []


def require_known(network: Any) -> None:
    """Check that ONNX Runtime splits texts as each step of the estimator does.

    Raises:
        ExportError: a step has an option whose result is another.
    """
    for step in _vectorizers(network):
        name = type(step).__name__
        if step.analyzer != "word":
            raise ExportError(
                f"{name} has analyzer={step.analyzer!r}, which splits white space in another way "
                "in ONNX: fit it with analyzer='word'"
            )
        if step.stop_words and step.ngram_range[1] > 1:
            raise ExportError(
                f"{name} has stop_words and joins the words around them (ngram_range="
                f"{step.ngram_range}), which ONNX does not: fit it without one of the two"
            )
        if not (_WORDS.fullmatch(step.token_pattern) or _SAME.fullmatch(step.token_pattern)):
            raise ExportError(
                f"{name} has token_pattern={step.token_pattern!r}, which may match other words in "
                r"ONNX Runtime: fit it with r'(?u)\b\w\w+\b', r'(?u)\b\w+\b' or a list of "
                "characters, as '[a-z]+'"
            )


def with_words(model: Any) -> None:
    """Write the pattern of each Tokenizer for RE2, so that it matches the words of Python's."""
    for node in model.graph.node:
        if node.op_type == "Tokenizer":
            for attribute in node.attribute:
                if attribute.name == "tokenexp":
                    attribute.s = _for_re2(attribute.s.decode()).encode()


def _for_re2(pattern: str) -> str:
    if pattern == _DEFAULT:
        return f"{LETTER}{{2,}}"
    if found := _WORDS.fullmatch(pattern):
        return f"{LETTER}{{{len(found['letters']) // 2},}}"
    return pattern


def _vectorizers(network: Any) -> Iterator[Any]:
    """Yield the steps that count words, of an estimator and of those inside it."""
    if isinstance(network, list | tuple):
        for one in network:
            yield from _vectorizers(one)
    elif hasattr(network, "get_params") and not isinstance(network, type):
        if hasattr(network, "token_pattern") and hasattr(network, "vocabulary_"):
            yield network
        for one in vars(network).values():
            yield from _vectorizers(one)
