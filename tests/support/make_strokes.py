"""Create `strokes.json`: a hundred drawn digits, ten hands with ten digits each.

The shape of every digit was designed by eye, point by point, for each hand. This script imitates a
hand and a pointer: it displaces the points a little, joins them in a curve, slants, scales and
places the digit on the board of 560 x 560 units, draws with a speed that falls in bends, trembles,
and reports the position every few milliseconds. The drawings were reviewed by eye before any
network saw them, and have not changed since. The same seed creates the same file:

    python tests/support/make_strokes.py
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOARD = 560
MARGIN = 6
SEED = 5

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Hand:
    """A way of drawing, and its ten digits.

    A digit is written as points "x,y" in a frame of about 60 x 100, y downwards; "|" lifts the pen,
    "!" makes a corner of a point.
    """

    name: str
    digits: tuple[str, ...]
    heights: tuple[int, int]  # height of the digits on the board, in its units
    pens: tuple[int, int]
    where: tuple[float, float, float, float]  # left, top, right, bottom share of the board
    slant: float  # to the right, per height
    care: float  # displacement of the points, in the frame of the digit
    speed: float  # board units per second, on a straight line
    tremor: float  # board units
    interval: float  # milliseconds between two reports of the pointer
    angular: bool = False


ANYWHERE = (0.0, 0.0, 1.0, 1.0)

HANDS = (
    Hand(
        "round school hand",
        (
            "36,2 14,12 3,38 4,68 18,92 38,98 58,86 66,58 62,26 48,6 34,3",
            "34,2 35,50 36,99",
            "6,26 12,8 32,1 54,8 60,26 50,46 30,66 4,97! 34,95 66,96",
            "6,14 26,1 50,6 56,24 46,40 26,46! 50,50 64,66 58,88 36,99 14,95 2,82",
            "40,2 22,34 2,64! 36,63 70,62|50,36 50,68 49,100",
            "14,4 12,24 8,46! 28,38 50,42 62,62 56,86 34,98 12,94 2,82|14,4 36,5 60,3",
            "50,3 28,14 10,40 4,68 14,92 34,99 54,90 60,70 46,54 26,54 8,70",
            "2,5 30,3 64,4! 50,30 34,64 26,99",
            "52,16 36,2 16,8 12,26 30,44 52,58 60,80 44,98 20,96 8,78 18,58 40,42 54,26 51,14",
            "56,20 40,3 18,6 6,24 12,42 30,48 50,38 58,16! 57,40 56,70 54,99",
        ),
        heights=(260, 420),
        pens=(30, 42),
        where=ANYWHERE,
        slant=0.0,
        care=1.0,
        speed=700,
        tremor=1.0,
        interval=12,
    ),
    Hand(
        "angular and quick",
        (
            "40,0 12,18 4,56 16,92 42,100 62,70 60,28 36,-4",
            "10,30 34,0 30,100",
            "4,22 30,0 56,14 48,44 0,96 62,90",
            "4,4 56,2 26,40 58,62 40,94 2,98",
            "24,0 4,56 64,52|46,20 40,100",
            "60,2 16,4 10,44 46,42 56,72 34,98 0,94",
            "44,0 14,44 6,86 36,100 56,76 40,58 10,72",
            "0,8 60,0 22,100",
            "54,10 20,6 14,30 56,72 34,100 6,82 50,28 50,2",
            "52,14 24,2 6,28 26,48 54,20 52,16 34,100",
        ),
        heights=(170, 330),
        pens=(18, 34),
        where=ANYWHERE,
        slant=0.08,
        care=2.5,
        speed=2600,
        tremor=1.5,
        interval=16,
        angular=True,
    ),
    Hand(
        "slanted, with loops",
        (
            "44,4 20,8 4,40 8,84 30,98 54,80 62,40 50,10 32,4 24,16 40,22 60,10",
            "6,38 24,22 40,0! 38,40 36,98",
            "8,20 22,2 46,4 54,24 40,56 18,84 4,94 2,84 14,78 34,92 54,98 70,88",
            "10,14 28,0 50,8 50,28 34,42 24,46 22,40 34,42 54,54 58,78 38,98 12,96 2,82",
            "22,0 14,28 4,54 20,58 44,52 62,48|54,16 48,50 44,100",
            "18,4 14,22 8,42 26,38 48,46 54,72 38,96 12,98 0,86|18,4 38,8 62,0",
            "54,0 28,20 8,56 6,86 26,100 48,88 52,66 36,54 14,66 8,84",
            "4,14 10,2 26,8 44,8 62,0! 44,36 30,70 22,102",
            "50,8 30,0 14,14 20,34 40,52 50,74 38,96 14,96 4,78 16,56 40,38 54,18 48,4 40,2",
            "54,12 36,0 14,12 6,34 18,50 38,42 54,14! 50,46 40,82 22,102 4,96",
        ),
        heights=(220, 400),
        pens=(22, 40),
        where=ANYWHERE,
        slant=0.28,
        care=1.5,
        speed=1300,
        tremor=0.8,
        interval=10,
    ),
    Hand(
        "narrow and upright, European",
        (
            "24,0 8,14 2,46 6,84 22,100 38,86 44,50 38,14 22,1",
            "0,44 18,22 34,0! 34,50 35,100",
            "2,18 10,4 24,0 38,8 40,26 30,50 14,76 0,98! 24,97 46,98",
            "4,10 20,0 36,8 38,26 28,42 14,46! 32,50 44,66 40,88 24,100 8,96 0,86",
            "26,0 14,34 0,70! 24,70 50,68|32,46 31,76 30,102",
            "10,2 8,22 6,44! 20,40 36,46 42,66 36,90 20,100 4,96 -2,86|9,3 24,3 42,1",
            "34,2 18,22 6,52 2,80 12,98 26,100 40,86 40,68 26,58 12,64 4,80",
            "0,4 22,5 46,2! 32,38 20,74 14,102|6,52 24,50 44,47",
            "24,0 8,8 4,26 14,42 28,44 40,32 40,14 28,1 22,0"
            "|24,46 8,56 0,76 8,96 26,102 42,90 44,66 34,50 24,46",
            "40,14 26,0 8,8 2,30 14,48 30,44 40,24 42,10! 43,40 40,78 28,100 10,100 0,90",
        ),
        heights=(180, 440),
        pens=(16, 38),
        where=ANYWHERE,
        slant=0.03,
        care=1.5,
        speed=950,
        tremor=0.8,
        interval=12,
    ),
    Hand(
        "a child's, large and shaky",
        (
            "34,6 10,22 2,56 16,90 46,98 72,78 74,38 64,14 50,3",
            "20,4 22,36 18,70 22,100",
            "6,34 8,12 30,0 54,12 56,36 40,58 20,78 0,92 20,94 44,88 70,96",
            "4,20 20,4 46,4 58,22 44,42 22,46 20,50 48,52 66,72 52,96 22,100 0,84",
            "14,4 12,30 8,54! 34,56 66,52|48,2 50,40 46,100",
            "12,8 10,30 14,46 38,40 58,54 60,78 40,98 14,96 0,86|10,6 34,10 64,4",
            "30,0 16,26 6,56 6,84 28,102 54,92 58,68 40,56 18,64 8,78",
            "0,10 24,6 58,8! 52,34 40,66 36,98",
            "32,2 14,10 12,30 28,42 48,34 50,14 36,2 26,6"
            "|30,44 6,56 2,82 24,100 54,94 60,68 44,48 26,46",
            "40,8 16,6 4,24 14,46 38,46 50,26 42,8 34,6|52,4 52,40 50,72 52,102",
        ),
        heights=(360, 480),
        pens=(26, 50),
        where=ANYWHERE,
        slant=-0.04,
        care=2.5,
        speed=480,
        tremor=7.0,
        interval=16,
    ),
    Hand(
        "small and careful, at the top left",
        (
            "30,6 10,16 2,44 8,80 28,96 50,86 58,52 50,18 32,5",
            "16,14 28,2! 28,50 28,98|12,98 28,98 46,98",
            "2,24 10,6 30,0 48,8 52,26 42,44 20,68 0,98! 28,98 56,98",
            "2,2 28,2 54,2! 40,20 24,40! 44,42 58,58 58,78 44,96 20,98 0,88",
            "46,100 46,50 46,0! 22,34 0,70! 34,70 64,70",
            "54,2 30,2 10,2! 8,24 6,44! 26,36 48,42 58,64 52,88 30,98 8,94 0,84",
            "48,6 34,0 14,18 4,50 4,76 16,96 36,98 54,84 56,64 42,50 22,50 6,66",
            "2,12 2,2! 30,2 58,2! 40,32 28,64 24,100",
            "50,20 40,4 22,0 8,12 10,30 28,44 46,56 56,76 46,96 26,100 6,90 2,72 14,54"
            " 32,44 46,32 50,16",
            "52,30 40,46 20,48 4,34 6,12 24,0 44,6 54,26 54,52 46,82 30,98 8,96",
        ),
        heights=(60, 110),
        pens=(10, 12),
        where=(0.0, 0.0, 0.35, 0.35),
        slant=0.05,
        care=1.0,
        speed=260,
        tremor=0.6,
        interval=14,
    ),
    Hand(
        "left-handed, slanted backward",
        (
            "30,2 54,14 64,46 56,82 34,100 12,88 2,54 8,20 28,0 40,4",
            "20,0 22,48 24,100",
            "8,18 20,2 44,0 56,16 50,40 30,66 8,90 0,84 12,78 34,90 64,94",
            "4,6 28,0 50,10 48,32 22,42! 52,46 64,70 50,94 24,100 0,92",
            "62,56 30,58 6,58! 8,30 12,0|50,12 52,56 54,102",
            "60,4 34,2 12,4! 10,26 8,42 30,40 52,52 56,78 40,98 14,98 0,88",
            "46,2 20,16 4,46 2,78 18,98 46,100 66,84 62,62 40,52 16,60 6,76",
            "4,2 32,4 62,0! 54,32 46,64 44,100|64,46 44,50 28,50",
            "34,46 14,30 18,6 40,0 58,12 54,32 34,46 10,62 4,84 24,100 48,96 60,76 52,58 34,46",
            "54,24 34,2 10,10 4,32 20,48 44,42 56,22 58,40 60,70 60,100",
        ),
        heights=(200, 380),
        pens=(20, 44),
        where=(0.3, 0.0, 1.0, 1.0),
        slant=-0.22,
        care=2.0,
        speed=1000,
        tremor=1.2,
        interval=8,
    ),
    Hand(
        "wide and jerky, on a trackpad",
        (
            "46,8 14,20 0,54 18,90 58,96 88,72 86,32 60,6 36,10",
            "4,30 22,6 26,2! 24,50 26,98|2,100 26,98 52,97",
            "4,24 18,4 50,2 68,20 52,50 8,92! 36,88 84,92",
            "6,10 36,0 66,12 58,36 30,44! 66,54 76,78 46,98 4,92",
            "46,2 4,60! 40,62 86,58|62,30 60,100",
            "78,4 16,6! 14,42! 48,36 76,54 70,84 36,98 2,88",
            "62,2 24,28 4,66 20,96 56,98 76,76 54,56 16,70",
            "2,6 40,8 84,2! 50,50 34,100",
            "66,14 38,0 12,16 34,42 66,64 62,92 26,100 6,80 32,50 62,28 60,8",
            "68,18 36,0 8,20 26,48 62,36 70,10! 66,60 54,98",
        ),
        heights=(110, 240),
        pens=(12, 26),
        where=(0.0, 0.3, 1.0, 1.0),
        slant=0.06,
        care=3.0,
        speed=1500,
        tremor=3.0,
        interval=16,
    ),
    Hand(
        "a finger, with a broad pen",
        (
            "40,4 16,16 4,50 14,86 40,98 66,84 74,48 62,14 38,2 22,10",
            "20,0 18,50 16,100",
            "10,20 30,2 56,10 54,36 32,64 8,92! 36,94 70,90",
            "10,8 38,0 58,18 32,44 62,56 66,82 38,100 6,90",
            "52,100 52,50 54,2! 28,36 4,66! 40,68 74,66",
            "62,2 18,4! 14,44! 44,40 64,64 48,94 10,96",
            "52,0 20,32 6,72 22,98 54,94 60,68 36,58 12,76",
            "4,4 36,6 66,2! 48,48 36,100|26,52 62,48",
            "56,14 34,0 14,16 34,44 62,72 44,98 16,92 14,68 40,44 60,20 46,4",
            "60,16 36,2 10,18 16,44 44,46 60,20! 58,56 48,98",
        ),
        heights=(250, 460),
        pens=(56, 70),
        where=ANYWHERE,
        slant=0.1,
        care=2.0,
        speed=1700,
        tremor=2.0,
        interval=16,
    ),
    Hand(
        "as on a form",
        (
            "30,0 10,10 4,30 4,70 12,92 30,100 48,92 56,70 56,30 50,10 32,0",
            "8,20 30,0! 30,100|8,100 52,100",
            "4,30 10,8 30,0 50,8 56,28 46,50 4,100! 60,100",
            "4,0 56,0! 28,38! 50,44 60,66 52,90 28,100 6,94 0,82",
            "42,0 2,68! 66,68|46,0 46,100",
            "54,0 10,0! 6,46! 26,36 50,44 58,68 48,92 26,100 0,88",
            "44,0 8,58 2,74 12,94 30,100 50,92 58,72 48,54 30,48 12,56",
            "2,0 60,0! 20,100",
            "30,0 12,8 8,24 16,40 30,46 46,40 52,24 46,8 30,0"
            "|30,46 8,56 2,74 10,92 30,100 50,92 58,74 52,56 30,46",
            "58,28 48,46 28,50 8,42 2,24 12,6 32,0 50,8 58,28 52,46 18,100",
        ),
        heights=(130, 300),
        pens=(12, 30),
        where=ANYWHERE,
        slant=0.0,
        care=0.8,
        speed=600,
        tremor=0.5,
        interval=12,
    ),
)


def recordings() -> list[dict[str, object]]:
    """Return all drawings as in the file: whole numbers, in units of the board."""
    random = np.random.default_rng(SEED)
    made: list[dict[str, object]] = []
    for hand in HANDS:
        for digit, written in enumerate(hand.digits):
            pen = int(random.integers(hand.pens[0], hand.pens[1] + 1))
            strokes = [_curve(stroke, hand, random) for stroke in written.split("|")]
            strokes = _placed(strokes, hand, pen, random)
            reported = [_reported(stroke, hand, random) for stroke in strokes]
            made.append({"digit": digit, "hand": hand.name, "pen": pen, "strokes": reported})
    return made


def _curve(written: str, hand: Hand, random: np.random.Generator) -> Points:
    """Return the line through the points of one stroke, finely sampled: [n, 2]."""
    pieces: list[list[Points]] = [[]]
    for word in written.split():
        meant = np.array([float(value) for value in word.rstrip("!").split(",")])
        point = meant + random.normal(0, hand.care, 2)
        pieces[-1].append(point)
        if word.endswith("!"):
            pieces.append([point])
    smooth = _cut if hand.angular else _spline
    return np.concatenate([smooth(np.array(piece)) for piece in pieces if len(piece) > 1])


def _spline(points: Points) -> Points:
    """Return a Catmull-Rom spline through the points."""
    ends = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 24)[:, None]
    parts = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
        parts.append((cubic + (3 * b - a - 3 * c + d) * t**3) / 2)
    return np.concatenate(parts)


def _cut(points: Points) -> Points:
    """Return straight lines whose corners are cut twice (Chaikin)."""
    for _ in range(2):
        near = 0.85 * points[:-1] + 0.15 * points[1:]
        far = 0.15 * points[:-1] + 0.85 * points[1:]
        middle = np.stack([near, far], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], middle[1:-1], points[-1:]])
    t = np.linspace(0, 1, 24)[:, None]
    return np.concatenate([a + (b - a) * t for a, b in pairwise(points)])


def _placed(
    strokes: list[Points], hand: Hand, pen: int, random: np.random.Generator
) -> list[Points]:
    """Slant, rotate and scale the strokes, and place them so that the whole digit fits."""
    turn = random.normal(0, 0.05)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    slanted = np.array([[1, -hand.slant], [0, 1]])
    strokes = [stroke @ (turned @ slanted).T for stroke in strokes]
    every = np.concatenate(strokes)
    low, extent = every.min(axis=0), np.ptp(every, axis=0)
    room = BOARD - 2 * MARGIN - pen
    height = min(random.uniform(*hand.heights), room / max(1, extent[0] / extent[1]))
    scale = height / extent[1]
    left, top, right, bottom = hand.where
    share = random.uniform((left, top), (right, bottom))
    corner = MARGIN + pen / 2 + share * (room - extent * scale)
    return [(stroke - low) * scale + corner for stroke in strokes]


def _reported(stroke: Points, hand: Hand, random: np.random.Generator) -> list[list[int]]:
    """Return the positions of the pointer, every few milliseconds along the stroke."""
    steps = np.diff(stroke, axis=0)
    lengths = np.hypot(*steps.T)
    stroke, steps = stroke[np.append(True, lengths > 1e-6)], steps[lengths > 1e-6]
    lengths = lengths[lengths > 1e-6]
    along = np.append(0, np.cumsum(lengths))
    turned = np.abs(np.diff(np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])), prepend=0))
    turned[0] = 0
    bend = np.convolve(turned, np.ones(9), "same")  # a hand slows down before a bend
    swing = 0.35 + 0.65 * np.sin(np.pi * (along[:-1] + along[1:]) / 2 / along[-1])
    speed = hand.speed * swing / (1 + 1.2 * bend)
    seconds = np.append(0, np.cumsum(lengths / speed))
    step = hand.interval / 1000
    clock = np.arange(0, seconds[-1], step)
    clock = np.append(clock + random.uniform(0, 0.2 * step, len(clock)) * (clock > 0), seconds[-1])
    places = np.stack([np.interp(clock, seconds, axis) for axis in stroke.T], axis=1)
    for axis in range(2):  # a hand trembles slowly and quickly, and a pointer is not exact
        for rate, share in ((1.5, 0.7), (4, 0.5), (9, 0.3)):
            phase = random.uniform(0, 2 * np.pi)
            places[:, axis] += hand.tremor * share * np.sin(2 * np.pi * rate * clock + phase)
    places += random.normal(0, 0.2 * hand.tremor, places.shape)
    return [[int(x), int(y)] for x, y in np.clip(places.round(), 0, BOARD)]


if __name__ == "__main__":
    lines = [json.dumps(recording, separators=(",", ":")) for recording in recordings()]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    Path(__file__).with_name("strokes.json").write_text(text)
