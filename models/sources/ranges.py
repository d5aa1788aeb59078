"""The ranges of an added network's inputs, as given by `--range`."""

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.runtimes.runtime import Arrays


class InputRange(NamedTuple):
    """The values that an input takes, with both ends. A side whose end is None is open."""

    name: str
    low: float | None
    high: float | None


def whole_numbers(spec: TensorSpec) -> tuple[int, int]:
    """Return the smallest and largest value of an input of whole numbers or truth values."""
    if spec.dtype.kind == "b":
        return 0, 1
    bits = 8 * spec.dtype.itemsize
    return (0, 2**bits - 1) if spec.dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def parse_range(text: str) -> InputRange:
    """Parse a range such as `tokens=0:49`, `x=0:` or `x=:1.5`.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    name, _, ends = text.rpartition("=")
    low, colon, high = ends.partition(":")
    try:
        parsed = InputRange(name, float(low) if low else None, float(high) if high else None)
    except ValueError:
        parsed = InputRange("", None, None)
    ends_given = [end for end in parsed[1:] if end is not None]
    if not (name and colon and ends_given and all(map(math.isfinite, ends_given))):
        raise ArgumentTypeError(f"{text!r} must be INPUT=LOW:HIGH, as tokens=0:49")
    if ends_given != sorted(ends_given):
        raise ArgumentTypeError(f"{text!r} must have its lower end first")
    return parsed


def with_ranges(
    inputs: Sequence[TensorSpec], ranges: Sequence[InputRange]
) -> tuple[TensorSpec, ...]:
    """Return the inputs with their ranges enforced.

    Raises:
        AddError: a range names an unknown input, two ranges name the same input, or an end is not a
            value of the input's datatype.
    """
    ranges_by_input = {input_range.name: input_range for input_range in ranges}
    names = ", ".join(spec.name for spec in inputs)
    if len(ranges_by_input) < len(ranges):
        raise AddError("--range names an input twice: give each input one range")
    if unknown := set(ranges_by_input) - {spec.name for spec in inputs}:
        raise AddError(f"--range names {min(unknown)!r}: the inputs are {names}")
    return tuple(_ranged(spec, ranges_by_input.get(spec.name)) for spec in inputs)


def check_samples(rows: Arrays, inputs: Sequence[TensorSpec], source: str) -> None:
    """Check that rows are within the ranges of their inputs.

    Raises:
        AddError: a value of `source` is outside.
    """
    for spec in inputs:
        if spec.enforced and (value := spec.first_outside(rows[spec.name])) is not None:
            raise AddError(
                f"{source}: {spec.name} holds {value!s}, and its range is {spec.range}: "
                f"give rows within the range, or a wider one with --range {spec.name}=LOW:HIGH"
            )


def _ranged(spec: TensorSpec, input_range: InputRange | None) -> TensorSpec:
    if input_range is None:
        return spec
    if spec.datatype == "BYTES":
        raise AddError(f"--range names {spec.name}, which takes text: give no range for it")
    for end in input_range[1:]:
        if end is not None and not _holds(spec, end):
            raise AddError(
                f"--range gives {spec.name} the end {end:g}, which is no {spec.datatype}: "
                "give numbers that the input can hold"
            )
    return replace(spec, minimum=input_range.low, maximum=input_range.high, enforced=True)


def _holds(spec: TensorSpec, end: float) -> bool:
    if spec.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.array(end).astype(spec.dtype)))
    low, high = whole_numbers(spec)
    return float(end).is_integer() and low <= end <= high
