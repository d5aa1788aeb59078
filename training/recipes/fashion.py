"""The recipe for garments: a residual network on Fashion-MNIST.

Result of `default` on the test split, on a shared x86-64 machine with one thread: 94.41 %, of one
seed. The card has all figures.
"""

import torch
from torch import Tensor, nn

from models.kinds.pictures import PictureSpec
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Evaluation
from training.augmentation import distortion
from training.datasets import Dataset
from training.hyperparameters import ResidualHyperparameters
from training.networks.feedforward import MirrorAveraged, Pixels, residual
from training.recipe import Recipe
from training.reports import plots
from training.served import Served, probabilities

GARMENT = TensorSpec(
    name="garment", datatype="UINT8", shape=(-1, 28, 28), minimum=0, maximum=255,
    meaning="grey pixels of one garment, bright on black, as large as the picture",
    picture=PictureSpec(layout="HW", channels="L"),
)  # fmt: skip
"""Not the input of the typed endpoints: these answer digits, and frame a picture as a digit."""


class _OnGarment(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, garment: Tensor) -> Tensor:
        output: Tensor = self.network(garment)
        return output.softmax(dim=1)


def _build(hyperparameters: ResidualHyperparameters, data: Dataset) -> nn.Module:
    network = nn.Sequential(
        Pixels(hyperparameters.pixel_mean, hyperparameters.pixel_std),
        *residual(hyperparameters.channels, data.outputs, hyperparameters.dropout),
    ).to(memory_format=torch.channels_last)
    return MirrorAveraged(network) if hyperparameters.mirror else network


def _served(network: nn.Module, data: Dataset) -> Served:
    return Served(_OnGarment(network).eval(), (GARMENT,), (probabilities(data),))


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    return {
        "confusion-matrix": plots.confusion(evaluation),
        "confident-mistakes": plots.confident_mistakes(network, data),
    }


fashion_cnn = Recipe(
    name="fashion-cnn",
    summary="A residual convolutional network that names a garment.",
    data="fashion",
    tutorial=ResidualHyperparameters(
        epochs=5, batch_size=64, optimizer="adam", lr=1e-3, keep="last", pixel_mean=0.5,
        pixel_std=0.5,
    ),
    default=ResidualHyperparameters(
        epochs=30,
        batch_size=256,
        optimizer="adamw",
        lr=5e-3,
        weight_decay=0.05,
        lr_scheduler="one-cycle",
        ema_decay=0.998,
        mixed_precision=True,
        pixel_mean=0.286,
        pixel_std=0.353,
        dropout=0.2,
        label_smoothing=0.05,
        translation=2,
        mirror=True,
        erase=8,
    ),
    build=_build,
    metric="accuracy",
    intended_use=(
        "Name one garment of ten kinds in Fashion-MNIST's framing: grey, bright on black, upright, "
        "as large as the 28x28 pixels."
    ),
    limits=(
        "It names one of ten kinds for every picture, even for a picture that shows no garment.",
        "The background must be black: invert a photograph of a dark garment on a white background "
        "before it is sent.",
        "A picture is resized to 28x28 pixels: cut it square around the garment first.",
        "Its pictures are of one shop's catalogue, without a person: the accuracy is lower for "
        "other photographs.",
        "Shirts, t-shirts, pullovers and coats are often mistaken for each other.",
    ),
    input_kind="images",
    augment=distortion,
    served=_served,
    pictures=_pictures,
)  # fmt: skip
