"""Sums of two whole numbers of up to three digits, made by a rule."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.datasets.dataset import IGNORED, Dataset, Split

DIGITS = 3
"""The most digits of a number that is added."""
ANSWER = DIGITS + 1
"""The digits of a sum, with zeros before the first of smaller sums."""
QUESTION = 2 * DIGITS + 1
"""The most characters of a question, as `123+456`."""
CHARACTERS = "0123456789+_="
"""The characters of a row; a token is the place of its character, so a digit is its own token."""
PADDING, EQUALS = CHARACTERS.index("_"), CHARACTERS.index("=")
_LARGEST = 10**DIGITS
_DRAWS = 120_000
_VALIDATION, _TEST = 0.05, 0.1  # shares of all pairs of numbers


def sums() -> Dataset:
    """Draw sums of two numbers from 0 to 999, each of one, two or three digits alike.

    A row is the text of a sum without its last character: `7+45___=250` for 7 + 45 = 52. The digits
    of the sum are reversed, because a carry goes from the last digit to the first. The targets are
    the four digits of the sum, each at the place of the character before.

    Every pair of numbers belongs to one split. Pairs of small numbers are often in the training
    split more than once, and never in the others.
    """
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, DIGITS, (_DRAWS, 2), endpoint=True)
    lowest = np.where(lengths == 1, 0, 10 ** (lengths - 1))
    numbers = draw.integers(lowest, 10**lengths)
    pairs = numbers[:, 0] * _LARGEST + numbers[:, 1]
    share = draw.permutation(_LARGEST**2)[pairs] / _LARGEST**2
    test = share < _TEST
    validation = ~test & (share < _TEST + _VALIDATION)
    return Dataset(
        name="sums",
        summary="sums of two whole numbers of one, two or three digits, made by a rule; no pair of "
        "numbers is in two splits",
        task="classification",
        input_kind="tokens",
        train=_split(pairs[~test & ~validation]),
        validation=_split(draw.permutation(np.unique(pairs[validation]))),
        test=_split(draw.permutation(np.unique(pairs[test]))),
        labels=tuple("0123456789"),
    )


def tokens(texts: Sequence[str]) -> Tensor:
    """Return the tokens of texts of one length, int64 [texts, characters]."""
    places = np.full(256, -1)
    places[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(len(CHARACTERS))
    characters = np.frombuffer("".join(texts).encode(), np.uint8).reshape(len(texts), -1)
    return torch.from_numpy(places[characters])


def _split(pairs: NDArray[np.int64]) -> Split:
    """Return the rows of pairs of numbers, each as `first * 1000 + second`."""
    summands = [divmod(pair, _LARGEST) for pair in pairs.tolist()]
    questions = [f"{first}+{second}".ljust(QUESTION, "_") for first, second in summands]
    answers = [f"{first + second:0{ANSWER}}"[::-1] for first, second in summands]
    rows = tokens([f"{q}={answer}" for q, answer in zip(questions, answers, strict=True)])
    targets = rows[:, 1:].clone()
    targets[:, :QUESTION] = IGNORED
    return Split(rows[:, :-1].contiguous(), targets)
