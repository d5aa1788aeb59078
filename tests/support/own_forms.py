"""Three networks as people serve them: pictures, a table of named numbers, and several labels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fitserve

PETS = ("cat", "dog", "bird")
GENRES = ("comedy", "drama", "crime")


class _Pets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 7 * 7, len(PETS))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image)).softmax(dim=1)


class _Rides(nn.Module):
    """The standardized time of a ride: 0.1 for each kilometre, 0.5 more at night."""

    def forward(self, kilometres: Tensor, passengers: Tensor, night: Tensor) -> Tensor:
        return 0.1 * kilometres + 0 * passengers + 0.5 * night


class _Genres(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


def save_forms(repository: Path) -> None:
    """Write `pets`, `rides` and `genres`."""
    fitserve.save(
        "pets", _Pets(), labels=PETS, picture=fitserve.Picture(size=(32, 32)), repository=repository
    )
    rng = np.random.default_rng(0)
    rows = {
        "kilometres": rng.uniform(1, 30, (4, 1)).round(1).astype(np.float32),
        "passengers": rng.integers(1, 5, (4, 1)).astype(np.float32),
        "night": np.float32([[0], [1], [0], [1]]),
    }
    minutes = ("--unit", "minutes", "--scale", "20", "--offset", "15")
    fitserve.save("rides", _Rides(), rows, repository=repository, options=minutes)
    fitserve.save(
        "genres", _Genres(), rng.normal(0, 1, (4, 3)).astype(np.float32), labels=GENRES,
        repository=repository, options=("--multi-label", "--threshold", "0.5"),
    )  # fmt: skip
