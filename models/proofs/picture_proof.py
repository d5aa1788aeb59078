"""The check that declared steps make the same of a picture as the training library does."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.errors import AddError
from models.kinds.tensor_spec import TensorSpec
from models.sources.source import Pictures

TOLERANCE = 1e-5
"""The largest difference of a number in the network's input, after mean and deviation."""


def with_picture(
    file: str, inputs: Sequence[TensorSpec], pictures: Pictures
) -> tuple[TensorSpec, ...]:
    """Return the inputs, of which one takes pictures as declared.

    Raises:
        AddError: the input is missing or has another shape, or the training library makes something
            else of a picture.
    """
    declared = pictures.declared
    if declared.input not in {spec.name for spec in inputs}:
        raise AddError(f"{file}: it has no input {declared.input}, which takes the pictures")
    (spec,) = (spec for spec in inputs if spec.name == declared.input)
    try:
        declared.picture.sides(spec.shape[1:])
    except ValueError as error:
        raise AddError(f"{file}: {error}: give the size that the network takes") from error
    if pictures.transformed is not None:
        _prove(spec, pictures)
    changed = replace(
        spec, picture=declared.picture, minimum=0, maximum=declared.picture.largest,
        meaning=f"pixels of a picture, 0 to {declared.picture.largest}",
    )  # fmt: skip
    return tuple(changed if one is spec else one for one in inputs)


def _prove(spec: TensorSpec, pictures: Pictures) -> None:
    from PIL import Image

    declared, wanted = pictures.declared, pictures.transformed
    rows = [
        declared.picture.pixels(Image.open(io.BytesIO(picture)), spec.shape[1:])
        for picture in pictures.files
    ]
    shape = (1, -1, 1, 1)  # an export declares channels first
    mean, std = (
        np.array(values, np.float32).reshape(shape) for values in (declared.mean, declared.std)
    )
    made = (np.float32(np.stack(rows)) / declared.picture.largest - mean) / std
    if wanted is None or made.shape != wanted.shape:
        shapes = f"{list(made.shape[1:])} and {None if wanted is None else list(wanted.shape[1:])}"
        raise AddError(
            f"the declared steps and the transform make rows of {shapes}: declare the size that "
            "the transform gives"
        )
    difference = np.abs(made - wanted).reshape(len(made), -1).max(axis=1)
    if difference.max() > TOLERANCE:
        worst = int(difference.argmax())
        raise AddError(
            f"picture {worst + 1} of the sample becomes another input by the declared steps than "
            f"by the transform (by {difference[worst]:.3g}; mean and deviation included): declare "
            "the resizing, interpolation, mean and deviation of the transform, which must take "
            "pictures of Pillow"
        )
