"""Networks for pictures: the steps in front are declared; mean and deviation are exported.

The service decodes a picture and makes pixels of it as declared (`models/kinds/pictures.py`). The
graph takes these pixels from 0 to 255, divides, subtracts the mean and divides by the deviation.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fitserve.doors import door_of, is_of
from fitserve.exported import RANDOM, Exported, ExportError, Pictures
from fitserve.transforms import sample_pictures, stated_steps, transform_of

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT = "image"
"""The name of the graph's input."""
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Channels = Literal["RGB", "BGR", "L"]
_INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
_CHANNELS: tuple[str, ...] = get_args(Channels)
ROWS = 4
"""The random rows of the sample."""


@dataclass(frozen=True)
class Picture:
    """The steps from a picture to the network's input, as in training.

    Attributes:
        size: the height and width that the network takes, or one number for both.
        resize: the length of the shorter side before the middle is cut out; None to resize both
            sides to `size`.
        interpolation: of the resizing.
        mean: of each channel, for pixels from 0 to 1.
        std: the deviation of each channel.
        channels: RGB, BGR, or L for grey.
    """

    size: int | tuple[int, int]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    channels: Channels = "RGB"

    def __post_init__(self) -> None:
        """Check the steps.

        Raises:
            ExportError: a value is none of those that are known.
        """
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,) * 2
        numbers = [*sides, *([] if self.resize is None else [self.resize])]
        if len(sides) != 2 or not all(isinstance(one, int) and one > 0 for one in numbers):
            raise ExportError(
                f"the picture has the size {self.size!r} and resize {self.resize!r}: give "
                "pixels, as size=224 or size=(height, width), resize=256"
            )
        for field, known in (("channels", _CHANNELS), ("interpolation", _INTERPOLATIONS)):
            if getattr(self, field) not in known:
                raise ExportError(
                    f"the picture has {field}={getattr(self, field)!r}: give one of "
                    f"{', '.join(known)}"
                )
        if not all(self.std):
            raise ExportError("the picture has a deviation of 0 in std: give others")

    @classmethod
    def of(cls, source: Any) -> "Picture":
        """Return the steps of a transform of torchvision, a model of timm or an image processor.

        Raises:
            ExportError: the source states no steps that are known.
        """
        return cls(**stated_steps(source))

    @property
    def sides(self) -> tuple[int, int]:
        """The height and width."""
        height, width = (self.size,) * 2 if isinstance(self.size, int) else self.size
        return height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one row: channels, height, width."""
        return (1 if self.channels == "L" else 3, *self.sides)

    def declared(self) -> dict[str, Any]:
        """Return what the card and the checks of `fitserve add` need."""
        return {
            "input": INPUT,
            "picture": {
                "layout": "CHW",
                "channels": self.channels,
                "resize": self.resize,
                "interpolation": self.interpolation,
                "largest": 255,
            },
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def wrapped(self, network: "nn.Module") -> "nn.Module":
        """Return the network with its first steps: it takes `image`, uint8 [N, channels, H, W]."""
        import torch
        from torch import nn

        count = self.shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, count):
                raise ExportError(f"the picture has {len(values)} values of {name}: give {count}")

        class Pictured(nn.Module):
            def __init__(self, mean: "Tensor", std: "Tensor") -> None:
                super().__init__()
                self.network = network
                self.mean: Tensor
                self.std: Tensor
                self.register_buffer("mean", mean)
                self.register_buffer("std", std)

            def forward(self, image: "Tensor") -> Any:
                return self.network((image.to(self.mean.dtype) / 255 - self.mean) / self.std)

        parameter = next(iter(network.parameters()), torch.zeros(()))
        shape = (1, -1, 1, 1)
        mean, std = (
            torch.tensor(list(values), dtype=parameter.dtype, device=parameter.device).view(shape)
            for values in (self.mean, self.std)
        )
        return Pictured(mean, std).train(network.training)


def is_pictures(sample: Any) -> bool:
    """Return whether a sample is pictures of Pillow."""
    return isinstance(sample, (list, tuple)) and all(hasattr(one, "getexif") for one in sample)


def export_pictures(
    network: "nn.Module",
    pictures: Any,
    picture: Any,
    transform: Callable[[Any], Any] | None,
    labels: Sequence[str],
) -> Exported:
    """Return a torch module for pictures as files.

    Args:
        network: takes tensors [N, channels, H, W], as `transform` makes them.
        pictures: pictures of Pillow; None for some of our own.
        picture: the steps from a picture to the network's input, or what `Picture.of` takes.
        transform: the training library's own steps, to compare with; by default those of
            `picture`; may be missing.
        labels: the classes.

    Raises:
        ExportError: the network cannot be exported, or a picture is none.
    """
    if not isinstance(picture, Picture):
        transform = transform or transform_of(picture)
        picture = Picture.of(picture)
    if not is_of(network, "torch", "Module"):
        raise ExportError(
            f"a {type(network).__name__} takes no pictures: give a torch.nn.Module, or no picture"
        )
    if pictures is not None and not isinstance(pictures, (list, tuple)):
        raise ExportError(
            f"the sample is a {type(pictures).__name__}: give a list of pictures of Pillow, or no "
            "sample"
        )
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (ROWS, *picture.shape), np.uint8)
    wrapped = picture.wrapped(network)
    exported = door_of(wrapped).export(wrapped, [{INPUT: pixels}], labels)
    files, transformed = [], []
    if pictures is None and transform is not None:
        pictures = sample_pictures()
    for image in pictures or ():
        if not hasattr(image, "save") or not hasattr(image, "getexif"):
            raise ExportError(
                f"the sample holds a {type(image).__name__}: give pictures of Pillow "
                "(PIL.Image.open), or no sample"
            )
        stream = io.BytesIO()
        image.save(stream, "PNG")
        files.append(stream.getvalue())
        if transform is not None:
            transformed.append(np.asarray(transform(image), np.float32))
    origin = exported.origin.replace("Pictured", type(network).__name__)
    rows = np.stack(transformed) if transformed else None
    return replace(
        exported,
        origin=origin,
        notes=[*exported.notes, RANDOM],
        pictures=Pictures(picture.declared(), files, rows),
    )
