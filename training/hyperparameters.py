"""The hyperparameters: typed fields, each with its range and meaning.

The options of the command line are generated from these fields. A card records all of them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.networks import Activation

Share = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=100_000)]


class HyperparameterError(ValueError):
    """An unknown hyperparameter, or a value out of range."""


class Hyperparameters(BaseModel):
    """Hyperparameters of every recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=1, description="passes over the training split")
    batch_size: Size = Field(description="rows in one step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(description="update rule of a step")
    lr: float = Field(gt=0, description="learning rate; with a scheduler, its peak")
    weight_decay: float = Field(0.0, ge=0, description="decay of weights, not of biases")
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


class ColumnHyperparameters(Hyperparameters):
    """Hyperparameters of an MLP on one or two columns: curves and points."""

    hidden: tuple[Size, ...] = Field((), description="units of each hidden layer")
    activation: Activation = Field("none", description="activation after each hidden layer")
    rescale: bool = Field(False, description="rescale inputs and outputs to -1 to 1")
    nguyen_widrow: bool = Field(
        False, description="Nguyen-Widrow initialisation of the first layer"
    )


class ImageHyperparameters(Hyperparameters):
    """Hyperparameters of networks on 28x28 images: normalisation, dropout and distortions."""

    pixel_mean: float = Field(0.1307, description="subtracted from pixels in 0 to 1")
    pixel_std: float = Field(0.3081, gt=0, description="divisor of pixels, after the subtraction")
    dropout: Share = Field(0.0, description="share of activations dropped in a step")
    label_smoothing: Share = Field(0.0, description="probability spread over all classes")
    rotation: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees")
    scaling: Share = Field(0.0, description="largest change of width and of height")
    shear: Share = Field(0.0, description="largest shear")
    translation: float = Field(
        0.0, ge=0, le=28, description="largest shift, pixels; whole ones if nothing else resamples"
    )
    elastic: float = Field(0.0, ge=0, le=200, description="strength of elastic distortion, pixels")
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

    hidden: tuple[Size, ...] = Field((512, 256), description="units of each hidden layer")


class CnnHyperparameters(ImageHyperparameters):
    """Hyperparameters of a convolutional network on images."""

    channels: tuple[Annotated[Size, Field(ge=2)], Size, Size] = Field(
        (32, 64, 128), description="channels of each resolution; three numbers"
    )
