"""Columns that give the target away: each alone, with a tree on it, predicts unseen rows."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor

from training.datasets.dataset import Split
from training.datasets.table import TableDataset

ROWS = 20_000
"""Of each split that are looked at."""
LEAF_ROWS = 5
MIN_R2 = 0.995
"""Of values or of their ranks: a monotone copy of the target has the same ranks."""
MIN_ACCURACY = 0.99
"""The mean over the classes, so that a frequent class does not count more."""


def giveaways(data: TableDataset) -> dict[str, float]:
    """Return the columns that alone give the target away, with R² or accuracy on unseen rows."""
    train, validation = _some(data.train), _some(data.validation)
    found = {}
    for name, places in data.places:
        alone, unseen = (part.inputs[:, places].numpy() for part in (train, validation))
        if data.task == "regression":
            score = _regression(alone, unseen, train.targets, validation.targets)
            threshold = MIN_R2
        else:
            tree = DecisionTreeClassifier(min_samples_leaf=LEAF_ROWS, random_state=0)
            predicted = tree.fit(alone, train.targets.numpy()).predict(unseen)
            score = float(balanced_accuracy_score(validation.targets.numpy(), predicted))
            threshold = MIN_ACCURACY
        if score >= threshold:
            found[name] = score
    return found


def _regression(
    train: NDArray[np.float32], validation: NDArray[np.float32], targets: Tensor, truth: Tensor
) -> float:
    """Return the R² of the target, or of its ranks if that is larger."""
    tree = DecisionTreeRegressor(min_samples_leaf=LEAF_ROWS, random_state=0)
    y, unseen = targets.numpy().ravel(), truth.numpy().ravel()
    known = np.sort(y)
    ranks, unseen_ranks = np.searchsorted(known, y), np.searchsorted(known, unseen)
    scores = [
        r2_score(of_validation, tree.fit(train, of_train).predict(validation))
        for of_train, of_validation in ((y, unseen), (ranks, unseen_ranks))
    ]
    return float(max(scores))


def _some(split: Split) -> Split:
    step = max(1, len(split) // ROWS)
    return Split(split.inputs[::step], split.targets[::step])


def sentence(name: str, target: str, score: float) -> str:
    """Return what a user should know of a column that gives the target away."""
    return (
        f"{name} alone gives {target} away ({score:.1%} on rows not seen): leave it out with "
        f"--leave-out {name} if it is not known when {target} is asked for."
    )
