"""The curve y = x + 2 sin x with noise."""

import numpy as np
import torch
from torch import Tensor

from training.datasets.baselines import least_squares_mse
from training.datasets.dataset import Dataset, Split


def true_curve(x: Tensor) -> Tensor:
    """Return the noise-free curve, x + 2 sin x."""
    return x + 2 * torch.sin(x)


def curve() -> Dataset:
    """Generate the curve y = x + 2 sin x + N(0, 1), 300 points on [0, 20].

    A fifth of the points is the validation split. The test split has 3,000 further points.
    """
    noise = np.random.default_rng(0)

    def sample(count: int) -> Split:
        x = torch.linspace(0, 20, count).unsqueeze(1)
        y = true_curve(x) + torch.from_numpy(noise.standard_normal((count, 1))).float()
        return Split(x, y)

    points, test = sample(300), sample(3_000)
    held_out = torch.arange(300) % 5 == 2
    return Dataset(
        name="curve",
        summary="y = x + 2 sin x + N(0, 1), 300 points on [0, 20]; 3,000 fresh points to test",
        task="regression",
        input_kind="columns",
        train=Split(points.inputs[~held_out], points.targets[~held_out]),
        validation=Split(points.inputs[held_out], points.targets[held_out]),
        test=test,
        truth=true_curve,
        baselines=_baselines,
    )


def _baselines(data: Dataset, split: Split) -> dict[str, float]:
    noise = true_curve(split.inputs) - split.targets
    return {
        "least_squares_mse": least_squares_mse(data.train, split),
        "noise_floor_mse": float(noise.square().mean()),
    }
