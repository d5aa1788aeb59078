"""The networks, and the small modules before and after them that also train and ship with them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["none", "relu", "tanh"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}


class Pixels(nn.Module):
    """Raw pixels [N, 28, 28], 0 to 255, → normalised float32 [N, 1, 28, 28].

    Args:
        mean: what is subtracted from a pixel after it was brought to 0 … 1.
        std: what the difference is divided by.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch."""
        return ((image.float() / 255.0 - self.mean) / self.std).unsqueeze(1)


class Affine(nn.Module):
    """x ↦ (x - shift) / scale for each column, with constants that are saved but not fitted."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Shift and scale a batch [N, columns]."""
        return (x - self.shift) / self.scale


def perceptron(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A multi-layer perceptron; with no hidden layer it is one linear layer."""
    layers: list[nn.Module] = []
    width = inputs
    for size in hidden:
        layers += [nn.Linear(width, size), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutional(channels: tuple[int, int, int], dropout: float) -> nn.Sequential:
    """Three pairs of 3x3 convolutions with batch norm, on 28x28, 13x13 and 5x5 pixels.

    The second of each pair is not padded: what lies beyond a digit's frame carries nothing.
    Dropout stands only after the last batch norm, whose statistics it would falsify.
    """
    first, second, third = channels

    def block(inputs: int, outputs: int, padding: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, first // 2, 1),
        *block(first // 2, first, 0),
        nn.MaxPool2d(2),
        *block(first, second, 1),
        *block(second, second, 0),
        nn.MaxPool2d(2),
        *block(second, third, 1),
        *block(third, third, 0),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(third * 9, 10),
    )


@torch.no_grad()
def spread_units(layer: nn.Linear) -> None:
    """Spread the steep parts of a layer's tanh units evenly over inputs in -1 to 1.

    After Nguyen and Widrow, "Improving the learning speed of 2-layer neural networks by choosing
    initial values of the adaptive weights" (1990).
    """
    steepness = 0.7 * layer.out_features ** (1 / layer.in_features)
    layer.weight.mul_(steepness / layer.weight.norm(dim=1, keepdim=True))
    places = torch.linspace(-steepness, steepness, layer.out_features)
    layer.bias.copy_(places * layer.weight[:, 0].sign())
