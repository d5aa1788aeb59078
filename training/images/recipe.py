"""The recipe for pictures in folders: a small convolutional network, or one of timm by its name."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from models.kinds.tensor_spec import TensorSpec
from models.package.card import Evaluation
from training.augmentation import Augmentation
from training.datasets import Dataset
from training.hyperparameters import HyperparameterError, Hyperparameters, Share, Size
from training.images.folder import PICTURE
from training.optimization import Loss
from training.recipe import Recipe
from training.reports import plots
from training.served import Served, probabilities

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, in 0 to 1: what pretrained networks expect."""
MAX_CLASSES_SHOWN = 30
"""In the picture of the confusion matrix."""


class PictureHyperparameters(Hyperparameters):
    """Hyperparameters of networks for pictures."""

    network: str = Field("small", description="small, or the name of a network of timm")
    pretrained: bool = Field(False, description="begin with timm's weights, which it downloads")
    channels: tuple[Size, ...] = Field(
        (32, 64, 128), description="channels of each resolution of the small network"
    )
    dropout: Share = Field(0.0, description="share of activations dropped before the last layer")
    label_smoothing: Share = Field(0.0, description="probability spread over all classes")
    mirror: bool = Field(True, description="mirror half of the pictures, left to right")
    shift: Share = Field(0.1, description="largest shift, as a share of the side")


class Normalized(nn.Module):
    """Pixels uint8 [N, 3, height, width] → float32 with ImageNet's mean and deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch."""
        return (image.float() / 255.0 - self.mean) / self.std


class _OnPicture(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image)
        return output.softmax(dim=1)


def build(hyperparameters: PictureHyperparameters, data: Dataset) -> nn.Module:
    """Return the network, which takes pixels and returns logits.

    Raises:
        HyperparameterError: timm has no such network, is not installed, or has no weights here.
    """
    if hyperparameters.network == "small":
        layers = _small(hyperparameters, data.outputs)
    else:
        layers = [_of_timm(hyperparameters, data.outputs)]
    return nn.Sequential(Normalized(), *layers).to(memory_format=torch.channels_last)


def _small(hyperparameters: PictureHyperparameters, classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    width = 3
    for channels in hyperparameters.channels:
        for inputs in (width, channels):
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        layers.append(nn.MaxPool2d(2))
        width = channels
    head = [nn.Flatten(), nn.Dropout(hyperparameters.dropout), nn.Linear(width, classes)]
    return [*layers, nn.AdaptiveAvgPool2d(1), *head]


def _of_timm(hyperparameters: PictureHyperparameters, classes: int) -> nn.Module:
    name = hyperparameters.network
    try:
        import timm
    except ModuleNotFoundError as error:
        raise HyperparameterError(
            f"--network {name} needs timm: pip install timm, or omit --network"
        ) from error
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "timm.list_models()"
        raise HyperparameterError(f"timm has no network {name!r}: give small, or one of {near}")
    try:
        network: nn.Module = timm.create_model(
            name,
            pretrained=hyperparameters.pretrained,
            num_classes=classes,
            drop_rate=hyperparameters.dropout,
        )
    except Exception as error:  # whatever the library raises while it downloads
        if not hyperparameters.pretrained:
            raise
        raise HyperparameterError(
            f"the weights of {name} cannot be downloaded ({error}): omit --pretrained"
        ) from error
    return network


def distortion(
    hyperparameters: PictureHyperparameters, device: torch.device
) -> Augmentation | None:
    """Return the distortion of pictures: mirrored at random, and shifted by whole pixels."""
    if not hyperparameters.mirror and not hyperparameters.shift:
        return None

    def distort(pictures: Tensor, generator: torch.Generator) -> Tensor:
        if hyperparameters.mirror:
            draw = torch.rand(len(pictures), 1, 1, 1, generator=generator, device=device)
            pictures = torch.where(draw < 0.5, pictures, pictures.flip(3))
        height, width = pictures.shape[2:]
        down, right = int(height * hyperparameters.shift), int(width * hyperparameters.shift)
        if not down and not right:
            return pictures
        larger = pad(pictures.float(), (right, right, down, down), mode="reflect")
        # One shift for the batch: as good as one for each picture, and much faster.
        top, left = (
            int(torch.randint(2 * limit + 1, (), generator=generator, device=device))
            for limit in (down, right)
        )
        return larger[:, :, top : top + height, left : left + width]

    return distort


def _loss(hyperparameters: PictureHyperparameters) -> Loss:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, label_smoothing=hyperparameters.label_smoothing)

    return loss


def _served(network: nn.Module, data: Dataset) -> Served:
    spec = TensorSpec(
        name="image", datatype="UINT8", shape=(-1, *data.train.inputs.shape[1:]),
        minimum=0, maximum=255, meaning="pixels of a picture, 0 to 255", picture=PICTURE,
    )  # fmt: skip
    return Served(_OnPicture(network).eval(), (spec,), (probabilities(data),))


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    pictures = {"confident-mistakes": plots.confident_mistakes(network, data)}
    if data.outputs <= MAX_CLASSES_SHOWN:
        pictures["confusion-matrix"] = plots.confusion(evaluation)
    return pictures


def image_recipe(
    name: str, load: Callable[[Any], Dataset], network: str, pretrained: bool
) -> Recipe:
    """Return the recipe that trains a network on pictures.

    Args:
        name: of the recipe and its package.
        load: returns the data set.
        network: `small`, or the name of a network of timm.
        pretrained: whether to begin with timm's weights.
    """
    return Recipe(
        name=name,
        summary=f"A convolutional network ({network}) that names what a picture shows.",
        data=load,
        build=build,
        default=PictureHyperparameters(
            epochs=20,
            batch_size=32,
            optimizer="adamw",
            lr=5e-4 if pretrained else 3e-3,
            weight_decay=0.05,
            lr_scheduler="one-cycle",
            network=network,
            pretrained=pretrained,
            dropout=0.2,
            label_smoothing=0.05,
        ),
        intended_use="Name the class of pictures like those that it was trained on.",
        limits=("It returns a class for every picture, even for one that shows none of them.",),
        input_kind="pictures",
        loss=_loss,
        augment=distortion,
        served=_served,
        pictures=_pictures,
    )
