"""Pictures in rows: base64 in JSON, or the files of a form. They are decoded in another process."""

import asyncio
import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.tensor_spec import TensorSpec
from models.package.card import ModelCard
from service.api.pictures import decoded
from service.api.typed.forms import read_form
from service.batching.batch import Arrays
from service.errors import BadInputError
from service.http.charsets import require_charset
from service.json_body import Body

FORM = "multipart/form-data"
_KEY = "b64"
"""The key of a picture in JSON, as TensorFlow Serving writes binary values."""
EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAGElEQVR42mNkYGgIZWCAIBaGUAY4wM0BAF7bAoz4Z6bt"
    "AAAAAElFTkSuQmCC"
)
"""A small picture in base64: a PNG of 4 x 4 colours."""


def takes_pictures(card: ModelCard) -> bool:
    """Return whether an input of the model takes pictures."""
    return any(spec.picture for spec in card.inputs)


def is_picture_model(card: ModelCard) -> bool:
    """Return whether a picture alone is a row of the model."""
    return len(card.inputs) == 1 and card.inputs[0].picture is not None


def is_pictures(spec: TensorSpec, values: list[Any]) -> bool:
    """Return whether the values of an input are pictures, by the first of them."""
    return bool(spec.picture and values and isinstance(values[0], (str, dict)))


def picture_rows(spec: TensorSpec, values: list[Any], max_pixels: int) -> NDArray[Any]:
    """Return the rows of an input from its pictures in base64, as a text or as `{"b64": text}`.

    Raises:
        ServiceError: a value is no picture.
    """
    return np.stack([_row(spec, _bytes(value), max_pixels) for value in values])


def form_inputs(card: ModelCard, body: Body, header: bytes, max_pixels: int) -> Arrays:
    """Return the inputs in the files of a form, whose fields may have any name.

    Raises:
        ServiceError: the model takes no pictures alone, or a file is none.
    """
    spec = card.rows_first.inputs[0]
    if not is_picture_model(card):
        raise BadInputError(
            f"Model {card.name!r} does not take pictures alone: send its rows as JSON."
        )
    spec = card.inputs[0]
    require_charset(header)
    fields = asyncio.run(read_form(body, header))
    files = [value for _, value in fields if isinstance(value, bytes)]
    if not files:
        raise BadInputError("The form has no file; send each picture as a file.")
    return {spec.name: np.stack([_row(spec, file, max_pixels) for file in files])}


def _row(spec: TensorSpec, file: bytes, max_pixels: int) -> NDArray[Any]:
    if spec.picture is None:
        raise BadInputError(f"The input {spec.name!r} takes numbers, and no pictures.")
    pixels = spec.picture.pixels(decoded(file, max_pixels), spec.shape[1:])
    return pixels.astype(spec.dtype, copy=False)


def _bytes(value: Any) -> bytes:
    text = value.get(_KEY) if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise BadInputError('A picture must be a text in base64, or {"b64": "…"}.')
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError(f"A picture is no base64: {error}.") from error
