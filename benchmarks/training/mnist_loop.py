"""`mnist-mlp` against the loop of the tutorial.

The plain loop uses torchvision's MNIST with ToTensor and Normalize(0.5, 0.5), a DataLoader of
batches of 32, Adam 1e-3 and cross-entropy, on the 55,000 rows of the training split.
"""

import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from benchmarks.training.comparison import Comparison, Run
from training.datasets import Dataset
from training.recipes import RECIPES


def tutorial(data: Dataset, data_dir: Path, epochs: int, seed: int) -> Run:
    """Train with the loop of the tutorial; the quality is the accuracy."""
    pixels = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    rows = MNIST(str(data_dir), train=True, transform=pixels)
    rows.data, rows.targets = data.train.inputs, data.train.targets  # without the validation split
    loader = DataLoader(rows, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    started = time.monotonic()
    for _ in range(epochs):
        network.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), targets)
            loss.backward()
            optimizer.step()
    seconds = time.monotonic() - started

    network.eval()
    correct = 0
    with torch.no_grad():
        for images, targets in DataLoader(
            MNIST(str(data_dir), train=False, transform=pixels), batch_size=1_000
        ):
            correct += int((network(images).argmax(dim=1) == targets).sum())
    return seconds / epochs, correct / len(data.test)


MNIST_LOOP = Comparison(
    recipe=RECIPES["mnist-mlp"],
    plain=tutorial,
    epochs=1,
    min_speedup=3.0,
    quality="accuracies",
    to_text="{:.2%}".format,
)
