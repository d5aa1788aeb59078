"""A data set: tensors in memory, in three splits, with a digest of every byte.

The validation split selects weights and hyperparameters. The test split is used for measurements
only.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.package.card import DataRecord, Splits

Task = Literal["classification", "regression"]
InputKind = Literal["images", "pictures", "columns", "tokens"]
"""`images` are uint8 [N, 28, 28], `pictures` uint8 [N, 3, height, width], `columns` float32
[N, columns], `tokens` int64 [N, places]."""

IGNORED = -100
"""The target of a place of a sequence where nothing is asked; the default of torch's losses."""


class DataError(RuntimeError):
    """A data set that is missing and cannot be downloaded. The message names the options."""


@dataclass(frozen=True)
class Split:
    """One split: inputs [N, …] and targets.

    Targets are int64 [N] classes, int64 [N, places] classes of a sequence with -100 where nothing
    is asked, or float32 [N, 1] values.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "Split":
        """Return a copy of the split on `device`."""
        return Split(self.inputs.to(device), self.targets.to(device))


def random_splits(inputs: Tensor, targets: Tensor, seed: int = 0) -> tuple[Split, Split, Split]:
    """Divide rows at random: three fifths to train, a fifth to validate, a fifth to test."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    fifth = len(inputs) // 5
    parts = order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth]
    train, validation, test = (Split(inputs[rows], targets[rows]) for rows in parts)
    return train, validation, test


@dataclass(frozen=True)
class Dataset:
    """A data set in three splits.

    Attributes:
        name: the name on the command line and in a card.
        summary: one line for a card.
        task: `classification` has class targets, `regression` has value targets.
        input_kind: the kind of the inputs.
        train: the rows that a network is trained on.
        validation: the rows that select weights and hyperparameters.
        test: the rows for measurements.
        labels: the class names of a classification.
        truth: the noise-free function of a regression, float32 [N, 1] → float32 [N, 1].
        external: loads a second data set with the same inputs and labels, for an external test.
        redistributable: whether rows may be part of a package, as its recorded prediction. If not,
            those of the external data set are.
        baselines: the metrics of simpler models on a split, for comparison, by name.
    """

    name: str
    summary: str
    task: Task
    input_kind: InputKind
    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...] = ()
    truth: Callable[[Tensor], Tensor] | None = None
    external: "Callable[[], Dataset] | None" = None
    redistributable: bool = True
    baselines: "Callable[[Dataset, Split], Mapping[str, float]] | None" = None

    @property
    def outputs(self) -> int:
        """Return the width of a network's output: the number of classes or of values."""
        if self.task == "classification":
            return len(self.labels)
        return self.train.targets.shape[1]

    @property
    def all_rows(self) -> Split:
        """Return all rows of the three splits."""
        splits = (self.train, self.validation, self.test)
        return Split(
            torch.cat([split.inputs for split in splits]),
            torch.cat([split.targets for split in splits]),
        )

    def example_rows(self, count: int) -> Tensor:
        """Return inputs of the first test rows that may be part of a package."""
        if self.redistributable or self.external is None:
            return self.test.inputs[:count]
        return self.external().test.inputs[:count]

    def record(self) -> DataRecord:
        """Return the record of this data set for a card."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            for tensor in (split.inputs, split.targets):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return DataRecord(
            name=self.name,
            summary=self.summary,
            sha256=digest.hexdigest(),
            splits=Splits(
                train=len(self.train), validation=len(self.validation), test=len(self.test)
            ),
        )
