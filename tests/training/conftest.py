"""Fixtures of the tests of `training/`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import datasets
from training.datasets import GARMENT_LABELS, LETTER_LABELS, Dataset, Split
from training.datasets.names import START

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
def fashion(digits: Dataset) -> Dataset:
    """Return a stand-in for Fashion-MNIST: digits under the names of garments."""
    return replace(digits, name="fashion", labels=GARMENT_LABELS)


@pytest.fixture(scope="session")
def names() -> Dataset:
    """Return a stand-in for the surnames: random letters, each the one before it plus 1 to 3."""
    generator = torch.Generator().manual_seed(0)

    def walk(count: int) -> Tensor:
        steps = torch.randint(1, 4, (count, 10), generator=generator)
        return steps.cumsum(dim=1).remainder(26) + 1

    whole, rest = walk(200), walk(260)
    lengths = torch.randint(10, (260, 1), generator=generator)
    rows = torch.cat([torch.full((260, 1), START), rest], dim=1)
    begun = rows.masked_fill(torch.arange(11) > lengths, 0)
    following = rest.gather(1, lengths).flatten() - 1
    start = torch.full((200, 1), START)
    return Dataset(
        name="names", summary="random letters", task="classification", input_kind="tokens",
        train=Split(torch.cat([start, whole[:, :-1]], dim=1), whole - 1),
        validation=Split(begun[:60], following[:60]),
        test=Split(begun[60:], following[60:]),
        labels=LETTER_LABELS,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mnist(mnist_folder: Path) -> Dataset:
    """Return the real MNIST; skip the test if MNIST is not available."""
    return datasets.mnist(mnist_folder)


def _first(split: Split, rows: int) -> Split:
    return Split(split.inputs[:rows], split.targets[:rows])
