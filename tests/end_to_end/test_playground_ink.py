"""Drawn digits: the page converts a hundred recorded drawings to pixels, and the server reads them.

`make_strokes.py` made the recordings. Errors are to be fixed in `ink.js`, not in the recordings.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import draw
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

BOARD = 560
PEN = 36
RIGHT_AT_LEAST = 97
MIDDLE = 14.5  # MNIST's centre of mass, in pixels from the left and the top
RECORDINGS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "support" / "strokes.json").read_text(encoding="utf-8")
)

PIXELS = """async (drawings) => {
  const { pixelsOf } = await import(new URL("playground/ink.js", document.baseURI));
  return JSON.stringify(JSON.parse(drawings).map(({ strokes, pen }) => pixelsOf(strokes, pen)));
}"""
SCRIBBLE = """async (points) => {
  const { pixelsOf } = await import(new URL("playground/ink.js", document.baseURI));
  const place = (t) => [280 + 270 * Math.sin(0.08 * t), 280 + 270 * Math.sin(0.11 * t)];
  const stroke = Array.from({ length: points }, (_, t) => place(t));
  const start = performance.now();
  const pixels = pixelsOf([stroke], 36);
  return { milliseconds: performance.now() - start, inked: pixels.flat().some(Boolean) };
}"""

Pixels = NDArray[np.int64]


def drawing(*strokes: Sequence[Sequence[float]], pen: float = PEN) -> dict[str, Any]:
    return {"strokes": strokes, "pen": pen}


def moved(recording: dict[str, Any], scale: float, x: float, y: float) -> dict[str, Any]:
    """Return the drawing, scaled with its pen and moved."""
    strokes = [[[a * scale + x, b * scale + y] for a, b in s] for s in recording["strokes"]]
    return drawing(*strokes, pen=recording["pen"] * scale)


def pixels_of(page: Page, drawings: Sequence[dict[str, Any]]) -> Pixels:
    """Return the pixels from the page's module: [n, 28, 28]."""
    pixels = np.array(json.loads(page.evaluate(PIXELS, json.dumps(drawings))))
    assert pixels.dtype == np.int64, "a pixel is no whole number"
    assert pixels.shape == (len(drawings), 28, 28)
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    return pixels


def extent(ink: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the numbers of rows and columns of the ink."""
    rows, columns = np.nonzero(ink)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_recordings_are_ten_of_each_digit_in_varied_hands_sizes_and_pens() -> None:
    digits = Counter(recording["digit"] for recording in RECORDINGS)
    assert digits == dict.fromkeys(range(10), 10)
    hands = {recording["hand"] for recording in RECORDINGS}
    assert len(hands) == 10
    points = [np.concatenate(recording["strokes"]) for recording in RECORDINGS]
    assert all(p.min() >= 0 and p.max() <= BOARD for p in points)
    heights = [int(np.ptp(p[:, 1])) for p in points]
    assert min(heights) < 80
    assert max(heights) > 440
    pens = [recording["pen"] for recording in RECORDINGS]
    assert min(pens) == 10
    assert max(pens) == 70
    places = np.array([p.mean(axis=0) for p in points]) / BOARD
    assert (places.min(axis=0) < 0.2).all()
    assert (places.max(axis=0) > 0.75).all()


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_recorded_drawings_are_recognised(page: Page, client: httpx.Client, model: str) -> None:
    count_right(page, client, model, RECORDINGS)


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp"])
def test_small_digits_with_a_broad_pen_are_recognised(
    page: Page, client: httpx.Client, model: str
) -> None:
    # The line is then about as broad as the digit; the strokes still define the digit.
    small = [
        {**r, "strokes": [[[round(x / 5), round(y / 5)] for x, y in s] for s in r["strokes"]]}
        for r in RECORDINGS
    ]
    count_right(page, client, model, small)


def count_right(
    page: Page, client: httpx.Client, model: str, recordings: Sequence[dict[str, Any]]
) -> None:
    """Check that the server reads the recordings correctly, and name the others."""
    images = pixels_of(page, recordings).tolist()
    response = client.post("/classify_digits", json={"images": images, "model": model})
    assert response.status_code == 200, response.text
    read = [prediction["digit"] for prediction in response.json()["predictions"]]
    wrong = [
        f"{recording['hand']}: a {recording['digit']} is read as {digit}"
        for recording, digit in zip(recordings, read, strict=True)
        if digit != recording["digit"]
    ]
    print(f"{model}: {len(read) - len(wrong)} of {len(read)} right; wrong: {wrong}")
    assert len(read) - len(wrong) >= RIGHT_AT_LEAST, "\n".join(wrong)


@pytest.mark.parametrize("digit", range(10))
def test_digit_drawn_with_the_mouse_is_recognised(page: Page, digit: int) -> None:
    recording = RECORDINGS[11 * digit]  # each digit by another hand
    assert recording["digit"] == digit
    expect(page.locator("#digit-network")).to_have_value("mnist-cnn")
    page.locator("#pen").fill(str(recording["pen"]))
    percent = 100 / BOARD
    strokes = [[(percent * x, percent * y) for x, y in stroke] for stroke in recording["strokes"]]
    draw(page, *strokes, steps=1)
    shown = page.locator(".answer[data-model='mnist-cnn'] .prediction b")
    expect(shown).to_have_text(str(digit))
    page.wait_for_timeout(500)  # the prediction follows the drawing: the last one counts
    expect(shown).to_have_text(str(digit))


def test_size_and_position_do_not_matter(page: Page) -> None:
    pixels = pixels_of(page, RECORDINGS)
    far = 0.7 * BOARD
    for scale, x, y in ((0.3, 0, 0), (0.3, far, 0), (0.3, 0, far), (0.3, far, far), (2, -200.5, 7)):
        elsewhere = pixels_of(page, [moved(r, scale, x, y) for r in RECORDINGS])
        assert np.abs(elsewhere - pixels).max() <= 1


def test_a_drawing_fills_mnists_box_and_is_centred_by_mass(page: Page) -> None:
    pixels = pixels_of(page, RECORDINGS)
    places = np.arange(28) + 0.5
    for image in pixels:
        assert 19 <= max(extent(image >= 128)) <= 21
        assert max(extent(image > 0)) <= 22  # plus a partly covered pixel on both sides
        x = (image.sum(axis=0) * places).sum() / image.sum()
        y = (image.sum(axis=1) * places).sum() / image.sum()
        assert abs(x - MIDDLE) < 0.25
        assert abs(y - MIDDLE) < 0.25


def test_lines_are_as_wide_and_as_soft_as_mnists(page: Page) -> None:
    # The bounds are around the means of the training images, see `ink.js`.
    pixels = pixels_of(page, RECORDINGS)
    inked = pixels > 0
    assert 31 < pixels.mean() < 36
    assert 168 < pixels[inked].mean() < 178
    assert 0.3 < (pixels >= 252).sum() / inked.sum() < 0.4
    line = pixels_of(page, [drawing([[100, 280], [400, 280]], pen=pen) for pen in (10, 70)])
    assert (line[0] == line[1]).all(), "the pen that one draws with changes the picture"
    assert line[0].sum(axis=0).max() == pytest.approx(2.5 * 255, rel=0.05)


def test_an_empty_board_is_all_background(page: Page) -> None:
    assert not pixels_of(page, [drawing(), drawing([])]).any()


def test_taps_are_dots(page: Page) -> None:
    point = [50.0, 60.0]
    once, twice, shaky = pixels_of(
        page, [drawing([point]), drawing([point, point]), drawing([point, [51.0, 62.0]])]
    )
    assert (once == twice).all()
    assert once.max() == 255
    assert extent(once > 0) == (3, 3)
    assert max(extent(shaky > 0)) <= 5


def test_one_sided_drawing_stays_in_the_picture(page: Page) -> None:
    scribble = [[x % 2 * 120.0, 4.0 * x] for x in range(30)]
    dot = [[540.0, 60.0]]
    alone, mirrored = pixels_of(
        page,
        [
            drawing(scribble, dot),
            drawing([[540 - x, y] for x, y in scribble], [[540 - x, y] for x, y in dot]),
        ],
    )
    whole_dot = pixels_of(page, [drawing(dot)])[0].sum()
    assert alone[:, 22:].sum() == pytest.approx(whole_dot, rel=0.05)
    assert mirrored[:, :6].sum() == pytest.approx(whole_dot, rel=0.05)


def test_a_huge_scribble_does_not_block_the_page(page: Page) -> None:
    def fastest(points: int) -> float:
        return min(page.evaluate(SCRIBBLE, points)["milliseconds"] for _ in range(3))

    assert fastest(20_000) < 30 * fastest(2_000)  # ten times as many, not a hundred
    assert page.evaluate(SCRIBBLE, 200_000)["inked"]  # more than the maximum arguments of a call
