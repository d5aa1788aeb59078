"""The hyperparameters: typed fields, each with its range and meaning.

The options of the command line are generated from these fields. A card records all of them.
`Between` or `Times` in the type of a field is the range in which `tune` searches it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.networks.feedforward import Activation

Share = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=100_000)]


@dataclass(frozen=True)
class Between:
    """The range of a search, from `low` to `high`; evenly distributed, or the logarithm is."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Times:
    """The range of a search, as multiples of the preset's value.

    The logarithm of a float is evenly distributed. Whole numbers are the value times powers of two.
    """

    low: float
    high: float


class HyperparameterError(ValueError):
    """An unknown hyperparameter, a value out of range, or a file without hyperparameters."""


class Hyperparameters(BaseModel):
    """Hyperparameters of every recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=1, description="passes over the training split")
    batch_size: Annotated[Size, Times(1 / 4, 4)] = Field(description="rows in one step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(description="update rule of a step")
    lr: Annotated[float, Times(1 / 10, 10)] = Field(
        gt=0, description="learning rate; with a scheduler, its peak"
    )
    weight_decay: Annotated[float, Between(1e-5, 0.3, log=True)] = Field(
        0.0, ge=0, description="decay of weights, not of biases"
    )
    lr_scheduler: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant", description="learning rate over the steps"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a gradient")
    ema_decay: Share = Field(
        0.0,
        description="decay of the exponential moving average of the weights; 0: none; smaller in a "
        "short run",
    )
    keep: Literal["best", "last"] = Field(
        "best", description="epoch to keep: that of the best validation score, or the last"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation score before training stops"
    )
    mixed_precision: bool = Field(False, description="bfloat16 where it is precise enough")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of weights, order and distortions")

    def override(self, values: Mapping[str, Any]) -> Self:
        """Return a copy with some values changed.

        Raises:
            HyperparameterError: a name is unknown, or a value is out of range.
        """
        try:
            return type(self).model_validate(self.model_dump() | dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            option = "--" + str(first["loc"][0]).replace("_", "-")
            if first["type"] == "extra_forbidden":
                known = ", ".join("--" + name.replace("_", "-") for name in type(self).model_fields)
                raise HyperparameterError(
                    f"{option} does not belong to this recipe, which has {known}"
                ) from error
            reason = "too few values" if first["type"] == "missing" else first["msg"].lower()
            message = f"{option} {first['input']!r}: {reason}"
            raise HyperparameterError(message) from error


def read_hyperparameters(path: Path) -> dict[str, Any]:
    """Return the hyperparameters of a JSON file, as `tune` writes it: an object with their values.

    Raises:
        HyperparameterError: the file cannot be read, or has something else.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise HyperparameterError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise HyperparameterError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise HyperparameterError(f'{path} must have an object, as {{"lr": 0.01}}')
    return values


class ColumnHyperparameters(Hyperparameters):
    """Hyperparameters of an MLP on one or two columns: curves and points."""

    hidden: Annotated[tuple[Size, ...], Times(1 / 4, 2)] = Field(
        (), description="units of each hidden layer"
    )
    activation: Activation = Field("none", description="activation after each hidden layer")
    rescale: bool = Field(False, description="rescale inputs and outputs to -1 to 1")
    nguyen_widrow: bool = Field(
        False, description="Nguyen-Widrow initialisation of the first layer"
    )


class ImageHyperparameters(Hyperparameters):
    """Hyperparameters of networks on 28x28 images: normalisation, dropout and distortions."""

    pixel_mean: float = Field(0.1307, description="subtracted from pixels in 0 to 1")
    pixel_std: float = Field(0.3081, gt=0, description="divisor of pixels, after the subtraction")
    dropout: Annotated[Share, Between(0, 0.6)] = Field(
        0.0, description="share of activations dropped in a step"
    )
    label_smoothing: Annotated[Share, Between(0, 0.2)] = Field(
        0.0, description="probability spread over all classes"
    )
    rotation: Annotated[float, Between(0, 30)] = Field(
        0.0, ge=0, le=180, description="largest rotation, degrees"
    )
    scaling: Annotated[Share, Between(0, 0.3)] = Field(
        0.0, description="largest change of width and of height"
    )
    shear: Annotated[Share, Between(0, 0.3)] = Field(0.0, description="largest shear")
    translation: Annotated[float, Between(0, 4)] = Field(
        0.0, ge=0, le=28, description="largest shift, pixels; whole ones if nothing else resamples"
    )
    elastic: Annotated[float, Between(0, 60)] = Field(
        0.0, ge=0, le=200, description="strength of elastic distortion, pixels"
    )
    mirror: bool = Field(False, description="mirror half of the images, left to right")
    erase: int = Field(0, ge=0, le=28, description="side of a square that is blackened, pixels")


class LstmHyperparameters(Hyperparameters):
    """Hyperparameters of a recurrent network on letters."""

    embedding: Size = Field(32, description="numbers for each letter")
    units: Size = Field(128, description="units of the LSTM")
    dropout: Share = Field(0.0, description="share of activations dropped in a step")
    unreadable: Share = Field(0.0, description="share of letters made unreadable in a step")


class ResidualHyperparameters(ImageHyperparameters):
    """Hyperparameters of a residual network on images."""

    channels: tuple[Size, Size, Size] = Field(
        (32, 64, 128), description="channels of each resolution; three numbers"
    )


class MlpHyperparameters(ImageHyperparameters):
    """Hyperparameters of an MLP on images."""

    hidden: Annotated[tuple[Size, ...], Times(1 / 4, 2)] = Field(
        (512, 256), description="units of each hidden layer"
    )


class CnnHyperparameters(ImageHyperparameters):
    """Hyperparameters of a convolutional network on images."""

    channels: Annotated[tuple[Annotated[Size, Field(ge=2)], Size, Size], Times(1 / 2, 2)] = Field(
        (32, 64, 128), description="channels of each resolution; three numbers"
    )


class TableHyperparameters(Hyperparameters):
    """Hyperparameters of an MLP on the columns of a table."""

    hidden: Annotated[tuple[Size, ...], Times(1 / 4, 2)] = Field(
        (256, 128), description="units of each hidden layer"
    )
    dropout: Annotated[Share, Between(0, 0.6)] = Field(
        0.1, description="share of activations dropped in a step"
    )
    bins: Annotated[Size, Between(1, 32)] = Field(
        16, description="bins of each number, with equal numbers of rows"
    )
    unknown: Share = Field(0.01, description="share of categories taken as unknown in training")


class TransformerHyperparameters(Hyperparameters):
    """Hyperparameters of a decoder-only Transformer."""

    width: Size = Field(64, description="numbers for each place of a sequence")
    layers: Size = Field(2, description="layers of attention and MLP")
    heads: Size = Field(4, description="attention heads of a layer; a divisor of the width")
