"""Fixtures of the tests of `training/`."""

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
    """Use one thread, which is fastest for small networks and adds in a fixed order."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(previous)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Return scikit-learn's digits in MNIST's framing: 1,200 / 197 / 400 rows."""
    return datasets.digits()


@pytest.fixture(scope="session")
def few_digits(digits: Dataset) -> Dataset:
    """Return digits for training in a fraction of a second: 96 / 32 / 40 rows."""
    return replace(
        digits,
        train=_first(digits.train, 96),
        validation=_first(digits.validation, 32),
        test=_first(digits.test, 40),
    )


@pytest.fixture(scope="session")
def curve() -> Dataset:
    """Return the curve: 240 / 60 / 3,000 rows."""
    return datasets.curve()


@pytest.fixture(scope="session")
def moons() -> Dataset:
    """Return the moons: 160 / 40 / 10,000 rows."""
    return datasets.moons()


@pytest.fixture(scope="session", name="and")
def and_table() -> Dataset:
    """Return the truth table of AND, whose four points are all three splits."""
    return datasets.and_table()


@pytest.fixture(scope="session")
def xor() -> Dataset:
    """Return the truth table of XOR, whose four points are all three splits."""
    return datasets.xor_table()


@pytest.fixture(scope="session")
def sums() -> Dataset:
    """Return the sums: 102,347 / 3,006 / 5,940 rows."""
    return datasets.sums()


@pytest.fixture(scope="session")
def mnist(mnist_folder: Path) -> Dataset:
    """Return the real MNIST; skip the test if MNIST is not available."""
    return datasets.mnist(mnist_folder)


def _first(split: Split, rows: int) -> Split:
    return Split(split.inputs[:rows], split.targets[:rows])
