"""Handwritten digits: MNIST, and scikit-learn's digits in MNIST's framing."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from training.datasets.dataset import DataError, Dataset, Split

DOWNLOADS = Path("data")
"""The default download folder, which is created on demand. Any other folder must exist."""
DIGIT_LABELS = tuple("0123456789")


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
        redistributable=False,
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
