"""`flights-mlp` against a plain loop on the same columns.

The plain loop uses a TensorDataset of numbers, codes of categories and targets, a DataLoader, Adam
1e-3 and the squared error. Its network, and the size of its batches, are those of the recipe's
tutorial preset.
"""

import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.training.comparison import Comparison, Run
from training.datasets import Dataset, Split
from training.datasets.table import TableDataset
from training.recipes import RECIPES
from training.tables.network import TableNetwork

RECIPE = RECIPES["flights-mlp"]


def plain(data: Dataset, data_dir: Path, epochs: int, seed: int) -> Run:
    """Train with the plain loop; the quality is the mean squared error."""
    assert isinstance(data, TableDataset)  # noqa: S101 - the recipe has no other data
    hyperparameters = RECIPE.hyperparameters("tutorial")
    torch.manual_seed(seed)
    network = RECIPE.build(hyperparameters, data)
    assert isinstance(network, TableNetwork)  # noqa: S101 - the recipe has no other network
    loader = DataLoader(
        _rows(data, data.train), batch_size=hyperparameters.batch_size, shuffle=True
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    started = time.monotonic()
    for _ in range(epochs):
        network.train()
        for numbers, codes, targets in loader:
            optimizer.zero_grad()
            loss = criterion(network.answer(numbers, codes), targets)
            loss.backward()
            optimizer.step()
    seconds = time.monotonic() - started

    network.eval()
    total = 0.0
    with torch.no_grad():
        for numbers, codes, targets in DataLoader(_rows(data, data.test), batch_size=1_000):
            total += float((network.answer(numbers, codes) - targets).square().sum())
    return seconds / epochs, total / len(data.test)


def _rows(data: TableDataset, split: Split) -> TensorDataset:
    numbers, codes = data.parts(split.inputs)
    return TensorDataset(numbers, codes, split.targets)


FLIGHTS_LOOP = Comparison(
    recipe=RECIPE,
    plain=plain,
    epochs=RECIPE.hyperparameters("tutorial").epochs,
    min_speedup=5.0,
    quality="mean squared errors",
    to_text="{:.2f}".format,
)
