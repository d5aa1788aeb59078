"""The interface of a recipe: a network with its data, its hyperparameters and its intended use.

A recipe has up to two presets. `tutorial` has the hyperparameters of the tutorial that the network
is taken from, for comparison. `default` has the hyperparameters of the shipped package.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from models.package.card import Evaluation
from training.augmentation import Augmentation
from training.datasets import Dataset, InputKind, load
from training.hyperparameters import Hyperparameters
from training.optimization import Loss
from training.served import Served, served_network

Preset = Literal["default", "tutorial"]


class RecipeError(ValueError):
    """An unknown recipe or preset, no recipe, or a recipe that does not accept the data."""


def no_pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    """Return no pictures beside those that every network has."""
    return {}


@dataclass(frozen=True)
class Recipe:
    """A network with its data, its hyperparameters and its intended use.

    Attributes:
        name: the name of the recipe and of its package.
        summary: one line for the card.
        data: the name of a data set of `training.datasets`, or a function that takes the folder
            of the data and returns a data set.
        build: returns the network for hyperparameters and data. The network takes the inputs of
            the data set, begins with the preprocessing, and returns logits or values.
        default: the hyperparameters of the `default` preset.
        tutorial: the hyperparameters of the `tutorial` preset, if there is one.
        metric: the metric for the comparison of seeds and presets. By default the accuracy of a
            classification, and the mean squared error of a regression.
        seeds: the number of seeds.
        intended_use: the intended use, for the card.
        limits: the limitations, for the card.
        input_kind: the kind of inputs that the network takes.
        loss: returns the loss of training for hyperparameters. By default it is cross-entropy for
            a classification, and the squared error for a regression. The validation loss is always
            these.
        augment: returns the distortion of the training inputs for hyperparameters and device.
        served: returns the module that the package holds, with its tensors.
        pictures: returns pictures for the report, as PNG, by name.
    """

    name: str
    summary: str
    data: str | Callable[[Path], Dataset]
    build: Callable[[Any, Dataset], nn.Module]
    default: Hyperparameters
    tutorial: Hyperparameters | None = None
    metric: Literal["accuracy", "mse", "mae"] | None = None
    seeds: int = 1
    intended_use: str = ""
    limits: tuple[str, ...] = ()
    input_kind: InputKind = "columns"
    loss: Callable[[Any], Loss] | None = None
    augment: Callable[[Any, torch.device], Augmentation | None] | None = None
    served: Callable[[nn.Module, Dataset], Served] = served_network
    pictures: Callable[[nn.Module, Dataset, Evaluation], dict[str, bytes]] = no_pictures

    def hyperparameters(self, preset: Preset) -> Hyperparameters:
        """Return the hyperparameters of a preset.

        Raises:
            RecipeError: the recipe has no such preset.
        """
        if preset == "default":
            return self.default
        if self.tutorial is None:
            raise RecipeError(f"the recipe {self.name} has no preset for a tutorial: omit --as")
        return self.tutorial

    def metric_on(self, data: Dataset) -> str:
        """Return the name of the metric, on a data set."""
        return self.metric or ("accuracy" if data.task == "classification" else "mse")

    def load(self, data_dir: Path) -> Dataset:
        """Load the data set.

        Raises:
            DataError: the data set is missing and cannot be downloaded.
        """
        return load(self.data, data_dir) if isinstance(self.data, str) else self.data(data_dir)

    def accepts(self, data: Dataset) -> bool:
        """Return whether the network can be trained on another data set than its own.

        A network for images takes every data set of images, any other network only its own data.
        """
        if self.input_kind == "images":
            return data.input_kind == "images"
        return data.name == self.data
