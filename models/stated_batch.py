"""What the options of `add` say of the batch: `--batch-axis`, `--shared` and `--no-batch`."""

from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.importing import AddError
from models.runtimes import DeclaredTensor
from models.tensor_spec import NUMPY_DTYPES


@dataclass(frozen=True)
class Stated:
    """What the options say of the batch.

    Attributes:
        axes: the axis of the batch of some inputs.
        shared: the inputs that the rows share, with values that batching is to be proved for.
        no_batch: whether the network has no batch.
    """

    axes: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, Sequence[float]] = field(default_factory=dict)
    no_batch: bool = False


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
