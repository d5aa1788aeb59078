"""What the typed endpoints give."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

Probabilities = Annotated[list[float], Field(description="of each class, in order; they sum to 1")]
Confidence = Annotated[float, Field(description="the probability of the answer, 0 to 1")]


class DigitPrediction(TypedDict):
    """What one image shows."""

    digit: Annotated[int, Field(ge=0, le=9)]
    confidence: Confidence
    probabilities: Probabilities


class PicturePrediction(DigitPrediction):
    """What one picture shows, and the pixels that the network saw."""

    pixels: Annotated[list[list[int]], Field(description="28 x 28, 0 to 255")]


class PointPrediction(TypedDict):
    """The class of one point."""

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
