"""Pictures in folders, one for each class, as a data set.

A picture becomes pixels by the same steps as in the service (`models/kinds/pictures.py`), so that
the network sees the same in both.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from models.kinds.pictures import PictureSpec
from training.datasets import DataError, Dataset, Split, random_splits

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
MIN_PICTURES = 5
"""Of each class; a fifth of them validates, and a fifth tests."""
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""The folders of the splits, if the pictures are divided already."""
PICTURE = PictureSpec(layout="CHW", channels="RGB", interpolation="bicubic")
"""A picture is resized to the size of the row, without a crop."""


def image_folder(folder: Path, name: str, size: int) -> Dataset:
    """Read the pictures below `folder`, as uint8 [N, 3, size, size].

    The folder has a folder for each class. Or it has the folders `train`, `val` and `test`, and
    these have the folders of the classes; where only `train` is there, it is divided at random.

    Args:
        folder: the folder.
        name: of the data set.
        size: the height and width of a row, in pixels.

    Raises:
        DataError: there are fewer than two classes, a class has fewer than five pictures, the
            splits have different classes, or a file is no picture.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: give one that has a folder for each class")
    divided = _divided(folder)
    root = divided.get("train", folder)
    labels = _classes(root)
    train = _read(root, labels, size)
    _require_enough(root, labels, train)
    if {"validation", "test"} <= divided.keys():
        validation, test = (
            _read(_same_classes(divided[split], labels), labels, size)
            for split in ("validation", "test")
        )
    else:
        train, validation, test = random_splits(train.inputs, train.targets)
    return Dataset(
        name=name,
        summary=f"pictures of {len(labels)} classes in {folder.name}/",
        task="classification",
        input_kind="pictures",
        train=train,
        validation=validation,
        test=test,
        labels=labels,
    )


def _divided(folder: Path) -> dict[str, Path]:
    """Return the folders of the splits, if there is one for training."""
    found = {
        split: folder / name
        for split, names in SPLITS.items()
        for name in names
        if (folder / name).is_dir()
    }
    return found if "train" in found else {}


def _classes(folder: Path) -> tuple[str, ...]:
    labels = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))
    if len(labels) < 2:
        raise DataError(
            f"{folder} has {len(labels)} folders: put the pictures of each class into a folder "
            "with the name of the class; two classes at least"
        )
    return labels


def _same_classes(folder: Path, labels: Sequence[str]) -> Path:
    unknown = sorted(set(_classes(folder)) - set(labels))
    if unknown:
        raise DataError(f"{folder} has the class {unknown[0]!r}, which the training pictures lack")
    return folder


def _require_enough(folder: Path, labels: Sequence[str], rows: Split) -> None:
    counts = torch.bincount(rows.targets, minlength=len(labels))
    if int(counts.min()) < MIN_PICTURES:
        label = labels[int(counts.argmin())]
        raise DataError(
            f"{folder / label} has {int(counts.min())} pictures ({', '.join(sorted(SUFFIXES))}): "
            f"{MIN_PICTURES} are needed of each class"
        )


def _read(folder: Path, labels: Sequence[str], size: int) -> Split:
    files = [
        (path, index)
        for index, label in enumerate(labels)
        for path in sorted((folder / label).rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."
    ]
    rows = np.empty((len(files), 3, size, size), np.uint8)
    for row, (path, _) in zip(rows, tqdm(files, unit="picture", disable=None), strict=True):
        row[:] = _pixels(path, size)
    return Split(torch.from_numpy(rows), torch.tensor([index for _, index in files]))


def _pixels(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        with Image.open(path) as image:
            upright: Image.Image = ImageOps.exif_transpose(image)
            return PICTURE.pixels(upright, (3, size, size))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read: remove it ({error})") from error
