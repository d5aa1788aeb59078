"""The data sets: tensors in memory, in three splits, with a digest of every byte.

The validation split selects weights and hyperparameters. The test split is used for measurements
only.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.card import DataRecord, Splits

DatasetName = Literal["mnist", "digits", "curve", "moons"]
Task = Literal["classification", "regression"]
InputKind = Literal["images", "columns"]
"""`images` are uint8 [N, 28, 28], `columns` are float32 [N, columns]."""
DIGIT_LABELS = tuple("0123456789")
MOON_LABELS = ("upper moon", "lower moon")


class DataError(RuntimeError):
    """A data set that is missing and cannot be downloaded. The message names the options."""


@dataclass(frozen=True)
class Split:
    """One split: inputs [N, …] and targets, int64 [N] classes or float32 [N, 1] values."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "Split":
        """Return a copy of the split on `device`."""
        return Split(self.inputs.to(device), self.targets.to(device))


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
    """

    name: DatasetName
    summary: str
    task: Task
    input_kind: InputKind
    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...] = ()
    truth: Callable[[Tensor], Tensor] | None = None
    external: "Callable[[], Dataset] | None" = None

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


DOWNLOADS = Path("data")
"""The default download folder, which is created on demand. Any other folder must exist."""


def load(name: DatasetName, data_dir: Path) -> Dataset:
    """Load the data set `name`.

    Args:
        name: the data set.
        data_dir: the folder that holds MNIST, or that MNIST is downloaded into.

    Raises:
        DataError: MNIST is missing and cannot be downloaded, or the folder does not exist.
    """
    if name == "mnist":
        return mnist(data_dir)
    return {"digits": digits, "curve": curve, "moons": moons}[name]()


def mnist(data_dir: Path) -> Dataset:
    """Load MNIST: 55,000 training, 5,000 validation and 10,000 test images, uint8 [N, 28, 28]."""
    from torchvision.datasets import MNIST

    if data_dir != DOWNLOADS and not data_dir.is_dir():
        raise DataError(
            f"there is no folder {data_dir}: name the one that holds MNIST/raw with --data-dir or "
            "FITSERVE_DATA_DIR, or make it, and MNIST is downloaded into it"
        )
    files = []
    for is_train in (True, False):
        try:
            files.append(MNIST(str(data_dir), train=is_train, download=False))
        except (RuntimeError, ValueError):
            try:
                files.append(MNIST(str(data_dir), train=is_train, download=True))
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"MNIST is incomplete in {data_dir} and cannot be downloaded: name the folder "
                    "that holds MNIST/raw with --data-dir or FITSERVE_DATA_DIR"
                ) from error
    images, targets = files[0].data, files[0].targets
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1234))
    validation, train = order[:5_000], order[5_000:]
    return Dataset(
        name="mnist",
        summary="MNIST handwritten digits (LeCun, Cortes, Burges), 28x28 grey pixels",
        task="classification",
        input_kind="images",
        train=Split(images[train], targets[train]),
        validation=Split(images[validation], targets[validation]),
        test=Split(files[1].data, files[1].targets),
        labels=DIGIT_LABELS,
        external=digits,
    )


def digits() -> Dataset:
    """Load scikit-learn's 1,797 digits in MNIST's framing, uint8 [N, 28, 28], without a download.

    Each 8x8 digit is cropped, scaled to 20 pixels on its longest side, and centred by mass.
    """
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = torch.stack([_frame(torch.from_numpy(image).float()) for image in bundle.images])
    targets = torch.from_numpy(bundle.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation, test = order[:1_200], order[1_200:1_397], order[1_397:]
    return Dataset(
        name="digits",
        summary="scikit-learn's 8x8 handwritten digits brought to MNIST's framing",
        task="classification",
        input_kind="images",
        train=Split(images[train], targets[train]),
        validation=Split(images[validation], targets[validation]),
        test=Split(images[test], targets[test]),
        labels=DIGIT_LABELS,
    )


def _frame(digit: Tensor) -> Tensor:
    """Return one 8x8 digit, 0 to 16, in MNIST's framing: uint8 [28, 28]."""
    rows, columns = (digit > 0).any(dim=1).nonzero(), (digit > 0).any(dim=0).nonzero()
    ink = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = ink.shape
    scale = 20 / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    large = interpolate(ink[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]
    large = (large.clamp(0, 16) * (255 / large.max().clamp(max=16))).round().clamp(0, 255)
    mass = large / large.sum()
    y = float((mass.sum(dim=1) * torch.arange(size[0])).sum())
    x = float((mass.sum(dim=0) * torch.arange(size[1])).sum())
    top = min(max(round(14 - y), 0), 28 - size[0])
    left = min(max(round(14 - x), 0), 28 - size[1])
    framed = torch.zeros(28, 28, dtype=torch.uint8)
    framed[top : top + size[0], left : left + size[1]] = large.to(torch.uint8)
    return framed


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
    )


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
    )
