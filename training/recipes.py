"""The recipes: network, data, hyperparameters and intended use, by name.

A recipe has two presets. `tutorial` has the hyperparameters of the tutorial that the network is
taken from, for comparison. `default` has the hyperparameters of the shipped package.

Results of `default` on the test split, mean and standard deviation over the seeds, on a shared
x86-64 machine with one thread (each card has all figures):

    mnist-cnn     99.72 % ± 0.04 of 3 seeds, 14 to 19 minutes each
    mnist-mlp     99.42 % ± 0.06 of 3 seeds, 10 to 26 minutes each
    curve-linear  the least-squares line, for 5 of 5 seeds
    curve-mlp     the least-squares line, for 5 of 5 seeds
    curve-tanh    1.06 to 1.16 times the noise floor, 5 seeds
    moons-linear  the best straight line but for one point in 10,000, 5 seeds
    moons-tanh    100 % of 10,000 fresh points, 5 of 5 seeds
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.augmentation import Augmentation, distortion
from training.datasets import Dataset, DatasetName, InputKind
from training.hyperparameters import (
    CnnHyperparameters,
    ColumnHyperparameters,
    Hyperparameters,
    MlpHyperparameters,
)
from training.networks import Affine, Pixels, convolutional, mlp, nguyen_widrow_

Preset = Literal["default", "tutorial"]


@dataclass(frozen=True)
class Recipe:
    """A network with its data, its hyperparameters and its intended use.

    Attributes:
        name: the name of the recipe and of its package.
        summary: one line for the card.
        data: the data set.
        tutorial: the hyperparameters of the `tutorial` preset.
        default: the hyperparameters of the `default` preset.
        build: returns the network for hyperparameters and data. The network takes raw inputs,
            begins with the preprocessing, and returns logits or values.
        metric: the metric for the comparison of seeds and presets.
        seeds: the number of seeds.
        intended_use: the intended use, for the card.
        limits: the limitations, for the card.
        input_kind: the kind of inputs that the network takes.
        augment: returns the distortion of the training inputs for hyperparameters and device.
    """

    name: str
    summary: str
    data: DatasetName
    tutorial: Hyperparameters
    default: Hyperparameters
    build: Callable[[Any, Dataset], nn.Module]
    metric: Literal["accuracy", "mse"]
    seeds: int
    intended_use: str
    limits: tuple[str, ...]
    input_kind: InputKind = "columns"
    augment: Callable[[Any, torch.device], Augmentation | None] | None = None

    def hyperparameters(self, preset: Preset) -> Hyperparameters:
        """Return the hyperparameters of a preset."""
        return self.tutorial if preset == "tutorial" else self.default

    def accepts(self, data: Dataset) -> bool:
        """Return whether the network can be trained on `data`.

        A network for images takes every data set of images, any other network only its own data.
        """
        if self.input_kind == "images":
            return data.input_kind == "images"
        return data.name == self.data


def _digit_mlp(hyperparameters: MlpHyperparameters, data: Dataset) -> nn.Module:
    return nn.Sequential(
        Pixels(hyperparameters.pixel_mean, hyperparameters.pixel_std),
        nn.Flatten(),
        *mlp(784, hyperparameters.hidden, data.outputs, "relu", hyperparameters.dropout),
    )


def _digit_cnn(hyperparameters: CnnHyperparameters, data: Dataset) -> nn.Module:
    return nn.Sequential(
        Pixels(hyperparameters.pixel_mean, hyperparameters.pixel_std),
        *convolutional(hyperparameters.channels, hyperparameters.dropout),
    ).to(memory_format=torch.channels_last)


def _columns(hyperparameters: ColumnHyperparameters, data: Dataset) -> nn.Module:
    inputs, targets = data.train.inputs, data.train.targets
    network = mlp(inputs.shape[1], hyperparameters.hidden, data.outputs, hyperparameters.activation)
    first = network[0]
    if hyperparameters.nguyen_widrow and isinstance(first, nn.Linear):
        nguyen_widrow_(first)
    if not hyperparameters.rescale:
        return network
    layers = [_to_unit_range(inputs), *network]
    if data.task == "regression":
        to_unit = _to_unit_range(targets)
        inverse = Affine(-to_unit.shift / to_unit.scale, 1 / to_unit.scale)
        layers.append(inverse)
    return nn.Sequential(*layers)


def _to_unit_range(values: Tensor) -> Affine:
    low, high = values.amin(dim=0), values.amax(dim=0)
    return Affine((low + high) / 2, (high - low) / 2)


_DIGIT_USE = (
    "Classify one handwritten digit in MNIST's framing: white ink on black, the digit scaled to a "
    "20-pixel box and centred by mass in 28x28 pixels."
)
_DIGIT_LIMITS = (
    "It returns a digit for every image, even for an image that shows none.",
    "MNIST's writers were American: the accuracy is lower for other handwriting and framing, as "
    "the figures for scikit-learn's digits show.",
)
_CURVE_USE = "Learn, and show, what a network of this kind can fit: y = x + 2 sin x on [0, 20]."
_CURVE_LIMITS = ("Outside [0, 20] its outputs are extrapolated and have no meaning.",)
_POINT_USE = "Learn, and show, how a network separates two interleaving half circles."
_POINT_LIMITS = ("Far from the moons its confidence is high, without a basis in the data.",)

_CURVE_TUTORIAL = ColumnHyperparameters(
    epochs=20, batch_size=1, optimizer="sgd", lr=1e-3, keep="last"
)
_LINE = ColumnHyperparameters(
    epochs=200,
    batch_size=240,
    optimizer="adam",
    lr=0.1,
    lr_scheduler="cosine",
    keep="last",
    rescale=True,
)

_RECIPES = (
    Recipe(
        name="mnist-mlp",
        summary="An MLP, 784-512-256-10 with ReLU, that reads handwritten digits.",
        data="mnist",
        tutorial=MlpHyperparameters(
            epochs=5, batch_size=32, optimizer="adam", lr=1e-3, keep="last", pixel_mean=0.5,
            pixel_std=0.5,
        ),
        default=MlpHyperparameters(
            epochs=120,
            batch_size=256,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.05,
            lr_scheduler="one-cycle",
            ema_decay=0.9995,
            rotation=10,
            scaling=0.1,
            shear=0.1,
            translation=1.5,
            elastic=24,
        ),
        build=_digit_mlp,
        metric="accuracy",
        seeds=3,
        intended_use=_DIGIT_USE,
        limits=_DIGIT_LIMITS,
        input_kind="images",
        augment=distortion,
    ),
    Recipe(
        name="mnist-cnn",
        summary="A convolutional network with batch norm that reads handwritten digits.",
        data="mnist",
        tutorial=CnnHyperparameters(
            epochs=5, batch_size=32, optimizer="adam", lr=1e-3, keep="last", pixel_mean=0.5,
            pixel_std=0.5, dropout=0.4,
        ),
        default=CnnHyperparameters(
            epochs=24,
            batch_size=256,
            optimizer="adamw",
            lr=5e-3,
            weight_decay=0.03,
            lr_scheduler="one-cycle",
            ema_decay=0.999,
            mixed_precision=True,
            dropout=0.4,
            rotation=10,
            scaling=0.1,
            shear=0.1,
            translation=2,
            elastic=20,
        ),
        build=_digit_cnn,
        metric="accuracy",
        seeds=3,
        intended_use=_DIGIT_USE,
        limits=_DIGIT_LIMITS,
        input_kind="images",
        augment=distortion,
    ),
    Recipe(
        name="curve-linear",
        summary="One linear unit: the least-squares line through a curve.",
        data="curve",
        tutorial=_CURVE_TUTORIAL,
        default=_LINE,
        build=_columns,
        metric="mse",
        seeds=5,
        intended_use=_CURVE_USE,
        limits=("A line cannot follow the sine.", *_CURVE_LIMITS),
    ),
    Recipe(
        name="curve-mlp",
        summary="1-10-1 without an activation: two layers, and still a line.",
        data="curve",
        tutorial=_CURVE_TUTORIAL.model_copy(update={"hidden": (10,)}),
        default=_LINE.model_copy(update={"hidden": (10,)}),
        build=_columns,
        metric="mse",
        seeds=5,
        intended_use=_CURVE_USE,
        limits=(
            "Without an activation two layers are equivalent to one: the network is still a line, "
            "no better than `curve-linear`.",
            *_CURVE_LIMITS,
        ),
    ),
    Recipe(
        name="curve-tanh",
        summary="1-10-1 with tanh: it follows the curve.",
        data="curve",
        tutorial=_CURVE_TUTORIAL.model_copy(
            update={"epochs": 200, "hidden": (10,), "activation": "tanh"}
        ),
        default=ColumnHyperparameters(
            epochs=1_500,
            keep="last",
            batch_size=60,
            optimizer="adam",
            lr=0.02,
            lr_scheduler="one-cycle",
            hidden=(10,),
            activation="tanh",
            rescale=True,
            nguyen_widrow=True,
        ),
        build=_columns,
        metric="mse",
        seeds=5,
        intended_use=_CURVE_USE,
        limits=_CURVE_LIMITS,
    ),
    Recipe(
        name="moons-linear",
        summary="One linear layer: the best straight line between two moons.",
        data="moons",
        tutorial=ColumnHyperparameters(
            epochs=50, batch_size=1, optimizer="sgd", lr=1e-3, keep="last"
        ),
        default=ColumnHyperparameters(
            epochs=300, batch_size=160, optimizer="adam", lr=0.1, lr_scheduler="cosine",
            keep="last", rescale=True,
        ),
        build=_columns,
        metric="accuracy",
        seeds=5,
        intended_use=_POINT_USE,
        limits=("No straight line separates the moons.", *_POINT_LIMITS),
    ),
    Recipe(
        name="moons-tanh",
        summary="2-30-30-2 with tanh: it separates the moons.",
        data="moons",
        tutorial=ColumnHyperparameters(
            epochs=300, batch_size=1, optimizer="sgd", lr=1e-3, keep="last",
            hidden=(30, 30), activation="tanh",
        ),
        default=ColumnHyperparameters(
            epochs=300,
            batch_size=16,
            optimizer="adamw",
            lr=0.01,
            weight_decay=0.01,
            lr_scheduler="one-cycle",
            hidden=(30, 30),
            activation="tanh",
            rescale=True,
        ),
        build=_columns,
        metric="accuracy",
        seeds=5,
        intended_use=_POINT_USE,
        limits=_POINT_LIMITS,
    ),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
