"""Samples for an export from the command line: an .npz file, or random rows by `--input`."""

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fitserve.exported import Arrays, ExportError

ROWS = 4
FREE_SIZES = (8, 12)
"""The sizes of the free dimensions in the two samples."""
_DTYPES = {
    "BOOL": "bool", "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}  # fmt: skip
_FORM = re.compile(r"(?P<name>\w+):(?P<datatype>\w+)\[(?P<shape>-?\d+(,-?\d+)*)\]")


class Input(NamedTuple):
    """An input as `--input` states it. The first dimension is the batch; -1 means any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def parse_input(text: str) -> Input:
    """Parse `image:FP32[-1,3,224,224]`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    found = _FORM.fullmatch(text.replace(" ", ""))
    if not found or found["datatype"] not in _DTYPES:
        raise ArgumentTypeError(
            f"{text!r} must be NAME:DATATYPE[SIZES], as image:FP32[-1,3,224,224], with one of "
            f"{', '.join(_DTYPES)}"
        )
    shape = tuple(map(int, found["shape"].split(",")))
    if any(size == 0 or size < -1 for size in shape):
        raise ArgumentTypeError(f"{text!r} has a size that is neither positive nor -1 (any size)")
    return Input(found["name"], _DTYPES[found["datatype"]], shape)


def random_rows(inputs: Sequence[Input]) -> list[Arrays]:
    """Return a sample of random rows; two with different sizes if a dimension is free.

    Floating-point numbers have a standard normal distribution; whole numbers are 0 or 1, since
    larger ones may be beyond a table. BF16 is a tensor of torch, since numpy has no such type.
    """
    free = any(-1 in one.shape[1:] for one in inputs)
    random = np.random.default_rng(0)
    samples: list[Arrays] = []
    for size in FREE_SIZES if free else FREE_SIZES[:1]:
        sample: dict[str, Any] = {}
        for name, dtype, stated in inputs:
            rows = ROWS if stated[0] == -1 else stated[0]
            shape = (rows, *(size if one == -1 else one for one in stated[1:]))
            if dtype == "bfloat16":
                import torch

                sample[name] = torch.from_numpy(random.normal(size=shape)).to(torch.bfloat16)
            elif np.dtype(dtype).kind == "f":
                sample[name] = random.normal(size=shape).astype(dtype)
            else:
                sample[name] = random.integers(0, 2, shape).astype(dtype)
        samples.append(sample)
    return samples


def read_rows(file: Path) -> Arrays:
    """Return the arrays of an .npz file.

    Raises:
        ExportError: the file cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise ExportError(f"{file}: it is no .npz file: write it with numpy.savez") from error
