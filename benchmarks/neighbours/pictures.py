"""The pictures: digits of any size in each format, and BMP files that take long to decode."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image

_NOISE_SIDE = 512  # pixels
_COLOURS = 256


def digit(side: int, file_format: str, *, colour: bool = False) -> bytes:
    """Return a picture of a one, dark on bright paper with faint noise, as a file.

    Args:
        side: the width and the height in pixels.
        file_format: as Pillow names it.
        colour: whether the picture has three channels, or one.
    """
    noise = np.random.default_rng(0).integers(226, 231, (_NOISE_SIDE, _NOISE_SIDE), np.uint8)
    repeats = -(-side // _NOISE_SIDE)
    pixels = np.tile(noise, (repeats, repeats))[:side, :side].copy()
    pixels[side // 5 : side - side // 5, side * 9 // 20 : side * 11 // 20] -= 200
    picture = Image.fromarray(pixels)
    stream = BytesIO()
    options = {"PNG": {"compress_level": 1}, "WEBP": {"method": 0}}
    (picture.convert("RGB") if colour else picture).save(
        stream, file_format, **options.get(file_format, {})
    )
    return stream.getvalue()


def rle_bmp(width: int, height: int) -> bytes:
    """Return an 8-bit BMP with run-length encoding: each row is one pixel and an end of line.

    Pillow fills the rest of each row in a Python loop, one pixel at a time. The file has 4 bytes
    for each row, and 1,078 bytes more.
    """
    data = b"\x01\xff\x00\x00" * height + b"\x00\x01"
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(_COLOURS))
    start = 14 + 40 + len(palette)
    file_header = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    rle8 = 1
    information = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, rle8, len(data), 0, 0, _COLOURS, 0
    )
    return file_header + information + palette + data
