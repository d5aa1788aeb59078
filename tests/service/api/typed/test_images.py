"""Uploaded pictures of digits: they are read, or refused with the reason."""

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageFile

from service.api.typed.images import mnist_pixels
from service.errors import BadInputError, BodyTooLargeError, ServiceError, UnsupportedMediaError

Pixels = NDArray[np.uint8]
TWO = ((30, 35), (35, 25), (50, 20), (65, 25), (70, 38), (60, 52), (40, 68), (30, 80), (72, 80))
FIVE = ((68, 20), (35, 20), (33, 47), (52, 43), (67, 52), (68, 68), (55, 80), (32, 77))
SEVEN = ((28, 22), (72, 22), (55, 50), (45, 82))

property_test = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)


def drawing(
    points: tuple[tuple[float, float], ...] = TWO,
    *,
    side: int = 280,
    pen: float = 20,
    scale: float = 1.0,
    offset: tuple[float, float] = (0, 0),
) -> Image.Image:
    """Draw white ink on black, anti-aliased; points and offset in hundredths of the side."""
    big, unit = Image.new("L", (4 * side, 4 * side)), 4 * side / 100
    draw, radius = ImageDraw.Draw(big), 2 * pen
    path = [
        (((x - 50) * scale + 50 + offset[0]) * unit, ((y - 50) * scale + 50 + offset[1]) * unit)
        for x, y in points
    ]
    draw.line(path, fill=255, width=max(1, round(4 * pen)))
    for x, y in path:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return big.resize((side, side), Image.Resampling.BOX)


def inverted(image: Image.Image) -> Image.Image:
    return image.point(lambda value: 255 - value)


def encoded(
    image: Image.Image | NDArray[np.generic], form: str = "PNG", **options: object
) -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, form, **options
    )
    return file.getvalue()


def difference(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Return the mean absolute difference of two pictures, in grey levels of 255."""
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


def assert_made_as_mnist(pixels: Pixels) -> None:
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    assert np.median(pixels) == 0
    rows, columns = np.nonzero(pixels > 32)
    assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21
    mass = pixels / pixels.sum(dtype=float)
    centre = mass.sum(axis=1) @ np.arange(28), mass.sum(axis=0) @ np.arange(28)
    # MNIST's centre can be matched to half a pixel by whole pixels; a clipped shift may miss by
    # more.
    assert all(13.4 <= coordinate <= 14.6 for coordinate in centre), centre


PLAIN = mnist_pixels(encoded(drawing()))


def assert_reads_as_the_two(data: bytes, within: float = 1.5) -> None:
    pixels = mnist_pixels(data)
    assert_made_as_mnist(pixels)
    assert difference(pixels, PLAIN) <= within


# Accepted formats, colour modes, transparency


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("turn", [inverted, Image.Image.copy], ids=["black ink", "white ink"])
def test_reads_every_format_black_on_white_and_white_on_black(
    form: str, turn: Callable[[Image.Image], Image.Image]
) -> None:
    assert_reads_as_the_two(encoded(turn(drawing()).convert("RGB"), form))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"),
        ("1", "BMP"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("P", "BMP"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("RGBA", "BMP"),
        ("CMYK", "JPEG"),
        ("YCbCr", "JPEG"),
    ],
)
def test_reads_every_colour_mode(mode: str, form: str) -> None:
    assert_reads_as_the_two(encoded(inverted(drawing()).convert(mode), form))


@pytest.mark.parametrize("full_scale", [65_535, 4_095], ids=["16 bits", "12 bits in 16"])
def test_reads_16_bit_grey(full_scale: int) -> None:
    deep = np.asarray(inverted(drawing()), np.uint32) * full_scale // 255
    assert_reads_as_the_two(encoded(deep.astype(np.uint16)))


@pytest.mark.parametrize("ink", ["black", "white", "navy", "gold"])
@pytest.mark.parametrize("under", ["black", "white"])
def test_reads_strokes_on_a_transparent_background_whatever_colour_hides_there(
    ink: str, under: str
) -> None:
    strokes = drawing()
    picture = Image.composite(
        Image.new("RGBA", strokes.size, ink), Image.new("RGBA", strokes.size, under), strokes
    )
    picture.putalpha(strokes)
    assert_reads_as_the_two(encoded(picture))


def test_reads_translucent_strokes() -> None:
    picture = Image.new("RGBA", (280, 280), "navy")
    picture.putalpha(drawing().point(lambda value: value * 2 // 5))
    assert_reads_as_the_two(encoded(picture))


def test_reads_a_palette_with_one_transparent_colour() -> None:
    indices = (np.asarray(drawing()) > 127).astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([0, 0, 0, 0, 0, 0])  # black strokes on transparent black
    assert_reads_as_the_two(encoded(picture, transparency=0))
    assert_reads_as_the_two(encoded(picture, "GIF", transparency=0))


def test_reads_a_card_with_transparent_corners_and_strokes_cut_out_of_a_sheet() -> None:
    card = inverted(drawing()).convert("RGBA")
    corners = Image.new("L", card.size)
    ImageDraw.Draw(corners).rounded_rectangle((4, 4, 275, 275), 60, fill=255)
    card.putalpha(corners)
    assert_reads_as_the_two(encoded(card))
    sheet = Image.new("RGBA", card.size, "black")
    sheet.putalpha(inverted(drawing()))
    assert_reads_as_the_two(encoded(sheet))


@pytest.mark.parametrize("colours", [("red", "white"), ("yellow", "white"), ("#555", "#333")])
def test_reads_coloured_and_faint_ink(colours: tuple[str, str]) -> None:
    strokes = drawing()
    ink, paper = (Image.new("RGB", strokes.size, colour) for colour in colours)
    assert_reads_as_the_two(encoded(Image.composite(ink, paper, strokes)))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_reads_the_first_frame_of_an_animation(form: str) -> None:
    first, later = inverted(drawing()).convert("RGB"), inverted(drawing(SEVEN)).convert("RGB")
    options = {"lossless": True} if form == "WEBP" else {}
    assert_reads_as_the_two(encoded(first, form, save_all=True, append_images=[later], **options))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_turns_a_picture_upright_as_its_exif_says(
    form: str, orientation: int, stored: Image.Transpose
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture = inverted(drawing()).convert("RGB").transpose(stored)
    assert_reads_as_the_two(encoded(picture, form, exif=exif))


# Position, size and pen of the digit


@pytest.mark.parametrize("points", [TWO, FIVE, SEVEN], ids=["2", "5", "7"])
@pytest.mark.parametrize("pen", [1, 20, 36])
@pytest.mark.parametrize("scale", [0.25, 1.1])
@pytest.mark.parametrize("offset", [(-15, 12), (9, -9)])
def test_any_digit_is_returned_in_mnist_geometry(
    points: tuple[tuple[float, float], ...], pen: float, scale: float, offset: tuple[float, float]
) -> None:
    data = encoded(drawing(points, pen=max(1, pen * scale), scale=scale, offset=offset))
    assert_made_as_mnist(mnist_pixels(data))


@pytest.mark.parametrize(
    ("scale", "offset", "side"),
    [(0.5, (-20, 20), 280), (0.1, (35, -35), 560), (1.2, (0, 0), 280), (1.0, (0, 0), 1400)],
)
def test_position_and_size_do_not_matter(
    scale: float, offset: tuple[float, float], side: int
) -> None:
    moved = drawing(scale=scale, offset=offset, side=side, pen=20 * scale * side / 280)
    assert_reads_as_the_two(encoded(inverted(moved)), within=6)


def test_finds_a_small_digit_in_a_big_photo() -> None:
    photo = Image.new("L", (4000, 3000), 235)
    photo.paste(inverted(drawing(pen=18)).point(lambda value: value * 235 // 255), (3300, 2500))
    assert_reads_as_the_two(encoded(photo, "JPEG"), within=6)
    assert_reads_as_the_two(encoded(photo, compress_level=1), within=6)


def test_keeps_the_aspect_ratio_of_a_one() -> None:
    pixels = mnist_pixels(encoded(drawing(((50, 15), (50, 85)), pen=20)))
    assert_made_as_mnist(pixels)
    columns = np.flatnonzero((pixels > 32).any(axis=0))
    assert np.ptp(columns) + 1 in (2, 3)


def test_a_digit_that_touches_the_border_is_kept_whole() -> None:
    tight = inverted(drawing())
    assert_reads_as_the_two(encoded(tight.crop(inverted(tight).getbbox())))


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (3, 60_000), (60_000, 3), (1, 3), (28, 28)])
def test_narrow_pictures_give_a_line(size: tuple[int, int]) -> None:
    width, height = size
    line = np.zeros((height, width), np.uint8)
    line[height // 3 : height - height // 3, width // 3 : width - width // 3] = 255
    pixels = mnist_pixels(encoded(line))
    assert pixels.max() == 255
    assert max(np.ptp(axis) for axis in np.nonzero(pixels)) + 1 == 20


# Photos


@pytest.mark.parametrize("quality", [90, 50, 20, 5])
def test_jpeg_noise_does_not_matter(quality: int) -> None:
    assert_reads_as_the_two(encoded(inverted(drawing()), "JPEG", quality=quality), within=2.5)


def photo(
    *, darkest: float = 0.5, contrast: float = 0.7, noise: float = 6, dust: float = 0
) -> Pixels:
    """Draw dark ink on paper with uneven light and vignetting, sensor noise and dust."""
    random = np.random.default_rng(7)
    ink = np.asarray(drawing(side=600, pen=43), float) / 255
    y, x = np.mgrid[-1:1:600j, -1:1:600j]
    light = 1 - (1 - darkest) / 2 * (1 + 0.6 * x + 0.4 * y) - 0.08 * (x * x + y * y)
    scene = 230 * light * (1 - contrast * ink)
    for row, column in random.integers(0, 595, (int(dust), 2)):
        scene[row : row + 4, column : column + 4] *= 0.4
    return np.clip(scene + random.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "conditions",
    [
        pytest.param({}, id="uneven light"),
        pytest.param({"darkest": 0.3}, id="strongly uneven light"),
        pytest.param({"contrast": 0.3}, id="pencil"),
        pytest.param({"noise": 15}, id="noise"),
        pytest.param({"dust": 15}, id="dust"),
    ],
)
def test_reads_a_photo_of_paper_and_of_a_blackboard(conditions: dict[str, float]) -> None:
    scene = photo(**conditions)
    assert_reads_as_the_two(encoded(scene, "JPEG", quality=80), within=2)
    assert_reads_as_the_two(encoded(255 - scene, "JPEG", quality=80), within=2)


def test_a_photo_of_blank_paper_has_no_ink() -> None:
    with pytest.raises(BadInputError, match="no ink"):
        mnist_pixels(encoded(photo(contrast=0), "JPEG", quality=80))


# Fixed points


@pytest.mark.parametrize("points", [TWO, FIVE, SEVEN], ids=["2", "5", "7"])
@pytest.mark.parametrize("pen", [12, 20, 30])
def test_its_output_is_a_near_fixed_point(
    points: tuple[tuple[float, float], ...], pen: float
) -> None:
    once = mnist_pixels(encoded(drawing(points, pen=pen)))
    assert difference(mnist_pixels(encoded(once)), once) < 0.5
    assert difference(mnist_pixels(encoded(255 - once)), once) < 0.5


def enlarged(digit: Pixels) -> Image.Image:
    return inverted(Image.fromarray(digit)).resize((280, 280), Image.Resampling.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("save", "median", "mean"),
    [
        pytest.param(encoded, 0.5, 1.0, id="png"),
        pytest.param(lambda digit: encoded(255 - digit), 0.5, 1.0, id="inverted png"),
        pytest.param(
            lambda digit: encoded(255 - digit, "JPEG", quality=90), 1.0, 1.5, id="small jpeg"
        ),
        pytest.param(
            lambda digit: encoded(enlarged(digit), "JPEG", quality=90), 7.0, 8.0, id="big jpeg"
        ),
    ],
)
def test_mnist_digits_are_nearly_unchanged(
    save: Callable[[Pixels], bytes], median: float, mean: float, mnist_folder: Path
) -> None:
    images = mnist_folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    digits = np.fromfile(images, np.uint8, 200 * 784, offset=16).reshape(-1, 28, 28)
    # The mean allows for the few digits whose centre of mass is halfway between two pixels, and
    # which move by one. Enlarging blurs the edge by half an MNIST pixel, a fortieth of the box.
    differences = [difference(mnist_pixels(save(digit)), digit) for digit in digits]
    assert np.median(differences) < median
    assert np.mean(differences) < mean


# Refusals


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def patched(data: bytes, offset: int, form: str, *values: int) -> bytes:
    patch = struct.pack(form, *values)
    return data[:offset] + patch + data[offset + len(patch) :]


SMALL = inverted(drawing(side=32, pen=3))
VALID = {
    "png": encoded(SMALL),
    "png rgba": encoded(SMALL.convert("RGBA")),
    "png palette": encoded(SMALL.convert("P")),
    "png 16 bits": encoded(np.asarray(SMALL, np.uint16) * 257),
    "png animated": encoded(SMALL, save_all=True, append_images=[inverted(SMALL)]),
    "jpeg": encoded(SMALL.convert("RGB"), "JPEG"),
    "jpeg progressive cmyk": encoded(SMALL.convert("CMYK"), "JPEG", progressive=True),
    "webp": encoded(SMALL.convert("RGB"), "WEBP"),
    "webp lossless": encoded(SMALL.convert("RGBA"), "WEBP", lossless=True),
    "bmp": encoded(SMALL.convert("RGB"), "BMP"),
    "bmp 1 bit": encoded(SMALL.convert("1"), "BMP"),
    "gif": encoded(SMALL, "GIF"),
    "gif animated": encoded(SMALL, "GIF", save_all=True, append_images=[inverted(SMALL)]),
}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"seven", "not a picture", id="text"),
        pytest.param(b"<!doctype html><body>7</body>", "not a picture", id="html"),
        pytest.param(b"BM, this is no bitmap", "not a picture", id="text that starts as BMP does"),
        pytest.param(bytes(1000), "not a picture", id="zeros"),
        pytest.param(png_that_claims(0, 7), "not a picture", id="no pixels"),
        pytest.param(encoded(np.zeros((28, 28), np.uint8)), "no ink", id="black"),
        pytest.param(encoded(np.full((280, 280), 255, np.uint8), "JPEG"), "no ink", id="white"),
        pytest.param(encoded(np.full((1, 1), 9, np.uint8)), "no ink", id="one pixel"),
        pytest.param(encoded(Image.new("RGBA", (50, 50))), "no ink", id="all transparent"),
        pytest.param(encoded(Image.linear_gradient("L")), "no ink", id="gradient"),
    ],
)
def test_a_picture_without_a_digit_is_bad_input(data: bytes, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        mnist_pixels(data)
    assert caught.value.status == 400
    assert "send" in str(caught.value)


@pytest.mark.parametrize("name", VALID)
def test_half_a_file_is_bad_input(name: str) -> None:
    # Half a file may contain the whole first frame of an animation.
    data = VALID[name]
    cut = len(data) // (4 if "animated" in name else 2)
    with pytest.raises(BadInputError, match="incomplete"):
        mnist_pixels(data[:cut])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(SMALL, "TIFF"), id="TIFF"),
        pytest.param(b"MM\0*" + bytes(100), id="TIFF, big-endian"),
        pytest.param(encoded(SMALL, "PDF"), id="PDF"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', id="SVG"),
        pytest.param(b'<?xml version="1.0"?>\n<!-- 7 -->\n<svg width="9"/>', id="SVG, as XML"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", id="HEIC"),
        pytest.param(b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", id="AVIF"),
        pytest.param(encoded(SMALL, "ICO"), id="icon"),
    ],
)
def test_another_format_is_unsupported_and_the_five_are_named(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaError, match="PNG, JPEG, WebP, BMP or GIF") as caught:
        mnist_pixels(data)
    assert caught.value.status == 415


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png_that_claims(50_000, 50_000), id="png above Pillow's limit"),
        pytest.param(png_that_claims(10_000, 10_000), id="png with a warning of Pillow"),
        pytest.param(png_that_claims(8_000, 5_001), id="png a little above ours"),
        pytest.param(png_that_claims(1, 40_000_000), id="png with more rows than pixels a row"),
        pytest.param(patched(VALID["bmp"], 18, "<ii", 30_000, 30_000), id="bmp"),
        pytest.param(patched(VALID["gif"], 6, "<HH", 60_000, 60_000), id="gif"),
        pytest.param(
            patched(VALID["jpeg"], VALID["jpeg"].index(b"\xff\xc0") + 5, ">HH", 60_000, 60_000),
            id="jpeg",
        ),
    ],
)
def test_a_decompression_bomb_is_too_large(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(image: ImageFile.ImageFile) -> None:
        pytest.fail("decoding started")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(BodyTooLargeError, match="40,000,000") as caught:
        mnist_pixels(data)
    assert caught.value.status == 413


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_too_large_even_if_warnings_are_errors() -> None:
    with pytest.raises(BodyTooLargeError):
        mnist_pixels(png_that_claims(10_000, 10_000))


def test_the_limit_is_an_argument() -> None:
    data = encoded(drawing())
    assert_reads_as_the_two(data)
    assert mnist_pixels(data, max_pixels=280 * 280).max() == 255
    with pytest.raises(BodyTooLargeError, match="78,399"):
        mnist_pixels(data, max_pixels=280 * 280 - 1)


def test_a_text_chunk_bomb_is_bad_input() -> None:
    bomb = b"".join(
        chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(70)
    )
    data = VALID["png"]
    with pytest.raises(BadInputError):
        mnist_pixels(data[:33] + bomb + data[33:])


# Any bytes


def assert_read_or_refused(data: bytes) -> None:
    try:
        pixels = mnist_pixels(data, max_pixels=1_000_000)
    except (BadInputError, BodyTooLargeError, UnsupportedMediaError) as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert pixels.shape == (28, 28)
        assert pixels.dtype == np.uint8
        assert pixels.max() == 255


@property_test
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ServiceError):
        mnist_pixels(data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow warns about many damaged files
@pytest.mark.parametrize("name", VALID)
@property_test
@given(data=st.data())
def test_damaged_files_are_read_or_refused(name: str, data: st.DataObject) -> None:
    file = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(0, 4))):
        # Half of the damage is in the headers.
        offset = data.draw(st.one_of(st.integers(0, 64), st.integers(0, len(file))))
        removed = data.draw(st.integers(0, 4))
        file[offset : offset + removed] = data.draw(st.binary(max_size=4))
    assert_read_or_refused(bytes(file[: data.draw(st.integers(0, len(file)))]))
    assert_read_or_refused(bytes(file))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)], ids=["L", "LA", "RGB", "RGBA"])
@property_test
@given(data=st.data())
def test_any_small_picture_is_read_or_refused(
    channels: tuple[int, ...], data: st.DataObject
) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    assert_read_or_refused(encoded(data.draw(hnp.arrays(np.uint8, (height, width, *channels)))))


# Side effects


@pytest.mark.slow
def test_is_safe_in_threads() -> None:
    files = list(VALID.values()) * 10
    pixels_alone = [mnist_pixels(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(mnist_pixels, files)), pixels_alone)


def test_leaves_pillows_settings_alone() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3
