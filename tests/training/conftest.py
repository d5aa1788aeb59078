"""What the tests of `training/` share: data, a command line, and the folder of real MNIST."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import datasets
from training.datasets import Dataset, Split

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small fits are fastest on one thread, and one thread sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """scikit-learn's digits in MNIST's framing: 1,200 / 197 / 400."""
    return datasets.digits()


@pytest.fixture(scope="session")
def few_digits(digits: Dataset) -> Dataset:
    """Digits for fits of a fraction of a second: 96 / 32 / 40."""
    return replace(
        digits,
        train=_first(digits.train, 96),
        validation=_first(digits.validation, 32),
        test=_first(digits.test, 40),
    )


@pytest.fixture(scope="session")
def curve() -> Dataset:
    """The curve: 240 / 60 / 3,000."""
    return datasets.curve()


@pytest.fixture(scope="session")
def moons() -> Dataset:
    """The moons: 160 / 40 / 10,000."""
    return datasets.moons()


@pytest.fixture(scope="session")
def mnist(mnist_folder: Path) -> Dataset:
    """The real MNIST, where it is at hand."""
    return datasets.mnist(mnist_folder)


def _first(split: Split, rows: int) -> Split:
    return Split(split.inputs[:rows], split.targets[:rows])
