"""Convert an uploaded picture to MNIST pixels.

For any bytes, the result is 28x28 pixels made by MNIST's procedure, or an error that says what to
change. The functions are pure and thread-safe.
"""

from math import ceil
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.api.pictures import decoded, eight_bits
from service.errors import BadInputError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

WORKING_SIDE = 1000  # pixels; a digit of a thirtieth of the side still has MNIST's 20 and more


def mnist_pixels(data: bytes | bytearray, *, max_pixels: int = 40_000_000) -> NDArray[np.uint8]:
    """Convert a picture of one digit to the pixels that an MNIST model expects.

    The procedure is MNIST's (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
    document recognition", 1998): white ink on black, size-normalised to a 20x20 box preserving the
    aspect ratio, anti-aliased, centred in 28x28 by its centre of mass.

    Args:
        data: a PNG, JPEG, WebP, BMP or GIF file of any size and colour mode; of an animation, the
            first frame is used. Ink may be dark on bright or bright on dark, as the border of the
            picture shows; the background may be transparent or unevenly lit.
        max_pixels: the largest width times height that is decoded.

    Returns:
        Array of shape (28, 28), uint8, from 0 for background to 255 for ink.

    Raises:
        BadInputError: the file is not a picture, is damaged, or shows no ink.
        UnsupportedMediaError: the file has another format.
        BodyTooLargeError: by its header, the picture has more than `max_pixels`, or a side of more
            than 65,535.
    """
    return _normalise(_ink(_grey(data, max_pixels)))


def _grey(data: bytes | bytearray, max_pixels: int) -> Floats:
    """Decode to grey from 0 black to 1 white, upright, opaque, no side above `WORKING_SIDE`."""
    image = decoded(data, max_pixels, _small_grey)
    pixels = np.asarray(image, np.float32) * np.float32(1 / 255)
    return pixels if pixels.ndim == 2 else _opaque(pixels[..., 0], pixels[..., 1])


def _small_grey(file: Image.Image) -> Image.Image:
    file.draft("L", (WORKING_SIDE, WORKING_SIDE))  # JPEG decodes straight to a fraction
    image = eight_bits(file)
    image = image.convert("LA" if image.has_transparency_data else "L")
    return image.reduce(ceil(max(image.size) / WORKING_SIDE))


def _opaque(grey: Floats, alpha: Floats) -> Floats:
    """Blend transparent pixels into a background on which the others are visible."""
    visible = grey[alpha > alpha.max() / 2]
    if not visible.size:
        return np.zeros_like(grey)
    low, tone, high = np.percentile(visible, (1, 50, 99))
    is_card = (
        visible.size > grey.size / 2 and high - low > 0.5
    )  # the picture has its own background
    backdrop = np.float32(tone if is_card else tone < 0.5)
    return grey * alpha + backdrop * (1 - alpha)


def _ink(grey: Floats) -> Floats:
    """Return the contrast of the drawing against its paper, and 0 where there is no ink."""
    paper, noise = _paper(grey)
    above = grey - paper
    contrast_range = 1 - paper
    if np.sum(above * above * above) < 0:  # cubes: deep ink outweighs broad, shallow shading
        above, contrast_range = -above, paper
    if above.max() < max(0.02, 6 * noise):
        raise BadInputError("The picture shows no ink; send a digit that differs from its paper.")
    above[above < 4 * noise] = 0
    ink: Floats = above / contrast_range.clip(0.1)  # dark paper leaves less range for ink
    strokes = _without_specks(ink > ink.max() / 4)
    # The soft edge of a stroke is ink too; fainter or more distant pixels are noise.
    ink[~_widest(strokes) | (ink < ink.max() / 16)] = 0
    return ink


def _paper(grey: Floats) -> tuple[Floats, float]:
    """Fit a quadratic surface to the pixels that resemble the border; return it and their noise."""
    y, x = np.meshgrid(
        *(np.linspace(-1, 1, n, dtype=np.float32) for n in grey.shape), indexing="ij"
    )
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    sampled = border.copy()
    step = ceil(max(grey.shape) / 64)
    sampled[::step, ::step] = True
    values, terms = grey[sampled], basis[sampled]
    fit = np.full_like(values, np.median(grey[border]))
    resembling = border[sampled]
    for _ in range(5):
        spread = 1.48 * float(
            np.median(np.abs(values - fit)[resembling])
        )  # a robust standard deviation
        resembling = np.abs(values - fit) <= max(3 * spread, 1 / 255)
        weights = np.linalg.lstsq(
            terms[resembling].T @ terms[resembling], terms[resembling].T @ values[resembling]
        )[0]
        fit = terms @ weights
    return np.clip(basis @ weights, 0, 1), spread


def _without_specks(strokes: Mask) -> Mask:
    """Keep the connected parts that have at least a fiftieth of the heaviest one's pixels."""
    (height, width), step = strokes.shape, ceil(max(strokes.shape) / 56)
    # On a coarse grid, for speed, and so that nearly touching parts count as connected.
    cells = np.add.reduceat(strokes, range(0, height, step), axis=0, dtype=np.int64)
    cells = np.add.reduceat(cells, range(0, width, step), axis=1)
    labels = np.arange(1, cells.size + 1).reshape(cells.shape) * (cells > 0)
    while not np.array_equal(labels, wider := _widest(labels) * (cells > 0)):
        labels = wider
    weights = np.bincount(labels.ravel(), cells.ravel())
    large: Mask = weights[labels] >= weights.max() / 50
    return strokes & large.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]


def _widest(grid: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return the maximum of each cell's 3x3 neighbourhood."""
    padded = np.pad(grid, 1)
    rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    return np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _normalise(ink: Floats) -> NDArray[np.uint8]:
    """Crop to the ink, scale its longest side to 20, centre its mass in 28x28."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.HAMMING))
    full = np.percentile(small[small > small.max() / 4], 90)  # robust against one dark blot
    small = np.minimum(small * (255 / full), 255)
    mass = small.sum()
    # MNIST's centres of mass lie from 13.5 to 14.5, where 13.5 is the middle of 28 pixels.
    top = round(14 - float(np.arange(height) @ small.sum(axis=1) / mass))
    left = round(14 - float(np.arange(width) @ small.sum(axis=0) / mass))
    top, left = min(max(top, 0), 28 - height), min(max(left, 0), 28 - width)
    pixels = np.zeros((28, 28), np.uint8)
    pixels[top : top + height, left : left + width] = np.rint(small)
    return pixels
