"""Tests of the recipes for truth tables: the perceptron rule, AND, XOR, and two hidden units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from training.datasets import Dataset, Split, and_table, xor_table
from training.hyperparameters import ColumnHyperparameters
from training.loop import predict, train
from training.publishing import check_result
from training.recipes import RECIPES
from training.runs import RunResult, run_recipe

CPU = torch.device("cpu")
NUMBERS = st.floats(-4, 4, width=32)


def unit_of(network: nn.Module) -> nn.Linear:
    """Return the only unit of a perceptron."""
    return next(layer for layer in network.modules() if isinstance(layer, nn.Linear))


def perceptron(data: Dataset, weights: list[float], bias: float) -> nn.Module:
    recipe = RECIPES[f"perceptron-{data.name}"]
    network = recipe.build(recipe.default, data)
    with torch.no_grad():
        unit_of(network).weight.copy_(torch.tensor([weights]))
        unit_of(network).bias.fill_(bias)
    return network


def ran(name: str, preset: Any, seeds: int, **values: Any) -> RunResult:
    recipe = RECIPES[name]
    hyperparameters = recipe.hyperparameters(preset).override(values)
    return run_recipe(
        recipe, preset, hyperparameters, recipe.load(Path()), seeds=seeds, compare=False,
        device=CPU, progress=False,
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.lists(NUMBERS, min_size=2, max_size=2), NUMBERS, st.sampled_from(range(4)))
def test_a_step_of_the_perceptron_is_its_rule(weights: list[float], bias: float, row: int) -> None:
    table = xor_table()
    x, target = table.train.inputs[row : row + 1], table.train.targets[row : row + 1]
    data = replace(table, train=Split(x, target))
    network = perceptron(data, weights, bias)
    recipe = RECIPES["perceptron-xor"]
    hyperparameters = recipe.hyperparameters("tutorial").override({"epochs": 1})
    assert recipe.loss is not None
    answer = float(np.float32(np.dot(np.float32(weights), x[0].numpy()) + np.float32(bias)) > 0)
    train(
        network, data, hyperparameters, device=CPU, loss=recipe.loss(hyperparameters),
        progress=False,
    )  # fmt: skip
    change = float(target) - answer
    expected = torch.tensor(weights) + change * x[0]
    torch.testing.assert_close(unit_of(network).weight[0], expected)
    torch.testing.assert_close(unit_of(network).bias, torch.tensor([bias + change]))


def test_the_perceptron_rule_learns_and_for_every_seed() -> None:
    for preset in ("tutorial", "default"):
        (figures,) = ran("perceptron-and", preset, seeds=5).seeds
        assert figures.values == (1,) * 5


def test_the_perceptron_rule_makes_errors_on_xor_in_every_epoch() -> None:
    for seed in range(3):
        result = ran("perceptron-xor", "tutorial", seeds=1, seed=seed)
        assert len(result.history.epochs) == 50
        assert max(epoch.metric for epoch in result.history.epochs) <= 0.75
        assert min(epoch.train_loss for epoch in result.history.epochs) > 0


def test_the_default_preset_keeps_the_best_epoch_of_the_perceptron() -> None:
    default = ran("perceptron-xor", "default", seeds=1)
    tutorial = ran("perceptron-xor", "tutorial", seeds=1)
    best = max(epoch.metric for epoch in tutorial.history.epochs)
    assert default.metric == best >= tutorial.metric


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=2), NUMBERS)
def test_no_line_has_more_than_three_points_of_xor_on_the_right_side(
    weights: list[float], bias: float
) -> None:
    data = xor_table()
    answers = predict(perceptron(data, weights, bias), data.test.inputs).argmax(dim=1)
    assert int((answers == data.test.targets).sum()) <= 3


def test_a_line_separates_and() -> None:
    data = and_table()
    answers = predict(perceptron(data, [1.0, 1.0], -1.5), data.test.inputs).argmax(dim=1)
    assert torch.equal(answers, data.test.targets)


@pytest.mark.parametrize("right", [2, 3])
def test_a_perceptron_that_fails_on_xor_may_be_published(right: int, tmp_path: Path) -> None:
    result = ran("perceptron-xor", "tutorial", seeds=1, epochs=1)
    test = result.evaluations[0]
    metrics = {**test.metrics, "accuracy": right / 4}
    measured = replace(result, evaluations=(test.model_copy(update={"metrics": metrics}),))
    check_result(measured, tmp_path, replace=False)


def test_the_tables_are_the_functions_and_each_is_all_splits() -> None:
    for data, function in ((and_table(), int.__and__), (xor_table(), int.__xor__)):
        for split in (data.train, data.validation, data.test):
            rows = zip(split.inputs.int().tolist(), split.targets.tolist(), strict=True)
            assert {(*row, answer) for row, answer in rows} == {
                (a, b, function(a, b)) for a in (0, 1) for b in (0, 1)
            }


@pytest.mark.parametrize("seed", range(2))
def test_two_hidden_units_learn_xor(seed: int) -> None:
    assert ran("xor-mlp", "default", seeds=1, seed=seed).metric == 1


@pytest.mark.parametrize(
    ("name", "answers"),
    [("perceptron-and", [0, 0, 0, 1]), ("xor-mlp", [0, 1, 1, 0])],
)
def test_the_shipped_package_has_learned_its_table(
    name: str, answers: list[int], shipped: Path
) -> None:
    package = ModelRepository(shipped).get(name)
    points = xor_table().test.inputs.numpy()
    for runtime in package.card.runtimes:
        probabilities = open_runtime(package, runtime)({"point": points})["probabilities"]
        assert probabilities.argmax(axis=1).tolist() == answers


def test_the_cards_have_the_figures_of_twenty_seeds(shipped: Path) -> None:
    def solved(name: str, preset: str) -> int:
        seeds = ModelRepository(shipped).get(name).card.seeds
        (figures,) = (entry for entry in seeds if entry.setting == preset)
        assert len(figures.seeds) == 20
        return figures.values.count(1)

    assert solved("perceptron-and", "default") == solved("perceptron-and", "tutorial") == 20
    assert solved("perceptron-xor", "default") == solved("perceptron-xor", "tutorial") == 0
    assert solved("xor-mlp", "default") >= 19


def test_the_loss_is_the_criterion_of_the_perceptron() -> None:
    loss = RECIPES["perceptron-xor"].loss
    assert loss is not None
    logits: Tensor = torch.tensor([[0.0, 2.0], [0.0, -3.0], [0.0, 5.0], [0.0, 0.0]])
    hyperparameters = ColumnHyperparameters(epochs=1, batch_size=1, optimizer="sgd", lr=1)
    assert float(loss(hyperparameters)(logits, torch.tensor([0, 1, 1, 0]))) == 2 + 3
