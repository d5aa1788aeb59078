"""Tests of the checks before publishing, and of checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from models.package.card import Evaluation
from training.datasets import Dataset
from training.evaluation import NotFiniteError, evaluate
from training.history import History
from training.publishing import PublishError, check_result, write_checkpoint
from training.recipes import RECIPES
from training.runs import RunResult
from training.snapshots import read_tensors


def trained(data: Dataset, **metrics: float) -> RunResult:
    """Return a result with the given metrics on the test split."""
    recipe = RECIPES["moons-linear" if data.task == "classification" else "curve-linear"]
    evaluation = Evaluation(data=data.name, split="test", samples=100, metrics=metrics)
    network = nn.Linear(data.train.inputs.shape[1], data.outputs)
    return RunResult(
        recipe, "default", recipe.default, data, network, History(), torch.device("cpu"),
        (evaluation,),
    )  # fmt: skip


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize(
    "metrics",
    [
        {"mse": 1.5e21, "r2": -1e20},
        {"mse": 3e2, "r2": -9.1},
    ],
)
def test_an_absurd_curve_is_never_published(
    metrics: dict[str, float], replaces: bool, curve: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(PublishError):
        check_result(trained(curve, **metrics), tmp_path, replace=replaces)
    check_result(trained(curve, mse=30.0, r2=-0.5), tmp_path, replace=replaces)


def test_classes_below_half_of_chance_are_never_published(moons: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="half of what guessing gives"):
        check_result(trained(moons, accuracy=0.24), tmp_path, replace=True)
    check_result(trained(moons, accuracy=0.26), tmp_path, replace=True)


def test_weights_that_are_not_finite_are_never_published(moons: Dataset, tmp_path: Path) -> None:
    spoiled = trained(moons, accuracy=0.9)
    with torch.no_grad():
        spoiled.network.get_parameter("bias")[1] = float("nan")
    with pytest.raises(PublishError, match="bias are not finite"):
        check_result(spoiled, tmp_path, replace=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_metrics(
    value: float, moons: Dataset, curve: Dataset
) -> None:
    for data in (moons, curve):
        network = nn.Linear(data.train.inputs.shape[1], data.outputs)
        nn.init.constant_(network.bias, value)
        with pytest.raises(NotFiniteError, match="outputs are not finite on "):
            evaluate(network, data, data.test, "test")


def test_a_checkpoint_replaces_the_earlier_checkpoint(moons: Dataset, tmp_path: Path) -> None:
    first = trained(moons, accuracy=0.5)
    path = write_checkpoint(first, tmp_path)
    assert write_checkpoint(replace(first, preset="tutorial"), tmp_path) == path
    weights, record = read_tensors(path)
    assert (record["setting"], record["metrics"]) == ("tutorial", {"accuracy": 0.5})
    assert weights.keys() == first.network.state_dict().keys()
    assert [entry.name for entry in path.parent.iterdir()] == ["moons-linear.safetensors"]
