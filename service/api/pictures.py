"""Decode uploaded pictures.

For any bytes, the result is an upright picture, or an error that says what to change. Only the
decoders of PNG, JPEG, WebP, BMP and GIF run, after a check of the size in the file's header.
"""

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np

# Without this import, Pillow would look for WebP by importing every decoder.
from PIL import ExifTags, Image, WebPImagePlugin  # noqa: F401

from service.errors import BadInputError, BodyTooLargeError, UnsupportedMediaError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
ACCEPTED = "a PNG, JPEG, WebP, BMP or GIF file"
OTHER_FORMATS = {
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PDF": rb"%PDF-",
    "SVG": rb"(\xef\xbb\xbf)?\s*<(svg\b|[?!].*<svg\b)",
    "HEIC, AVIF or video": rb".{4}ftyp",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\0\0\0\x0cJXL |\xff\x0a",
    "Photoshop": rb"8BPS",
    "icon": rb"\0\0[\1\2]\0",
}
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_SIDE = 65_535  # pixels, as in JPEG; Pillow needs many bytes per row, however short


def eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of 16 bits in eight, which Pillow would clip at 255; others as they are."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))


def decoded(
    data: bytes | bytearray,
    max_pixels: int,
    prepare: Callable[[Image.Image], Image.Image] = eight_bits,
) -> Image.Image:
    """Decode a picture, and turn it upright as its EXIF data say.

    Args:
        data: a PNG, JPEG, WebP, BMP or GIF file; of an animation, the first frame is used.
        max_pixels: the largest width times height that is decoded.
        prepare: decodes the opened file.

    Raises:
        BadInputError: the file is not a picture, or is damaged.
        UnsupportedMediaError: the file has another format.
        BodyTooLargeError: by its header, the picture has more than `max_pixels`, or a side of more
            than 65,535.
    """
    if not data:
        raise BadInputError(f"The file is empty; send {ACCEPTED}.")
    for name, signature in OTHER_FORMATS.items():
        if re.match(signature, data[:1024], re.DOTALL):
            raise UnsupportedMediaError(f"{name} files are not read; send {ACCEPTED}.")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > max_pixels or max(file.size) > MAX_SIDE:
                raise Image.DecompressionBombError
            image = prepare(file)
            image.load()
            transpose = UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            return image if transpose is None else image.transpose(transpose)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BodyTooLargeError(
            f"The picture has more than {max_pixels:,} pixels, or {MAX_SIDE:,} on a side; "
            "send a smaller one."
        ) from error
    except Exception as error:  # a malformed file can make Pillow raise nearly anything
        raise BadInputError(
            f"The file is damaged, incomplete or not a picture; send {ACCEPTED}."
        ) from error
