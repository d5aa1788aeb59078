"""Every hyperparameter, typed, with its range and meaning.

The command line makes its options from these fields, and a card records all of them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.networks import Activation

Share = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=100_000)]


class HyperparameterError(ValueError):
    """A hyperparameter that the recipe does not have, or a value that it does not take."""


class Hyperparameters(BaseModel):
    """What every recipe has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=1, description="passes over the training split")
    batch_size: Size = Field(description="rows in one step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(description="how a step is made")
    lr: float = Field(gt=0, description="learning rate; with a schedule, its peak")
    weight_decay: float = Field(0.0, ge=0, description="decay of weights, not of biases")
    schedule: Literal["constant", "cosine", "one-cycle"] = Field(
        "constant", description="learning rate over the steps"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a gradient")
    averaging: Share = Field(
        0.0,
        description="decay of the moving average of the weights that is kept; 0: none; a short fit "
        "takes a faster one",
    )
    keep: Literal["best", "last"] = Field(
        "best", description="weights of which epoch: of the best validation score, or the last"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation score"
    )
    mixed_precision: bool = Field(False, description="bfloat16 where it is precise enough")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of weights, order and distortions")

    def override(self, values: Mapping[str, Any]) -> Self:
        """These hyperparameters with some values changed.

        Raises:
            HyperparameterError: a name that this recipe lacks, or a value out of range.
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
    """Perceptrons on one or two numbers: curves and points."""

    hidden: tuple[Size, ...] = Field((), description="units of each hidden layer")
    activation: Activation = Field("none", description="after each hidden layer")
    rescale: bool = Field(False, description="bring inputs and outputs to -1 to 1")
    spread: bool = Field(False, description="spread the first layer's units over the inputs")


class ImageHyperparameters(Hyperparameters):
    """Networks on 28x28 images: normalisation, dropout, and random distortions."""

    pixel_mean: float = Field(0.1307, description="subtracted from pixels in 0 to 1")
    pixel_std: float = Field(0.3081, gt=0, description="pixels are divided by this")
    dropout: Share = Field(0.0, description="share of activations that a step drops")
    label_smoothing: Share = Field(0.0, description="probability spread over all classes")
    rotation: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees")
    scaling: Share = Field(0.0, description="largest change of width and of height")
    shear: Share = Field(0.0, description="largest shear")
    translation: float = Field(0.0, ge=0, le=28, description="largest shift, pixels")
    elastic: float = Field(0.0, ge=0, le=200, description="strength of elastic distortion, pixels")


class MlpHyperparameters(ImageHyperparameters):
    """A perceptron on images."""

    hidden: tuple[Size, ...] = Field((512, 256), description="units of each hidden layer")


class CnnHyperparameters(ImageHyperparameters):
    """A convolutional network on images."""

    channels: tuple[Annotated[Size, Field(ge=2)], Size, Size] = Field(
        (32, 64, 128), description="of each resolution; three numbers"
    )
