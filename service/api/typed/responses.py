"""The responses of the typed endpoints, and how they are made of a network's outputs.

A large response is made in another process, which imports this module.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from service.api.typed.rounding import seven_digits
from service.processes.jobs import LARGE_ELEMENTS, run_job, whole

Probabilities = Annotated[list[float], Field(description="of each class, in order; they sum to 1")]
Confidence = Annotated[float, Field(description="the probability of the prediction, 0 to 1")]


class DigitPrediction(TypedDict):
    """The prediction of one image."""

    digit: Annotated[int, Field(ge=0, le=9)]
    confidence: Confidence
    probabilities: Probabilities


class PicturePrediction(DigitPrediction):
    """The prediction of one picture, with the pixels that the network got."""

    pixels: Annotated[list[list[int]], Field(description="28 x 28, 0 to 255")]


class PointPrediction(TypedDict):
    """The prediction of one point."""

    label: str
    confidence: Confidence
    probabilities: Probabilities


class Digits(TypedDict):
    """One prediction for each image, in order."""

    model: str
    version: str
    predictions: list[DigitPrediction]


class Pictures(TypedDict):
    """One prediction for each picture, in order."""

    model: str
    version: str
    predictions: list[PicturePrediction]


class Curve(TypedDict):
    """One value for each x, in order."""

    model: str
    version: str
    y: list[float]


class Points(TypedDict):
    """One prediction for each point, in order."""

    model: str
    version: str
    predictions: list[PointPrediction]


Floats = NDArray[np.float32]
Response = TypeVar("Response")


def digits(model: str, version: str, probabilities: Floats) -> Digits:
    """Return the response for probabilities [N, 10]."""
    return {"model": model, "version": version, "predictions": _digits(probabilities)}


def pictures(
    model: str, version: str, probabilities: Floats, pixels: NDArray[np.uint8]
) -> Pictures:
    """Return the response for probabilities [N, 10] of pictures [N, 28, 28]."""
    return {
        "model": model,
        "version": version,
        "predictions": [
            {**digit, "pixels": image.tolist()}
            for digit, image in zip(_digits(probabilities), pixels, strict=True)
        ],
    }


def points(model: str, version: str, probabilities: Floats, labels: Sequence[str]) -> Points:
    """Return the response for probabilities [N, classes]; a class without a label is its number."""
    return {
        "model": model,
        "version": version,
        "predictions": [
            {
                "label": labels[index] if labels else str(index),
                "confidence": max(row),
                "probabilities": row,
            }
            for index, row in _classes(probabilities)
        ],
    }


def curve(model: str, version: str, y: Floats) -> Curve:
    """Return the response for outputs [N, 1]."""
    return {"model": model, "version": version, "y": seven_digits(y[:, 0])}


async def written(
    caller: str, response: Callable[..., Response], *arguments: Any
) -> Response | bytearray:
    """Return a response; if it is large, its JSON, which another process writes.

    Args:
        caller: who sent the request.
        response: one of the functions above.
        arguments: of the function.
    """
    size = sum(argument.size for argument in arguments if isinstance(argument, np.ndarray))
    if size <= LARGE_ELEMENTS:
        return response(*arguments)
    return await run_job(caller, write_large, response, *arguments)


def write_large(response: Callable[..., Any], *arguments: Any) -> bytearray:
    """Return the JSON of a response, in another process."""
    return whole(orjson.dumps(response(*arguments)))


def _digits(probabilities: Floats) -> list[DigitPrediction]:
    return [
        {"digit": digit, "confidence": max(row), "probabilities": row}
        for digit, row in _classes(probabilities)
    ]


def _classes(probabilities: Floats) -> list[tuple[int, list[float]]]:
    """Return the most probable class of each row, and the probabilities of all classes."""
    # Seven decimals, not seven digits: a probability below 1e-7 is not significant.
    rounded = probabilities.astype(np.float64).round(7).tolist()
    return list(zip(probabilities.argmax(axis=1).tolist(), rounded, strict=True))
