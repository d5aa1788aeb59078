"""Pictures as the pixels of an input: decoded, upright, resized and cropped as in training.

The steps are those of torchvision and timm on pictures of Pillow: `Resize`, `CenterCrop`, and
pixels from 0 to 255. Mean and deviation are part of the graph.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from PIL import Image

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PictureSpec:
    """How a picture becomes one row of an input.

    Attributes:
        layout: the order of the row's dimensions: channels first, channels last, or grey without
            channels.
        channels: RGB, BGR, or L for grey.
        resize: the length of the shorter side before the crop, in pixels; None to resize both
            sides to those of the row, without a crop.
        interpolation: of the resizing, as Pillow names it.
        largest: the value of a full pixel: 255, or 1 for inputs of floating-point numbers.
    """

    layout: Literal["CHW", "HWC", "HW"] = "CHW"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    resize: int | None = Field(default=None, ge=1, le=65_535)
    interpolation: Interpolation = "bilinear"
    largest: Literal[1, 255] = 255

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the height and width in the shape of a row.

        Raises:
            ValueError: the shape is not that of the layout and the channels.
        """
        count = 1 if self.channels == "L" else 3
        if self.layout == "HW":
            height, width, found = *shape, count
        elif self.layout == "CHW":
            found, height, width = shape
        else:
            height, width, found = shape
        if found != count or height < 1 or width < 1:
            raise ValueError(f"a row {list(shape)} is no picture {self.layout} of {self.channels}")
        return height, width

    def pixels(self, image: "Image.Image", shape: Sequence[int]) -> NDArray[Any]:
        """Return the pixels of a picture, which is upright, in the shape of a row.

        Args:
            image: of any size and mode; transparency is dropped.
            shape: of the row.

        Returns:
            uint8, or float32 if a full pixel is 1.
        """
        height, width = self.sides(shape)
        image = image.convert("L" if self.channels == "L" else "RGB")
        image = self._cropped(image, height, width)
        array = np.asarray(image)
        if self.channels == "BGR":
            array = array[..., ::-1]
        if self.layout == "CHW":
            array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        elif self.layout == "HWC" and array.ndim == 2:
            array = array[..., None]
        array = np.ascontiguousarray(array)
        return array if self.largest == 255 else array.astype(np.float32) / np.float32(255)

    def _cropped(self, image: "Image.Image", height: int, width: int) -> "Image.Image":
        """Resize as torchvision's `Resize`, and cut out the middle as its `CenterCrop`."""
        from PIL import Image

        method = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return image.resize((width, height), method)
        if image.width <= image.height:
            size = self.resize, int(self.resize * image.height / image.width)
        else:
            size = int(self.resize * image.width / image.height), self.resize
        image = image.resize(size, method) if image.size != size else image
        left, top = _margin(image.width, width), _margin(image.height, height)
        # Outside of the picture, pixels are 0, as in torchvision.
        return image.crop((left, top, left + width, top + height))


def _margin(size: int, wanted: int) -> int:
    """Return where the middle part begins; less than 0 if the picture is smaller."""
    return round((size - wanted) / 2) if size >= wanted else -((wanted - size) // 2)
