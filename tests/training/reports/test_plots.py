"""Tests of the pictures of a report: each has content, and none changes global state."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from training.datasets import Dataset, Split
from training.evaluation import evaluate
from training.history import Epoch, History
from training.recipes import RECIPES
from training.reports.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    confident_mistakes,
    confusion,
    decision_surface,
    fitted_curve,
    importances,
    loss_curves,
)

BLUE_BYTES = (0x25, 0x63, 0xA8)


def history(epochs: int = 5) -> History:
    entries = [
        Epoch(number, 0.01, 2.0 / number, 2.5 / number, 0.9) for number in range(1, epochs + 1)
    ]
    return History(epochs=entries, kept=entries[-1], seconds=1.0)


def pixels(png: bytes) -> NDArray[Any]:
    """Check that the picture is a PNG of a plausible size; return its pixels [height, width, 3]."""
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert 200 <= picture.width <= 1_600
    assert 100 <= picture.height <= 1_200
    picture.load()
    return np.asarray(picture.convert("RGB"))


def assert_has_content(png: bytes) -> None:
    values = pixels(png)
    assert values.std() > 5
    assert len(np.unique(values.reshape(-1, 3), axis=0)) > 20
    assert 2_000 < len(png) < 300_000


def share_of_orange(png: bytes) -> float:
    """Return the share of orange pixels of any lightness."""
    red, _, blue = np.moveaxis(pixels(png).astype(int), -1, 0)
    return float((red - blue > 40).mean())


def built(name: str, data: Dataset) -> nn.Module:
    torch.manual_seed(0)
    recipe = RECIPES[name]
    return recipe.build(recipe.default, data).eval()


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("mnist-mlp", {"confusion-matrix", "confident-mistakes"}),
        ("curve-tanh", {"fitted-curve"}),
        ("moons-tanh", {"confusion-matrix", "decision-surface"}),
        ("perceptron-xor", {"decision-surface"}),
    ],
)
def test_every_kind_of_network_has_its_pictures_with_content(
    name: str, pictures: set[str], request: pytest.FixtureRequest
) -> None:
    recipe = RECIPES[name]
    data = request.getfixturevalue("few_digits" if recipe.data == "mnist" else str(recipe.data))
    network = built(name, data)
    evaluation = evaluate(network, data, data.test, "test")
    images = recipe.pictures(network, data, evaluation)
    assert set(images) == pictures
    for png in images.values():
        assert_has_content(png)


def test_pictures_do_not_change_the_global_state_of_matplotlib(
    moons: Dataset, curve: Dataset
) -> None:
    with mpl.rc_context():
        mpl.rcdefaults()  # so that changes by an earlier picture do not hide a failure
        before, backend = dict(mpl.rcParams), mpl.get_backend()
        loss_curves(history(), "classification")
        fitted_curve(built("curve-tanh", curve), curve)
        decision_surface(built("moons-tanh", moons), moons)
        assert dict(mpl.rcParams) == before
        assert plt.get_fignums() == []
        assert mpl.get_backend() == backend


def test_a_picture_that_fails_does_not_change_the_global_state(moons: Dataset) -> None:
    incomplete = replace(moons, labels=("only one",))
    with mpl.rc_context():
        mpl.rcdefaults()
        before = dict(mpl.rcParams)
        with pytest.raises(ValueError, match="zip"):
            decision_surface(built("moons-tanh", moons), incomplete)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_loss_curves_are_drawn_for_any_number_of_epochs(epochs: int) -> None:
    assert_has_content(loss_curves(history(epochs), "classification"))


def test_the_kept_epoch_is_marked() -> None:
    entries = history().epochs
    unmarked = loss_curves(History(epochs=entries), "regression")
    marked = loss_curves(History(epochs=entries, kept=entries[2]), "regression")
    assert share_of_orange(unmarked) == 0 < share_of_orange(marked)


def test_the_picture_of_a_search_marks_its_best_trial() -> None:
    shares = {"lr": 0.7, "hidden.0": 0.2, "activation": 0.1, "dropout": 0.0}
    drawn = {
        "lr": [0.001, 0.01, 0.1], "hidden.0": [8, 16, 8], "activation": ["relu", "tanh", "tanh"],
        "dropout": [0.0, 0.1, 0.2],
    }  # fmt: skip
    results = [3.0, 1.0, 2.0]
    logarithmic = ["lr", "hidden.0"]
    png = importances(shares, drawn, results, "validation loss", 1, logarithmic)
    assert_has_content(png)
    lowest = pixels(png)[pixels(png).shape[0] // 2 :].astype(int)
    orange = np.abs(lowest - np.array((0xD9, 0x77, 0x2B))).max(axis=-1) < 24
    blue = np.abs(lowest - np.array(BLUE_BYTES)).max(axis=-1) < 24
    assert orange.any()
    assert np.flatnonzero(orange.any(axis=1)).mean() > np.flatnonzero(blue.any(axis=1)).mean()


def test_the_picture_of_a_search_of_one_hyperparameter_is_drawn() -> None:
    assert_has_content(importances({"rescale": 1.0}, {"rescale": ["True"] * 2}, [1, 2], "score", 0))


class Constant(nn.Module):
    """A network with the same logits for every row."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        return self.logits.expand(len(inputs), -1)


class Oracle(nn.Module):
    """A network that returns the true class of each row of a split."""

    def __init__(self, split: Split, classes: int) -> None:
        super().__init__()
        self.answers = nn.functional.one_hot(split.targets, classes) * 9.0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        return self.answers[: len(inputs)]


def test_a_network_without_mistakes_has_its_pictures(few_digits: Dataset) -> None:
    oracle = Oracle(few_digits.test, 10)
    evaluation = evaluate(oracle, few_digits, few_digits.test, "test")
    assert evaluation.metrics["accuracy"] == 1
    assert_has_content(confusion(evaluation))
    heading_only = confident_mistakes(oracle, few_digits)
    assert pixels(heading_only).min() < 100  # the heading
    mistaken = confident_mistakes(Constant(*[5.0] + [0.0] * 9), few_digits)
    assert pixels(mistaken).std() > pixels(heading_only).std()


def test_a_single_mistake_is_shown(few_digits: Dataset) -> None:
    oracle = Oracle(few_digits.test, 10)
    none = confident_mistakes(oracle, few_digits)
    oracle.answers[3] = oracle.answers[3].roll(1)
    assert pixels(confident_mistakes(oracle, few_digits)).std() > pixels(none).std()


def test_only_mistakes_are_coloured_in_the_confusion_matrix(
    few_digits: Dataset,
) -> None:
    oracle = Oracle(few_digits.test, 10)
    right = confusion(evaluate(oracle, few_digits, few_digits.test, "test"))
    mistaken = Constant(*[5.0] + [0.0] * 9)
    wrong = confusion(evaluate(mistaken, few_digits, few_digits.test, "test"))
    assert share_of_orange(right) < 0.001
    assert share_of_orange(wrong) > 0.01


def test_the_decision_surface_shows_the_class_of_each_side(moons: Dataset) -> None:
    def surface(network: nn.Module) -> NDArray[Any]:
        """Return the left and the right part of the plane, without axes and legend."""
        picture = pixels(decision_surface(network, moons)).astype(int)
        height, width, _ = picture.shape
        below = picture[int(height * 0.75) : int(height * 0.85)]
        return np.stack([below[:, int(width * share)].mean(axis=0) for share in (0.15, 0.7)])

    side = nn.Linear(2, 2)  # the second class is on the right
    with torch.no_grad():
        side.weight.copy_(torch.tensor([[-20.0, 0.0], [20.0, 0.0]]))
        side.bias.copy_(torch.tensor([10.0, -10.0]))
    left, right = surface(side)
    assert left[2] > left[0] + 50  # blue
    assert right[0] > right[2] + 50  # orange


def test_the_fitted_curve_is_drawn_at_the_network_s_outputs(curve: Dataset) -> None:
    def line(height: float) -> float:
        """Return the blue line's distance from the top, for a constant network."""
        png = fitted_curve(Constant(height), curve)
        picture = pixels(png).astype(int)
        # The plot's middle, away from the legend.
        strip = picture[:, int(picture.shape[1] * 0.6) : int(picture.shape[1] * 0.8)]
        blue = (np.abs(strip - np.array(BLUE_BYTES)).max(axis=-1) < 24).any(axis=1)
        return float(np.flatnonzero(blue).mean() / len(blue))

    assert line(2.0) > line(10.0) + 0.15


def test_the_pictures_have_the_colours_of_the_page() -> None:
    style = (
        Path(__file__).parents[3] / "service" / "api" / "static" / "playground" / "style.css"
    ).read_text()
    light = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", style.partition("@media")[0]))
    assert {name: light[name] for name in ("ink", "blue", "orange", "grey")} == {
        "ink": INK, "blue": BLUE, "orange": ORANGE, "grey": GREY,
    }  # fmt: skip
