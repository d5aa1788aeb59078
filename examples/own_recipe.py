"""A recipe of one's own: scikit-learn's wine, 13 measurements of a wine -> one of three growers.

It is trained, exported and checked by `python -m training fit examples/own_recipe.py`.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_wine
from torch import nn

from training.datasets import Dataset, random_splits
from training.hyperparameters import Hyperparameters
from training.recipe import Recipe


def wine(folder: Path) -> Dataset:
    """Return the wines in three splits."""
    bunch = load_wine()
    rows, growers = torch.tensor(bunch.data).float(), torch.tensor(bunch.target)
    train, validation, test = random_splits(rows, growers)
    return Dataset(
        name="wine", summary="178 wines of three growers", task="classification",
        input_kind="columns", train=train, validation=validation, test=test,
        labels=("first grower", "second grower", "third grower"),
    )  # fmt: skip


def network(hyperparameters: Hyperparameters, data: Dataset) -> nn.Module:
    """Return a network that takes the measurements as they are."""
    return nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))


recipe = Recipe(
    name="wine", summary="13-32-3 with ReLU: the grower of a wine.", data=wine, build=network,
    default=Hyperparameters(epochs=40, batch_size=32, optimizer="adam", lr=0.01),
)  # fmt: skip
