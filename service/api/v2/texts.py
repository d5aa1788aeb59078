"""Tensors of text in a message: BYTES in JSON and in binary ↔ arrays of `str`.

In JSON, an element is a string. In binary, it is its length, in four bytes, little-endian, and its
UTF-8. An element may be short, and its `str` takes fifty bytes of memory, so their number is
limited before they are read.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.split_rows import is_divided, parts_of
from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from service.errors import BadInputError
from service.json_body import MAX_STRINGS

LARGE_TEXT_BYTES = 2**15
"""Binary tensors of text of this size take two milliseconds to read if all texts are empty."""
CHARACTERS = 2**6
"""So many characters take no longer to write than one element."""
_LENGTH_BYTES = 4


def takes_text(card: ModelCard) -> bool:
    """Return whether an input of the model takes text."""
    return any(spec.datatype == "BYTES" for spec in card.inputs)


def check_count(spec: TensorSpec, shape: Sequence[int]) -> None:
    """Check the number of texts in a tensor of a request, before they are read.

    Raises:
        BadInputError: there are too many.
    """
    if (count := math.prod(shape)) > MAX_STRINGS:
        raise BadInputError(
            f"Tensor {spec.name!r} has {count:,} strings by its shape; a request may have "
            f"{MAX_STRINGS:,}: send fewer rows."
        )


def texts_from_list(spec: TensorSpec, shape: tuple[int, ...], values: list[Any]) -> NDArray[Any]:
    """Return JSON values as an array of texts.

    Args:
        spec: of the tensor.
        shape: of the array.
        values: as many as the shape says.

    Raises:
        BadInputError: a value is no string.
    """
    check_count(spec, shape)
    if not set(map(type, values)) <= {str}:
        found = next(type(value).__name__ for value in values if type(value) is not str)
        kind = {"int": "number", "float": "number", "bool": "boolean", "NoneType": "null"}
        raise BadInputError(
            f"Tensor {spec.name!r} is BYTES: its elements must be strings, and one is "
            f"{kind.get(found, found)}."
        )
    return _array(values, shape)


def texts_from_bytes(
    spec: TensorSpec, shape: tuple[int, ...], data: bytes | bytearray
) -> NDArray[Any]:
    """Return the texts in the bytes of a binary tensor.

    Args:
        spec: of the tensor.
        shape: of the array.
        data: the bytes of this tensor alone.

    Raises:
        BadInputError: the bytes hold fewer or more texts than the shape says, or a text is no
            UTF-8.
    """
    check_count(spec, shape)
    texts, start, count = [], 0, math.prod(shape)
    for number in range(1, count + 1):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(data[start:begin], "little")
        if begin > len(data) or start > len(data):
            raise BadInputError(
                f"The bytes of tensor {spec.name!r} end within string {number} of {count}: each is "
                "its length, in four bytes, little-endian, and its UTF-8."
            )
        try:
            texts.append(data[begin:start].decode())
        except UnicodeDecodeError as error:
            raise not_utf8(spec, number, error) from error
    if start != len(data):
        raise BadInputError(
            f"The bytes of tensor {spec.name!r} are {len(data):,}; the strings of its shape "
            f"{list(shape)} end after {start:,}."
        )
    return _array(texts, shape)


def not_utf8(spec: TensorSpec, number: int, error: UnicodeDecodeError) -> BadInputError:
    """Return the error for a text of a request, counted from 1, that is no UTF-8."""
    return BadInputError(
        f"String {number} of tensor {spec.name!r} is no UTF-8: {error.reason} at its byte "
        f"{error.start}. Send bytes of another kind as base64, if the model takes that."
    )


def to_bytes(texts: Sequence[str]) -> bytes:
    """Encode a BYTES tensor: each text as its length, in four bytes, and its UTF-8."""
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in encoded)


def elements(array: NDArray[Any]) -> int:
    """Return how many elements of numbers take as long to write as this array."""
    if array.dtype != object or is_divided(array):
        return sum(part.size for part in parts_of(array))
    return array.size + sum(map(len, array.ravel().tolist())) // CHARACTERS


def _array(texts: list[str], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(texts), object)
    array[:] = texts
    shaped: NDArray[Any] = array.reshape(shape)
    return shaped
