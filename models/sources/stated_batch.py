"""What the options of `add` say of the batch: `--batch-axis`, `--shared` and `--no-batch`."""

from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from models.errors import AddError
from models.kinds.tensor_spec import NUMPY_DTYPES
from models.runtimes.runtime import DeclaredTensor


class StatedSplit(NamedTuple):
    """`--split-by`: the output that names the row of each entry, and the column of the index."""

    output: str
    column: int | None = None

    def to_text(self) -> str:
        """Return the option."""
        column = "" if self.column is None else f":{self.column}"
        return f"--split-by {self.output}{column}"


@dataclass(frozen=True)
class Stated:
    """What the options say of the batch.

    Attributes:
        axes: the axis of the batch of some inputs.
        shared: the inputs that the rows share, with values that batching is to be proved for.
        no_batch: whether the network has no batch.
        split: the index that divides outputs among the rows; None if there is none.
    """

    axes: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, Sequence[float]] = field(default_factory=dict)
    no_batch: bool = False
    split: StatedSplit | None = None


def parse_batch_axis(text: str) -> tuple[str, int]:
    """Parse `state=1`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, _, axis = text.rpartition("=")
    if not (name and axis.isascii() and axis.isdigit()):
        raise ArgumentTypeError(f"{text!r} must be INPUT=AXIS, as state=1")
    return name, int(axis)


def parse_shared(text: str) -> tuple[str, tuple[float, ...]]:
    """Parse `rate`, or `rate=8000,16000`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, _, values = text.partition("=")
    try:
        parsed = tuple(float(value) for value in values.split(",")) if values else ()
    except ValueError:
        name, parsed = "", ()
    if not name or not np.isfinite(parsed).all():
        raise ArgumentTypeError(f"{text!r} must be INPUT or INPUT=VALUE,…, as rate=8000,16000")
    return name, parsed


def parse_split(text: str) -> StatedSplit:
    """Parse `batch_ids`, or `detections:0`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, colon, column = text.rpartition(":")
    if colon and name and column.isascii() and column.isdigit():
        return StatedSplit(name, int(column))
    if not text or text.endswith(":") or text.startswith(":"):
        raise ArgumentTypeError(f"{text!r} must be OUTPUT or OUTPUT:COLUMN, as detections:0")
    return StatedSplit(text)


def require_known(inputs: Sequence[DeclaredTensor], stated: Stated) -> None:
    """Check that the options name inputs, and axes that these have.

    Raises:
        AddError: they do not.
    """
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    for option, names in (("--batch-axis", stated.axes), ("--shared", stated.shared)):
        if unknown := set(names).difference(shapes):
            raise AddError(
                f"{option} names {min(unknown)!r}, and the inputs are {', '.join(shapes)}"
            )
    if both := set(stated.axes).intersection(stated.shared):
        raise AddError(f"--batch-axis and --shared both name {min(both)!r}: give one of them")
    if stated.no_batch and (stated.axes or stated.shared):
        raise AddError("--no-batch excludes --batch-axis and --shared: omit them")
    if stated.split and (stated.no_batch or any(stated.axes.values()) or stated.shared):
        raise AddError(
            f"{stated.split.to_text()} is for rows on the first axis of each input: omit "
            "--no-batch, --batch-axis and --shared"
        )
    datatypes = {tensor.name: tensor.datatype for tensor in inputs}
    for name, values in stated.shared.items():
        datatype = datatypes[name]
        whole = datatype is not None and NUMPY_DTYPES[datatype].kind != "f"
        if wrong := [value for value in values if whole and not value.is_integer()]:
            raise AddError(f"--shared {name}={wrong[0]:g} is no {datatype}: give such a value")
    for name, axis in stated.axes.items():
        if shapes[name] and axis >= len(shapes[name]):
            raise AddError(
                f"--batch-axis {name}={axis}: the input has the axes 0 to {len(shapes[name]) - 1}"
            )
