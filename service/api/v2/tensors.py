"""Convert between one tensor of a message and one array, in JSON and in binary.

Some clients have neither whole numbers nor booleans: the reference client of the protocol's working
group writes every element as a float. Exact conversions are accepted, others are refused.

Each function allocates at most a small multiple of its input: a shape is compared with the data
received before an array is created.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from reprlib import repr as short_repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.tensor_spec import Datatype, TensorSpec
from models.package.card import ModelCard
from models.runtimes import bfloat16
from service.api.v2.texts import texts_from_list
from service.errors import BadInputError
from service.json_body import Body

# `array` converts a list in one pass in C, and refuses text, null and numbers out of range.
_TYPECODES: dict[Datatype, str] = {
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "f", "BF16": "f", "FP32": "f", "FP64": "d",
}  # fmt: skip

_EXACT = 2**53
"""A double represents every whole number up to this one."""


def check_shape(spec: TensorSpec, shape: Any) -> tuple[int, ...]:
    """Return the shape of a tensor of a message, if the model accepts it.

    Raises:
        BadInputError: the shape is malformed, or not accepted.
    """
    if not isinstance(shape, list) or not spec.takes(shape):
        if isinstance(shape, list) and replace(spec, max_shape=None).takes(shape):
            raise _too_large(spec, shape)
        sizes = "-1 is any size"
        if spec.nonempty:
            sizes += f", but axis {' and '.join(map(str, spec.nonempty))} must not be 0"
        raise BadInputError(
            f"Tensor {spec.name!r} has the shape {short_repr(shape)}; "
            f"the model takes {list(spec.shape)}, where {sizes}."
        )
    return tuple(shape)


def _too_large(spec: TensorSpec, shape: Sequence[int]) -> BadInputError:
    axis = spec.too_large(shape) or 0
    maximum = (spec.max_shape or ())[axis]
    return BadInputError(
        f"Tensor {spec.name!r} has the size {shape[axis]} in axis {axis}; the model takes at most "
        f"{maximum}: send less, or have the model added again with "
        f"--max-length {spec.name}.{axis}=N."
    )


def with_rows_first(card: ModelCard, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return inputs as the network has them with the rows first.

    Raises:
        BadInputError: they have different numbers of rows.
    """
    axes = card.axes
    rows = axes.count_rows(inputs)
    if rows is None:
        listed = ", ".join(
            f"{inputs[name].shape[axis]} in axis {axis} of {name!r}"
            for name, axis in axes.inputs.items()
            if axis is not None
        )
        raise BadInputError(f"The inputs have different numbers of rows: {listed}.")
    return axes.inputs_rows_first(inputs, rows)


def from_json(spec: TensorSpec, shape: tuple[int, ...], data: Any, *, booleans: bool) -> Any:
    """Convert JSON values, flat in row-major order or nested by `shape`, to an array.

    Whole numbers may be written as floats (`2.0`), and booleans as 0 and 1.

    Args:
        spec: of the tensor, with the datatype of the array.
        shape: of the array.
        data: the values of the message.
        booleans: whether the values may include `true` or `false`.

    Raises:
        BadInputError: there are too few or too many values, or the datatype cannot hold a value.
    """
    values = _flat(spec, shape, data)
    if spec.datatype == "BYTES":
        return texts_from_list(spec, shape, values)
    if spec.datatype == "BOOL":
        if not (set(map(type, values)) <= {bool, int, float} and set(values) <= {0, 1}):
            raise BadInputError(
                f"Tensor {spec.name!r} is BOOL: it must hold true and false, or 1 and 0."
            )
        return np.array(values, np.bool_).reshape(shape)
    # Python treats true as 1.
    if booleans and bool in set(map(type, values)):
        raise BadInputError(f"Tensor {spec.name!r} is {spec.datatype}, and holds true or false.")
    try:
        if spec.datatype == "UINT8":  # `array` takes eight times as long, `bytes` three times
            buffer: bytearray | array[Any] = bytearray(values)
        else:
            buffer = array(_TYPECODES[spec.datatype], values)
    except (TypeError, ValueError, OverflowError) as error:
        if spec.dtype.kind in "iu" and float in set(map(type, values)) <= {int, float}:
            return from_json(spec, shape, _whole(spec, values), booleans=False)
        raise BadInputError(
            f"Tensor {spec.name!r} holds a value that is no {spec.datatype}: {error}."
        ) from error
    result: NDArray[Any]
    if spec.datatype == "FP16":
        with np.errstate(over="ignore"):
            result = np.frombuffer(buffer, np.float32).astype(np.float16).reshape(shape)
    else:
        result = np.frombuffer(buffer, spec.dtype).reshape(shape)
        if spec.datatype == "BF16":
            result = bfloat16.rounded(result)
    if spec.datatype in ("FP16", "BF16", "FP32") and not np.isfinite(result).all():
        raise BadInputError(f"Tensor {spec.name!r} holds a number too large for {spec.datatype}.")
    return result


def from_bytes(spec: TensorSpec, shape: tuple[int, ...], body: Body, start: int) -> NDArray[Any]:
    """Return the little-endian, row-major tensor at offset `start`: a view if its alignment allows.

    Of numbers and truth values; `texts.texts_from_bytes` reads text.

    Raises:
        BadInputError: the body is too short, or a BOOL is neither 0 nor 1.
    """
    count = math.prod(shape)
    if start + count * spec.element_bytes > len(body):
        raise BadInputError(
            f"Tensor {spec.name!r} needs {count * spec.element_bytes:,} bytes, "
            f"and {max(len(body) - start, 0):,} are left of the body."
        )
    is_bfloat16 = spec.datatype == "BF16"
    dtype: np.dtype[Any] = np.dtype(np.uint16) if is_bfloat16 else spec.dtype
    # numpy refuses an empty buffer.
    array = np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)
    if is_bfloat16:
        return bfloat16.from_bits(array).reshape(shape)
    if spec.datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise BadInputError(f"Tensor {spec.name!r} is BOOL: its bytes must be 0 or 1.")
    # The header may have any length, and runtimes need aligned numbers.
    return np.require(array, requirements="A").reshape(shape)


def _flat(spec: TensorSpec, shape: tuple[int, ...], data: Any) -> list[Any]:
    """Return the values in row-major order; their number must match the shape."""
    if not isinstance(data, list):
        raise BadInputError(f"The data of tensor {spec.name!r} must be a list.")
    if data and isinstance(data[0], list):
        sizes = iter(shape)
        if len(data) != next(sizes, 0):
            raise _mismatch(spec, shape)
        for size in sizes:
            if any(type(row) is not list or len(row) != size for row in data):
                raise _mismatch(spec, shape)
            data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape):
        raise _mismatch(spec, shape)
    values: list[Any] = data
    return values


def _whole(spec: TensorSpec, values: list[int | float]) -> list[int]:
    """Return the values as whole numbers.

    Raises:
        BadInputError: a value is not whole, or so large that a float has lost its last digits.
    """
    for value in values:
        if isinstance(value, float) and not (value.is_integer() and abs(value) <= _EXACT):
            raise BadInputError(
                f"Tensor {spec.name!r} holds a value that is no {spec.datatype}: {value!r}"
                + (", a float of too many digits." if abs(value) > _EXACT else ".")
            )
    return list(map(int, values))


def _mismatch(spec: TensorSpec, shape: tuple[int, ...]) -> BadInputError:
    return BadInputError(
        f"The data of tensor {spec.name!r} does not have the shape {list(shape)}: "
        "send it flat, in row-major order, or nested as the shape says."
    )
