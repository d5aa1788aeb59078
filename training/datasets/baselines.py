"""Baselines: the metrics of simpler models, trained on the same rows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training.datasets.dataset import Split


def linear_accuracy(train: Split, test: Split) -> float:
    """Return the accuracy of logistic regression without regularization, in [0, 1]."""
    line = LogisticRegression(C=np.inf).fit(train.inputs, train.targets)
    return float(line.score(test.inputs, test.targets))


def least_squares_mse(train: Split, test: Split) -> float:
    """Return the mean squared error of linear least squares."""

    def design(x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones(len(x), 1)], dim=1).double()

    solution = torch.linalg.lstsq(design(train.inputs), train.targets.double()).solution
    return float((design(test.inputs) @ solution - test.targets).square().mean())


class Texts(NamedTuple):
    """Texts, and the class of each."""

    texts: Sequence[str]
    classes: Sequence[int]


def majority_accuracy(train: Texts, test: Texts) -> float:
    """Return the accuracy of the most frequent class, in [0, 1]."""
    ((majority, _),) = Counter(train.classes).most_common(1)
    return sum(target == majority for target in test.classes) / len(test.classes)


class NgramModel:
    """An n-gram model with Witten-Bell smoothing of the class that follows a text.

    Witten and Bell, "The zero-frequency problem: estimating the probabilities of novel events in
    adaptive text compression" (1991).

    Args:
        train: the texts that are counted, with the class that follows each.
        order: the largest number of last letters that count. The start of a text is one of them.
        classes: the number of classes.
    """

    def __init__(self, train: Texts, order: int, classes: int) -> None:
        self._classes = classes
        self._counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for text, target in zip(*train, strict=True):
            for context in _contexts(text, order):
                self._counts[context][target] += 1

    def accuracy(self, test: Texts, order: int) -> float:
        """Return the accuracy of the model with `order` last letters, in [0, 1]."""
        answers = [int(self._shares(text, order).argmax()) for text in test.texts]
        return float(np.equal(answers, test.classes).mean())

    def negative_log_likelihood(self, test: Texts, order: int) -> float:
        """Return the mean negative logarithm of the probability of the class, in nats."""
        found = [self._shares(text, order)[target] for text, target in zip(*test, strict=True)]
        return -float(np.log(found).mean())

    def _shares(self, text: str, order: int) -> NDArray[np.float64]:
        """Return the probability of each class after a text."""
        shares = np.full(self._classes, 1 / self._classes)
        for context in _contexts(text, order):
            found = self._counts.get(context)
            if found is None:
                break
            shares *= len(found)
            shares[list(found)] += list(found.values())
            shares /= len(found) + found.total()
        return shares


def _contexts(text: str, order: int) -> list[str]:
    """Return the last 0 to `order` letters, as far as there are so many with `^` at the start."""
    begun = f"^{text}"
    return [begun[len(begun) - count :] for count in range(min(order, len(begun)) + 1)]
