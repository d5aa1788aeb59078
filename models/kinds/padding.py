"""Padding: rows of unequal lengths become rows of one length, which can share a batch."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class PaddedInput:
    """How one input is padded: with `value`, at the end of `axis`.

    A mask tells the network which places of a row are real: its value is 0.
    """

    axis: int = Field(ge=1)
    value: int | float
    is_mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class PaddingSpec:
    """The padding of a network whose rows have one free length.

    Attributes:
        inputs: the inputs with this length, by name.
        outputs: the axes of the outputs that have this length; padding is cut off from them.
        lengths: the lengths at which rows are batched, in ascending order. A row is padded to the
            next of them.
    """

    inputs: dict[str, PaddedInput] = Field(min_length=1)
    outputs: dict[str, tuple[int, ...]]
    lengths: tuple[int, ...] = Field(min_length=1)

    def length_of(self, inputs: Mapping[str, NDArray[Any]]) -> int | None:
        """Return the length of all rows; None if their inputs differ in it."""
        lengths = {inputs[name].shape[padded.axis] for name, padded in self.inputs.items()}
        return lengths.pop() if len(lengths) == 1 else None

    def target(self, inputs: Mapping[str, NDArray[Any]]) -> int | None:
        """Return the length to which rows are padded; None if they are computed as they are.

        Rows are not padded if they have one of the lengths, are empty or longer than all of them,
        or if a mask is not 1 for the first places of each row and 0 for the others: some networks
        look at all places if no place is real, or if the first is not.
        """
        length = self.length_of(inputs)
        if not length:
            return None
        index = bisect_left(self.lengths, length)
        if index == len(self.lengths) or self.lengths[index] == length:
            return None
        for name, padded in self.inputs.items():
            if padded.is_mask and not _marks_the_first(np.moveaxis(inputs[name], padded.axis, -1)):
                return None
        return self.lengths[index]

    def pad(self, inputs: Mapping[str, NDArray[Any]], target: int) -> dict[str, NDArray[Any]]:
        """Return the inputs with rows of the length `target`, which is not shorter than theirs."""
        return {
            name: _padded(array, self.inputs[name], target) if name in self.inputs else array
            for name, array in inputs.items()
        }

    def cut(self, outputs: Mapping[str, NDArray[Any]], length: int) -> dict[str, NDArray[Any]]:
        """Return views of the outputs, without what belongs to places after `length`."""
        return {name: self._cut(name, array, length) for name, array in outputs.items()}

    def _cut(self, name: str, array: NDArray[Any], length: int) -> NDArray[Any]:
        axes = self.outputs.get(name, ())
        if not axes:
            return array
        return array[tuple(slice(length if axis in axes else None) for axis in range(array.ndim))]


def _marks_the_first(mask: NDArray[Any]) -> bool:
    """Return whether a mask is 1 for the first places of its last axis, and 0 for the others."""
    is_first = (mask[..., 0] == 1).all()
    falls = (mask[..., 1:] <= mask[..., :-1]).all()
    return bool(is_first and falls and ((mask == 0) | (mask == 1)).all())


def _padded(array: NDArray[Any], padded: PaddedInput, target: int) -> NDArray[Any]:
    shape = [*array.shape]
    length, shape[padded.axis] = shape[padded.axis], target
    result = np.full(shape, padded.value, array.dtype)
    result[(slice(None),) * padded.axis + (slice(length),)] = array
    return result
