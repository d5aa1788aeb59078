"""Fashion-MNIST: pictures of garments in MNIST's format (Xiao, Rasul and Vollgraf, 2017).

Zalando SE, MIT licence: https://github.com/zalandoresearch/fashion-mnist
"""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.datasets.dataset import DataError, Dataset, Split

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""The files of Debian's package `dataset-fashion-mnist`."""
GARMENT_LABELS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
PARTS = ("train", "t10k")


def fashion(data_dir: Path, debian: Path = DEBIAN_FOLDER) -> Dataset:
    """Load Fashion-MNIST: 55,000 / 5,000 / 10,000 images, uint8 [N, 28, 28], white on black.

    The files are those in `data_dir`, else those of Debian's package, else they are downloaded.

    Args:
        data_dir: the folder that holds FashionMNIST/raw, or that it is downloaded into.
        debian: the folder of Debian's package.

    Raises:
        DataError: the files are in neither folder and cannot be downloaded, or are damaged.
    """
    (images, targets), test = _torchvision(data_dir, download=False) or (
        _debian(debian) if debian.is_dir() else _downloaded(data_dir)
    )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1234))
    validation, train = order[:5_000], order[5_000:]
    return Dataset(
        name="fashion",
        summary="Fashion-MNIST garments (Zalando SE, MIT licence), 28x28 grey pixels",
        task="classification",
        input_kind="images",
        train=Split(images[train], targets[train]),
        validation=Split(images[validation], targets[validation]),
        test=Split(*test),
        labels=GARMENT_LABELS,
    )


_Pair = tuple[Tensor, Tensor]


def _torchvision(data_dir: Path, *, download: bool) -> tuple[_Pair, _Pair] | None:
    """Return training and test files as torchvision reads them; None if they are not there."""
    from torchvision.datasets import FashionMNIST

    try:
        train, test = (
            FashionMNIST(str(data_dir), train=is_train, download=download)
            for is_train in (True, False)
        )
    except (OSError, RuntimeError, ValueError):
        return None
    return (train.data, train.targets), (test.data, test.targets)


def _downloaded(data_dir: Path) -> tuple[_Pair, _Pair]:
    files = _torchvision(data_dir, download=True)
    if files is None:
        raise DataError(
            f"Fashion-MNIST is not in {data_dir} and cannot be downloaded: name the folder that "
            "holds FashionMNIST/raw with --data-dir or FITSERVE_DATA_DIR, or install Debian's "
            "package dataset-fashion-mnist"
        )
    return files


def _debian(folder: Path) -> tuple[_Pair, _Pair]:
    try:
        train, test = (
            (_idx(folder / f"{part}-images-idx3-ubyte.gz"),
             _idx(folder / f"{part}-labels-idx1-ubyte.gz").long())
            for part in PARTS
        )  # fmt: skip
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"Fashion-MNIST is damaged in {folder}: install Debian's package dataset-fashion-mnist "
            "again"
        ) from error
    return train, test


def _idx(path: Path) -> Tensor:
    """Return the uint8 tensor in a compressed IDX file: 2 zeros, type 8, the sizes, the values.

    Raises:
        ValueError: it is no IDX file of bytes, or incomplete.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError("no IDX file of bytes")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    values = np.frombuffer(content, np.uint8, math.prod(shape), 4 + 4 * axes)
    return torch.from_numpy(values.reshape(shape).copy())
