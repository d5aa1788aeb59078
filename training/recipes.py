"""The recipes: a name → network, data, hyperparameters, and what the card says of its use.

Each has two settings. `tutorial` keeps the hyperparameters of the tutorial that the network comes
from, so that the results can be compared; `default` is what the shipped package is fitted with.

What `default` reaches on the test split, mean and standard deviation over the seeds (each card has
every figure), on a shared x86-64 machine with one thread:

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

from training.datasets import Dataset, DatasetName
from training.hyperparameters import (
    CnnHyperparameters,
    ColumnHyperparameters,
    Hyperparameters,
    MlpHyperparameters,
)
from training.networks import Affine, Pixels, convolutional, perceptron, spread_units

Setting = Literal["default", "tutorial"]


@dataclass(frozen=True)
class Recipe:
    """One network to fit.

    `build` makes the network from the hyperparameters and the data: raw inputs in, logits or
    values out, with the preprocessing as its first layers. `metric` names the figure by which
    seeds and settings are compared, and `seeds` says over how many.
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

    def settings(self, setting: Setting) -> Hyperparameters:
        """The hyperparameters of one of the two settings."""
        return self.tutorial if setting == "tutorial" else self.default


def _digit_mlp(settings: MlpHyperparameters, data: Dataset) -> nn.Module:
    return nn.Sequential(
        Pixels(settings.pixel_mean, settings.pixel_std),
        nn.Flatten(),
        *perceptron(784, settings.hidden, len(data.labels), "relu", settings.dropout),
    )


def _digit_cnn(settings: CnnHyperparameters, data: Dataset) -> nn.Module:
    return nn.Sequential(
        Pixels(settings.pixel_mean, settings.pixel_std),
        *convolutional(settings.channels, settings.dropout),
    ).to(memory_format=torch.channels_last)


def _columns(settings: ColumnHyperparameters, data: Dataset) -> nn.Module:
    inputs, targets = data.train.inputs, data.train.targets
    outputs = len(data.labels) or targets.shape[1]
    network = perceptron(inputs.shape[1], settings.hidden, outputs, settings.activation)
    first = network[0]
    if settings.spread and isinstance(first, nn.Linear):
        spread_units(first)
    if not settings.rescale:
        return network
    layers = [_to_unit_range(inputs), *network]
    if not data.labels:
        there = _to_unit_range(targets)
        layers.append(Affine(-there.shift / there.scale, 1 / there.scale))  # and back again
    return nn.Sequential(*layers)


def _to_unit_range(values: Tensor) -> Affine:
    low, high = values.amin(dim=0), values.amax(dim=0)
    return Affine((low + high) / 2, (high - low) / 2)


_DIGIT_USE = (
    "Classify one handwritten digit in MNIST's framing: white ink on black, the digit scaled to a "
    "20-pixel box and centred by mass in 28x28 pixels."
)
_DIGIT_LIMITS = (
    "It always answers with a digit, also for a picture that shows none.",
    "MNIST's writers were American: other hands and other framings fare worse, as the figures "
    "on scikit-learn's digits show.",
)
_CURVE_USE = "Learn, and show, what a network of this kind can fit: y = x + 2 sin x on [0, 20]."
_CURVE_LIMITS = ("Outside [0, 20] it extrapolates, which means nothing.",)
_POINT_USE = "Learn, and show, how a network separates two interleaving half circles."
_POINT_LIMITS = ("Far from the moons it answers with great confidence that nothing bears out.",)

_CURVE_TUTORIAL = ColumnHyperparameters(
    epochs=20, batch_size=1, optimizer="sgd", lr=1e-3, keep="last"
)
_LINE = ColumnHyperparameters(
    epochs=200,
    batch_size=240,
    optimizer="adam",
    lr=0.1,
    schedule="cosine",
    keep="last",
    rescale=True,
)

_RECIPES = (
    Recipe(
        name="mnist-mlp",
        summary="A perceptron, 784-512-256-10 with ReLU, that reads handwritten digits.",
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
            schedule="one-cycle",
            averaging=0.9995,
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
            schedule="one-cycle",
            averaging=0.999,
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
        limits=("It is a line: it cannot follow the sine.", *_CURVE_LIMITS),
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
            "Without an activation two layers are one: it is still a line, and no better than "
            "`curve-linear`.",
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
            schedule="one-cycle",
            hidden=(10,),
            activation="tanh",
            rescale=True,
            spread=True,
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
            epochs=300, batch_size=160, optimizer="adam", lr=0.1, schedule="cosine",
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
            schedule="one-cycle",
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
