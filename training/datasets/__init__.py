"""The data sets, by name. Each has a module of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path

from training.datasets.curve import curve, true_curve
from training.datasets.dataset import (
    IGNORED,
    DataError,
    Dataset,
    InputKind,
    Split,
    Task,
    random_splits,
)
from training.datasets.digits import DIGIT_LABELS, DOWNLOADS, digits, mnist
from training.datasets.flights import flights
from training.datasets.moons import MOON_LABELS, moons

__all__ = [
    "DATASETS", "DIGIT_LABELS", "DOWNLOADS", "IGNORED", "MOON_LABELS", "DataError", "Dataset",
    "InputKind", "Split", "Task", "curve", "digits", "load", "mnist", "moons", "random_splits",
    "true_curve",
]  # fmt: skip

DATASETS: Mapping[str, Callable[[Path], Dataset]] = {
    "mnist": mnist,
    "digits": lambda _: digits(),
    "curve": lambda _: curve(),
    "moons": lambda _: moons(),
    "flights": flights,
}
"""Each data set by its name. The argument is the folder that holds data, or that data is
downloaded into."""


def load(name: str, data_dir: Path) -> Dataset:
    """Load the data set `name`.

    Args:
        name: the data set.
        data_dir: the folder that holds MNIST, or that MNIST is downloaded into.

    Raises:
        DataError: there is no such data set, its files are missing and cannot be downloaded, or
            the folder does not exist.
    """
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name](data_dir)
