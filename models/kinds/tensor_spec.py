"""The specification of an input or output: datatype, shape, range, labels, and what a caller sends.

A part of the card (`card.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

from models.kinds.answers import LabelsSpec, NumberSpec
from models.kinds.batch_axes import row_axis, row_shape, shape_of_network
from models.kinds.pictures import PictureSpec

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""The tensor datatypes that a package may use, by their names in the Open Inference Protocol.

BF16 is an array of FP32 (`models.runtimes.bfloat16`). An element of BYTES is text: a `str` in an
array of objects, which has a form in UTF-8.
"""

NUMPY_DTYPES: Mapping[Datatype, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.float32),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}


def _dimension(size: int) -> int:
    if size != -1 and size < 1:
        raise ValueError(f"a dimension is at least 1, or -1 for any size, not {size}")
    return size


Dimension = Annotated[int, AfterValidator(_dimension)]

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class TensorSpec:
    """An input or output, as the network has it; -1 in `shape` means any size.

    `batch_axis` is the axis of `shape` that counts the rows of a batch. None means that the rows
    share the tensor: only requests with equal values of a shared input are batched, and a shared
    output belongs to the whole computation. A network has no batch if all its inputs are so.
    `minimum` and `maximum` are the range of the usual values. With `enforced`, other values are
    refused before the computation. `labels` name the classes, the columns of the last dimension.
    `nonempty` lists the axes of any size that must not have the size 0. `max_shape` has the largest
    size of each free dimension, and the sizes of the others; None means no limit. `picture` says
    how a picture becomes a row, `answer` how a row of an output is answered in the card's terms.

    A dataclass, since every request reads some fields: the fields of a pydantic model take several
    times as long to read.
    """

    name: str
    datatype: Datatype
    shape: tuple[Dimension, ...]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    labels: tuple[str, ...] | None = None
    enforced: bool = False
    nonempty: tuple[int, ...] = ()
    max_shape: tuple[Dimension, ...] | None = None
    picture: PictureSpec | None = None
    batch_axis: int | None = 0
    answer: LabelsSpec | NumberSpec | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return row_shape(self.shape, self.batch_axis)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the tensor."""
        return NUMPY_DTYPES[self.datatype]

    @property
    def element_bytes(self) -> int:
        """The bytes of a number in binary messages; not for texts."""
        return 2 if self.datatype == "BF16" else self.dtype.itemsize

    def to_text(self) -> str:
        """Return the datatype and shape, as `UINT8 [-1, 28, 28]`."""
        return f"{self.datatype} {list(self.shape)}"

    def rows_first(self, rows: int) -> "TensorSpec":
        """Return the specification of the tensor with its rows first.

        Args:
            rows: the size of the batch; -1 for any.
        """
        axis = self.batch_axis
        if axis == 0:
            return self
        largest = self.max_shape
        return replace(
            self,
            shape=(rows, *self.row_shape),
            nonempty=tuple(sorted(row_axis(place, axis) for place in self.nonempty)),
            max_shape=None if largest is None else (rows, *row_shape(largest, axis)),
            batch_axis=0,
        )

    def in_network(self, axis: int | None) -> "TensorSpec":
        """Return the specification of the network's tensor, of which this one has the rows first.

        Args:
            axis: the axis of the rows in the network; None if they share the tensor.
        """
        if axis == 0:
            return self
        places = {row_axis(place, axis): place for place in range(len(self.shape)) if place != axis}
        return replace(
            self,
            shape=shape_of_network(self.shape, axis),
            nonempty=tuple(sorted(places[place] for place in self.nonempty)),
            max_shape=None if self.max_shape is None else shape_of_network(self.max_shape, axis),
            batch_axis=axis,
        )

    def takes(self, shape: Sequence[object]) -> bool:
        """Return whether a tensor may have this shape. An axis of any size may be 0 by default."""
        if len(shape) != len(self.shape):
            return False
        for size, given_size in zip(self.shape, shape, strict=True):  # `all` takes twice as long
            # The type is compared, since 1.0 and true equal 1 in Python.
            if (
                type(given_size) is not int
                or not 0 <= given_size < 2**31
                or size not in (given_size, -1)
            ):
                return False
        if self.max_shape is not None and self.too_large(shape) is not None:
            return False
        return not self.nonempty or all(shape[axis] for axis in self.nonempty)

    def too_large(self, shape: Sequence[Any]) -> int | None:
        """Return the first axis of a shape that is larger than the maximum; None if none is.

        The shape has as many whole numbers as that of the tensor.
        """
        for axis, maximum in enumerate(self.max_shape or ()):
            if maximum != -1 and shape[axis] > maximum:
                return axis
        return None

    @property
    def is_probabilities(self) -> bool:
        """Whether the stated range is 0 to 1, that of probabilities."""
        return (self.minimum, self.maximum) == (0, 1)

    @property
    def range(self) -> str:
        """The stated range as text, as `0 to 49` or `from 0`; empty if none is stated."""
        if self.minimum is not None and self.maximum is not None:
            return f"{_number(self.minimum)} to {_number(self.maximum)}"
        if self.minimum is not None:
            return f"from {_number(self.minimum)}"
        return "" if self.maximum is None else f"up to {_number(self.maximum)}"

    def first_outside(self, values: NDArray[Any]) -> np.generic | None:
        """Return the first value outside the stated range, or NaN; None if all values are inside.

        A side without a stated bound is open.
        """
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        if not values.size or (values.min() >= low and values.max() <= high):
            return None
        outside: NDArray[np.generic] = values[~((values >= low) & (values <= high))]
        return outside[0] if outside.size else None

    def expects(self, values: NDArray[Any]) -> bool:
        """Return whether all values lie in the stated range; False if a bound is not stated."""
        if self.minimum is None or self.maximum is None:
            return False
        return bool(((values >= self.minimum) & (values <= self.maximum)).all())


def _number(value: float) -> str:
    """Return a bound as text, with all digits and without `.0`."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
