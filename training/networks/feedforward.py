"""The networks, and the pre- and postprocessing modules that are exported with them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["none", "relu", "gelu", "sigmoid", "tanh"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class Pixels(nn.Module):
    """Normalisation of raw pixels [N, 28, 28], 0 to 255, to float32 [N, 1, 28, 28].

    Args:
        mean: subtracted from the pixels, after they are scaled to 0 … 1.
        std: divisor of the difference.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a batch."""
        return ((image.float() / 255.0 - self.mean) / self.std).unsqueeze(1)


class Affine(nn.Module):
    """The map x ↦ (x - shift) / scale of each column, with constants that are not trained."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Shift and scale a batch [N, columns]."""
        return (x - self.shift) / self.scale


class OneUnit(nn.Module):
    """The logits of two classes from one unit: 0 for the first class, the unit for the second.

    The second class is the answer where the unit is above 0, and its probability is the logistic
    function of the unit.
    """

    def forward(self, unit: Tensor) -> Tensor:
        """Return logits of a batch, float32 [N, 1] → [N, 2]."""
        return torch.cat([torch.zeros_like(unit), unit], dim=1)


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Activation,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a multi-layer perceptron; without hidden layers, a single linear layer."""
    layers: list[nn.Module] = []
    width = inputs
    for size in hidden:
        layers += [nn.Linear(width, size), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutional(channels: tuple[int, int, int], dropout: float) -> nn.Sequential:
    """Return three pairs of 3x3 convolutions with batch norm, on 28x28, 13x13 and 5x5 pixels.

    The second convolution of each pair has no padding, because the border of a digit's image
    carries no information. Dropout follows the last batch norm, because dropout before a batch
    norm would distort its statistics.
    """
    first, second, third = channels
    return nn.Sequential(
        *_convolution(1, first // 2, 1),
        *_convolution(first // 2, first, 0),
        nn.MaxPool2d(2),
        *_convolution(first, second, 1),
        *_convolution(second, second, 0),
        nn.MaxPool2d(2),
        *_convolution(second, third, 1),
        *_convolution(third, third, 0),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(third * 9, 10),
    )


class _Residual(nn.Module):
    """A block of two 3x3 convolutions, added to its input (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *_convolution(channels, channels), *_convolution(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.block(x)
        return output


class MirrorAveraged(nn.Module):
    """A network of images [N, height, width] that ignores left and right.

    Outside of training it returns the mean output for an image and its mirror image.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Compute a batch."""
        output: Tensor = self.network(image)
        if self.training:
            return output
        mirrored: Tensor = self.network(image.flip(-1))
        return (output + mirrored) / 2


def residual(channels: tuple[int, int, int], outputs: int, dropout: float) -> nn.Sequential:
    """Return a residual network on 28x28, 14x14 and 7x7 pixels, with 7 convolutions of 3x3.

    The last pooling takes the maximum of each channel over all 7x7 places.
    """
    first, second, third = channels
    return nn.Sequential(
        *_convolution(1, first),
        nn.MaxPool2d(2),
        *_convolution(first, second),
        _Residual(second),
        nn.MaxPool2d(2),
        *_convolution(second, third),
        _Residual(third),
        nn.MaxPool2d(7),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(third, outputs),
    )


def _convolution(inputs: int, outputs: int, padding: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution with batch norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


@torch.no_grad()
def nguyen_widrow_(layer: nn.Linear) -> None:
    """Initialise a layer in place so that its tanh units divide inputs in -1 to 1 evenly.

    After Nguyen and Widrow, "Improving the learning speed of 2-layer neural networks by choosing
    initial values of the adaptive weights" (1990).
    """
    steepness = 0.7 * layer.out_features ** (1 / layer.in_features)
    layer.weight.mul_(steepness / layer.weight.norm(dim=1, keepdim=True))
    offsets = torch.linspace(-steepness, steepness, layer.out_features)
    layer.bias.copy_(offsets * layer.weight[:, 0].sign())
