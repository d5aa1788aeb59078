"""The server of most end-to-end tests, the pictures that they send, and the browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import Visitor, chromium
from live_server import TIMED, Server, serving, temporary_home
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page

from models.package.repository import ModelRepository


@pytest.fixture(scope="session")
def chosen(root: Path, shipped: Path) -> dict[str, str]:
    """The settings for the shipped packages, or for a stand-in, which are timed once."""
    stand_in = {} if shipped == root / "models" else {"FITSERVE_MODEL_REPOSITORY": str(shipped)}
    return TIMED | stand_in


@pytest.fixture(scope="session")
def repository(shipped: Path) -> ModelRepository:
    return ModelRepository(shipped)


@pytest.fixture(scope="session")
def server(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """`bentoml serve` as a user starts it: from the checkout."""
    with temporary_home() as home, serving(home, root, settings=chosen) as started:
        yield started
        faults = re.findall(r"request \S+ failed", started.read_log())
        assert not faults, f"a request failed by the service's own fault; {started.tail()}"


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """A visitor that opens pages, and fails the test if a page did something forbidden."""
    someone = Visitor(browser)
    yield someone
    someone.leave()


@pytest.fixture
def page(visitor: Visitor, server: Server) -> Page:
    """The playground, just opened."""
    return visitor.open(server.url)


@pytest.fixture(scope="session")
def mnist(mnist_folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """MNIST's test images and labels, from the original files."""
    raw = mnist_folder / "MNIST" / "raw"
    images = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8, offset=16)
    labels = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels


STROKES = {
    0: [(50, 15), (32, 30), (28, 50), (32, 70), (50, 85), (68, 70), (72, 50), (68, 30), (50, 15)],
    1: [(50, 15), (50, 85)],
    2: [(30, 35), (35, 22), (50, 17), (65, 22), (70, 36), (60, 52), (40, 68), (30, 82), (72, 82)],
    7: [(28, 20), (72, 20), (55, 50), (45, 84)],
}


@pytest.fixture(scope="session")
def drawn() -> dict[int, Image.Image]:
    """Digits drawn with a pen: black on white, 200 x 200."""
    pictures = {}
    for digit, points in STROKES.items():
        picture = Image.new("L", (200, 200), 255)
        path = [(2 * x, 2 * y) for x, y in points]
        ImageDraw.Draw(picture).line(path, fill=0, width=16, joint="curve")
        pictures[digit] = picture
    return pictures
