"""Two interleaving half circles."""

import torch

from training.datasets.baselines import linear_accuracy
from training.datasets.dataset import Dataset, Split

MOON_LABELS = ("upper moon", "lower moon")


def moons() -> Dataset:
    """Generate scikit-learn's two moons, 200 points with noise 0.05.

    A fifth of the points is the validation split. The test split has 10,000 further points.
    """
    from sklearn.datasets import make_moons

    def sample(count: int, seed: int) -> Split:
        x, y = make_moons(count, noise=0.05, random_state=seed)
        return Split(torch.from_numpy(x).float(), torch.from_numpy(y).long())

    points, test = sample(200, 0), sample(10_000, 1)
    held_out = torch.arange(200) % 5 == 2
    return Dataset(
        name="moons",
        summary="two interleaving half circles, 200 points, noise 0.05; 10,000 fresh to test",
        task="classification",
        input_kind="columns",
        train=Split(points.inputs[~held_out], points.targets[~held_out]),
        validation=Split(points.inputs[held_out], points.targets[held_out]),
        test=test,
        labels=MOON_LABELS,
        baselines=lambda data, split: {"best_linear_accuracy": linear_accuracy(data.train, split)},
    )
