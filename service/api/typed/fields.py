"""The fields of the typed endpoints' JSON bodies, as pure functions: bytes in, arrays out.

For any bytes, `read_fields` returns arrays of the right shape and range, or raises `BadInputError`
with the sentence for the caller. A large body is read in another process.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInputError
from service.json_body import Body, check_structure, may_hold_booleans, parse_json


class InputField(NamedTuple):
    """One field of an endpoint.

    Attributes:
        convert: makes the endpoint's argument of the JSON value.
        quickly: does so faster, for a body without `true` and `false`; None if nothing is faster.
        required: whether a request must have the field.
        default: the JSON value of a field that is missing.
    """

    convert: Callable[[Any], Any]
    quickly: Callable[[Any], Any] | None = None
    required: bool = True
    default: Any = None


Fields = Mapping[str, InputField]
"""The fields of an endpoint, by name."""


def read_fields(body: Body, fields: Fields) -> dict[str, Any]:
    """Return the arguments of the endpoint in a JSON body.

    Raises:
        BadInputError: the body is no JSON object, or a field is unknown, missing or invalid.
    """
    return check_fields(parse_json(body), fields, quickly=not may_hold_booleans(body))


def read_large_fields(body: bytearray, fields: Fields) -> dict[str, Any]:
    """Read as `read_fields` does, in another process."""
    check_structure(body)
    return read_fields(body, fields)


def check_fields(
    content: Mapping[str, Any], fields: Fields, *, quickly: bool = False
) -> dict[str, Any]:
    """Return the converted values of `content`, after a check of the names.

    Args:
        content: the values as sent.
        fields: of the endpoint.
        quickly: whether no value is a boolean.

    Raises:
        BadInputError: a field is unknown, missing or invalid.
    """
    for name in content:
        if name not in fields:
            raise BadInputError(
                f"There is no field {name[:100]!r}; the fields are: {', '.join(fields)}."
            )
    converted = {}
    for name, field in fields.items():
        if field.required and name not in content:
            raise BadInputError(f"The field {name!r} is missing.")
        convert = field.quickly if quickly and field.quickly is not None else field.convert
        converted[name] = convert(content.get(name, field.default))
    return converted


def to_images(value: Any) -> NDArray[np.uint8]:
    """Convert N x 28 x 28 or N x 784 whole numbers, 0 to 255, to uint8 [N, 28, 28]."""
    array = _array("images", value, {int}, "whole numbers, from 0 to 255")
    if array.shape[1:] not in ((28, 28), (784,)):
        raise BadInputError(
            f"The field 'images' has the shape {list(array.shape)}; send [N, 28, 28] or [N, 784]."
        )
    if array.min() < 0 or array.max() > 255:
        raise BadInputError(
            f"The field 'images' holds numbers from {array.min():g} to {array.max():g}; "
            "pixels are from 0 to 255."
        )
    return array.astype(np.uint8).reshape(-1, 28, 28)


def to_images_quickly(value: Any) -> NDArray[np.uint8]:
    """Convert as `to_images`, if the body contains no `true` and no `false`, Python's 1 and 0."""
    # `to_images` reports what is wrong with an input.
    with suppress(TypeError, ValueError, LookupError):
        rows, width = value, 784
        if type(value[0][0]) is list and _are_lists(value, 28):
            rows, width = list(chain.from_iterable(value)), 28
        if _are_lists(rows, width):
            return np.frombuffer(b"".join(map(bytearray, rows)), np.uint8).reshape(-1, 28, 28)
    return to_images(value)


def _are_lists(values: list[Any], length: int) -> bool:
    return set(map(type, values)) == {list} and set(map(len, values)) == {length}


def to_column(value: Any) -> NDArray[np.float32]:
    """Convert N finite numbers to float32 [N, 1]."""
    array = _finite("x", value)
    if array.ndim != 1:
        raise BadInputError(f"The field 'x' has the shape {list(array.shape)}; send [N].")
    return array.reshape(-1, 1)


def to_points(value: Any) -> NDArray[np.float32]:
    """Convert N pairs of finite numbers to float32 [N, 2]."""
    array = _finite("points", value)
    if array.ndim != 2 or array.shape[1] != 2:
        raise BadInputError(f"The field 'points' has the shape {list(array.shape)}; send [N, 2].")
    return array


def to_files(value: list[Any]) -> list[Body]:
    """Return the content of each file of a form's file field."""
    if any(isinstance(file, str) for file in value):
        raise BadInputError("The field 'images' must hold files; text and addresses are not read.")
    return value


def to_name(value: Any) -> str:
    """Return the name of a model."""
    if not isinstance(value, str):
        raise BadInputError("The field 'model' must be the name of a model.")
    return value


def _array(field: str, value: Any, types: set[type], expected: str) -> NDArray[np.float64]:
    if not isinstance(value, list) or not value:
        raise BadInputError(f"The field {field!r} must be a list with at least one row.")
    # As objects: numpy would convert `true` to 1, and give every element the size of the longest
    # string among them.
    objects = np.array(value, dtype=object)
    present = set(map(type, objects.ravel()))
    if list in present:
        raise BadInputError(f"The rows of the field {field!r} must all have one shape.")
    if not present <= types:
        raise BadInputError(f"The field {field!r} must hold {expected}.")
    return objects.astype(np.float64)


def _finite(field: str, value: Any) -> NDArray[np.float32]:
    array = _array(field, value, {int, float}, "numbers")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise BadInputError(f"The field {field!r} holds a number too large for single precision.")
    return single
