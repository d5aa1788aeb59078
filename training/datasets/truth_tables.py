"""The truth tables of AND and XOR: four points each."""

import torch

from training.datasets.dataset import Dataset, Split

_POINTS = ((0, 0), (0, 1), (1, 0), (1, 1))


def truth_table(name: str, answers: tuple[int, int, int, int]) -> Dataset:
    """Return a truth table, float32 [4, 2] → int64 [4], which is all three splits.

    The four points are all that there is: a network is to learn them, and is measured on them.

    Args:
        name: of the function, in lower case.
        answers: for the inputs 00, 01, 10 and 11.
    """
    table = Split(torch.tensor(_POINTS, dtype=torch.float32), torch.tensor(answers))
    return Dataset(
        name=name,
        summary=f"the truth table of {name.upper()}; its four points are training, validation and "
        "test split",
        task="classification",
        input_kind="columns",
        train=table,
        validation=table,
        test=table,
        labels=("0", "1"),
    )


def and_table() -> Dataset:
    """Return the truth table of AND."""
    return truth_table("and", (0, 0, 0, 1))


def xor_table() -> Dataset:
    """Return the truth table of XOR."""
    return truth_table("xor", (0, 1, 1, 0))
