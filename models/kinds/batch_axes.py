"""The axis of the batch in each tensor of a network, and the way between its layout and rows first.

A network may carry the batch on any axis, as a recurrent state [layers, N, hidden] does, share a
tensor between the rows, as a sampling rate, or have no batch at all. Files, requests and responses
have the network's layout. The checks, the batcher and the endpoints of rows have the rows first in
every tensor: a shared tensor is repeated for each row, as a view that takes no memory, and a
network without a batch computes one row. `rows_first.RowsFirst` stands between the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.split_rows import SplitSpec

Arrays = Mapping[str, NDArray[Any]]
Axes = dict[str, int | None]
"""The axis of the batch by the name of the tensor; None for a tensor without one."""


def rows_first(array: NDArray[Any], axis: int | None, rows: int) -> NDArray[Any]:
    """Return a tensor of the network with its rows first, as a view.

    Args:
        array: the tensor.
        axis: the axis of its rows; None for a tensor that the rows share, which is repeated.
        rows: how often it is repeated.
    """
    if axis is None:
        return np.broadcast_to(array, (rows, *array.shape))
    return np.moveaxis(array, axis, 0) if axis else array


def network_layout(array: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return an array with its rows first as the network has it, as a view.

    The rows of a shared tensor are equal: the first one is returned.
    """
    if axis is None:
        return array[0, ...]
    return np.moveaxis(array, 0, axis) if axis else array


def shape_of_network(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Return a shape with the rows first as the network has it."""
    rows, *inner = shape
    return tuple(inner) if axis is None else (*inner[:axis], rows, *inner[axis:])


def row_shape(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """Return the shape of one row, from the shape that the network has."""
    return tuple(shape) if axis is None else (*shape[:axis], *shape[axis + 1 :])


def row_axis(axis: int, batch_axis: int | None) -> int:
    """Return the place of an axis of the network, other than the batch's, if the rows are first."""
    return axis + 1 if batch_axis is None or axis < batch_axis else axis


@dataclass(frozen=True)
class BatchAxes:
    """The axes of the batch in a network's inputs and outputs; 0 for those that are not named.

    `split` says which outputs are divided among the rows by an index; they have no axis.
    """

    inputs: Axes
    outputs: Axes
    split: SplitSpec | None = None

    @property
    def is_rows_first(self) -> bool:
        """Whether the batch is the first axis everywhere, so that nothing is converted."""
        return not any(axis != 0 for axis in (*self.inputs.values(), *self.outputs.values()))

    @property
    def has_batch(self) -> bool:
        """Whether any input has rows; else a request is one computation."""
        return any(axis is not None for axis in self.inputs.values())

    @property
    def shared(self) -> tuple[str, ...]:
        """The inputs that the rows of a batch share; none in a network without a batch."""
        if not self.has_batch:
            return ()
        return tuple(name for name, axis in self.inputs.items() if axis is None)

    def count_rows(self, inputs: Arrays) -> int | None:
        """Return the rows of the network's inputs; None if they have different numbers of rows."""
        counts = {
            inputs[name].shape[axis] for name, axis in self.inputs.items() if axis is not None
        }
        return counts.pop() if len(counts) == 1 else None if counts else 1

    def inputs_rows_first(self, inputs: Arrays, rows: int) -> dict[str, NDArray[Any]]:
        """Return the network's inputs with the rows first."""
        return {
            name: rows_first(array, self.inputs.get(name, 0), rows)
            for name, array in inputs.items()
        }

    def outputs_rows_first(self, outputs: Arrays, rows: int) -> dict[str, NDArray[Any]]:
        """Return the network's outputs with the rows first.

        Raises:
            SplitError: the index of the outputs does not divide them among the rows.
        """
        divided = {} if self.split is None else self.split.rows_of(outputs, rows)
        return {
            name: divided[name]
            if name in divided
            else rows_first(array, self.outputs.get(name, 0), rows)
            for name, array in outputs.items()
        }

    def inputs_of_network(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return inputs with the rows first in the network's layout, contiguous."""
        return {
            name: np.asarray(network_layout(array, self.inputs.get(name, 0)), order="C")
            for name, array in inputs.items()
        }

    def outputs_of_network(self, outputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return outputs with the rows first in the network's layout."""
        joined = {} if self.split is None else self.split.joined(outputs)
        return {
            name: joined[name]
            if name in joined
            else network_layout(array, self.outputs.get(name, 0))
            for name, array in outputs.items()
        }


ROWS_FIRST = BatchAxes({}, {})
"""The batch is the first axis of every tensor."""
