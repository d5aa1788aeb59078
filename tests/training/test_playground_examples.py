"""Tests of the playground's examples: they are from the stated data, and the hard ones are hard."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from training import playground_examples
from training.datasets import Dataset


@pytest.fixture(scope="module")
def committed(root: Path) -> dict[str, Any]:
    examples: dict[str, Any] = json.loads((root / playground_examples.FILE).read_text())
    return examples


def pixels_of(digits: list[dict[str, Any]]) -> NDArray[np.uint8]:
    rows = [np.frombuffer(base64.b64decode(digit["pixels"]), np.uint8) for digit in digits]
    return np.stack(rows).reshape(-1, 28, 28)


def answers(shipped: Path, name: str, images: NDArray[np.uint8]) -> list[int]:
    network = open_runtime(ModelRepository(shipped).get(name), "onnx")
    classes: list[int] = network({"image": images})["probabilities"].argmax(axis=1).tolist()
    return classes


@pytest.mark.slow
def test_the_file_is_what_the_command_writes(root: Path, shipped: Path, mnist: Dataset) -> None:
    made = playground_examples.examples(mnist.test, ModelRepository(shipped))
    assert (root / playground_examples.FILE).read_text() == playground_examples.as_text(made)


def test_the_file_is_small_and_names_the_source_of_the_digits(
    root: Path, committed: dict[str, Any]
) -> None:
    assert (root / playground_examples.FILE).stat().st_size < 40_000
    assert "MNIST" in committed["source"]
    assert "Attribution-ShareAlike 3.0" in committed["source"]


def test_the_file_has_a_digit_of_each_class_from_the_test_split(
    committed: dict[str, Any],
) -> None:
    assert [digit["label"] for digit in committed["digits"]] == list(range(10))
    for digit in committed["digits"] + committed["hard"]:
        assert set(digit) == {"index", "label", "pixels"}
        assert 0 <= digit["index"] < 10_000
        assert digit["label"] in range(10)
        assert len(base64.b64decode(digit["pixels"], validate=True)) == 784
    images = pixels_of(committed["digits"] + committed["hard"])
    assert images.max(axis=(1, 2)).min() > 200  # ink
    assert images.mean(axis=(1, 2)).max() < 100  # on black


def test_both_networks_classify_the_digits_of_each_class_correctly(
    committed: dict[str, Any], shipped: Path
) -> None:
    images = pixels_of(committed["digits"])
    assert answers(shipped, "mnist-mlp", images) == list(range(10))
    assert answers(shipped, "mnist-cnn", images) == list(range(10))


def test_the_two_networks_disagree_on_every_hard_digit(
    committed: dict[str, Any], shipped: Path
) -> None:
    images = pixels_of(committed["hard"])
    first, second = (answers(shipped, name, images) for name in ("mnist-mlp", "mnist-cnn"))
    assert all(a != b for a, b in zip(first, second, strict=True)), (first, second)
    indices = [digit["index"] for digit in committed["hard"]]
    assert indices == sorted(set(indices))
    assert 10 <= len(indices) <= 14
    assert indices[-1] - indices[0] > 5_000  # from the whole split


def test_curve_and_points_are_the_training_splits(
    committed: dict[str, Any], curve: Dataset, moons: Dataset, request: pytest.FixtureRequest
) -> None:
    x, y = (np.array(committed["curve"][name]) for name in "xy")
    np.testing.assert_allclose(x, curve.train.inputs[:, 0], atol=6e-4)
    np.testing.assert_allclose(y, curve.train.targets[:, 0], atol=6e-4)
    for data in (moons, *map(request.getfixturevalue, ("and", "xor"))):
        points = committed[data.name]
        np.testing.assert_allclose(points["points"], data.train.inputs, atol=6e-3)
        assert points["labels"] == data.train.targets.tolist()
