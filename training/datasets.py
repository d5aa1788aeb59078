"""The data sets as tensors in memory, split, each with a digest of every byte.

Each has a validation split, which chooses weights and hyperparameters, and a test split, which
only ever measures.
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
DIGIT_LABELS = tuple("0123456789")
MOON_LABELS = ("upper moon", "lower moon")


class DataError(RuntimeError):
    """Data that is neither at hand nor can be had: says what to set."""


@dataclass(frozen=True)
class Split:
    """Rows of one split: inputs [N, …] and targets, int64 [N] classes or float32 [N, 1] values."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Dataset:
    """Three splits of one data set.

    `labels` are the classes, for classification. `truth` is the function under the noise, for
    regression: float32 [N, 1] → float32 [N, 1].
    """

    name: DatasetName
    summary: str
    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...] = ()
    truth: Callable[[Tensor], Tensor] | None = None

    @property
    def whole(self) -> Split:
        """All rows of the three splits."""
        splits = (self.train, self.validation, self.test)
        return Split(
            torch.cat([split.inputs for split in splits]),
            torch.cat([split.targets for split in splits]),
        )

    def record(self) -> DataRecord:
        """What a card says of this data."""
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
"""The folder that is made for what is downloaded; another one must be there."""


def load(name: DatasetName, data_dir: Path) -> Dataset:
    """The data set `name`; `data_dir` is where MNIST lies, or is downloaded to.

    Raises:
        DataError: MNIST is not there and cannot be downloaded, or the folder is not there.
    """
    if name == "mnist":
        return mnist(data_dir)
    return {"digits": digits, "curve": curve, "moons": moons}[name]()


def mnist(data_dir: Path) -> Dataset:
    """MNIST: 55,000 training, 5,000 validation and 10,000 test images, uint8 [N, 28, 28]."""
    from torchvision.datasets import MNIST

    if data_dir != DOWNLOADS and not data_dir.is_dir():
        raise DataError(
            f"there is no folder {data_dir}: name the one that holds MNIST/raw with --data-dir or "
            "FITSERVE_DATA_DIR, or make it, and MNIST is downloaded into it"
        )
    parts = []
    for train in (True, False):
        try:
            parts.append(MNIST(str(data_dir), train=train, download=False))
        except (RuntimeError, ValueError):
            try:
                parts.append(MNIST(str(data_dir), train=train, download=True))
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"MNIST is not whole in {data_dir} and cannot be downloaded: name the folder "
                    "that holds MNIST/raw with --data-dir or FITSERVE_DATA_DIR"
                ) from error
    images, targets = parts[0].data, parts[0].targets
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1234))
    held, kept = order[:5_000], order[5_000:]
    return Dataset(
        name="mnist",
        summary="MNIST handwritten digits (LeCun, Cortes, Burges), 28x28 grey pixels",
        train=Split(images[kept], targets[kept]),
        validation=Split(images[held], targets[held]),
        test=Split(parts[1].data, parts[1].targets),
        labels=DIGIT_LABELS,
    )


def digits() -> Dataset:
    """scikit-learn's 1,797 digits in MNIST's framing: uint8 [N, 28, 28]; no download.

    Each 8x8 digit is cropped, its longest side scaled to 20 pixels, and centred by mass.
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
        train=Split(images[train], targets[train]),
        validation=Split(images[validation], targets[validation]),
        test=Split(images[test], targets[test]),
        labels=DIGIT_LABELS,
    )


def _frame(digit: Tensor) -> Tensor:
    """One 8x8 digit, 0 to 16, as MNIST frames one: uint8 [28, 28]."""
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
    """The function under the curve data's noise: x + 2 sin x."""
    return x + 2 * torch.sin(x)


def curve() -> Dataset:
    """Y = x + 2 sin x + N(0, 1): 300 points on [0, 20], a fifth held for validation.

    The test split is 3,000 fresh points of the same kind.
    """
    noise = np.random.default_rng(0)

    def sample(points: int) -> Split:
        x = torch.linspace(0, 20, points).unsqueeze(1)
        y = true_curve(x) + torch.from_numpy(noise.standard_normal((points, 1))).float()
        return Split(x, y)

    fitted, test = sample(300), sample(3_000)
    held = torch.arange(300) % 5 == 2
    return Dataset(
        name="curve",
        summary="y = x + 2 sin x + N(0, 1), 300 points on [0, 20]; 3,000 fresh points to test",
        train=Split(fitted.inputs[~held], fitted.targets[~held]),
        validation=Split(fitted.inputs[held], fitted.targets[held]),
        test=test,
        truth=true_curve,
    )


def moons() -> Dataset:
    """scikit-learn's two moons: 200 points, noise 0.05, a fifth held; 10,000 fresh to test."""
    from sklearn.datasets import make_moons

    def sample(points: int, seed: int) -> Split:
        x, y = make_moons(points, noise=0.05, random_state=seed)
        return Split(torch.from_numpy(x).float(), torch.from_numpy(y).long())

    fitted, test = sample(200, 0), sample(10_000, 1)
    held = torch.arange(200) % 5 == 2
    return Dataset(
        name="moons",
        summary="two interleaving half circles, 200 points, noise 0.05; 10,000 fresh to test",
        train=Split(fitted.inputs[~held], fitted.targets[~held]),
        validation=Split(fitted.inputs[held], fitted.targets[held]),
        test=test,
        labels=MOON_LABELS,
    )
