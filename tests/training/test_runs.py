"""Tests of the runs of recipes: seeds, presets, the unused test split, and the metrics.

The last part trains the real recipes on their real data and checks the bounds for every seed.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.package.card import SeedFigures
from training import datasets
from training.datasets import Dataset, Split
from training.recipe import Recipe
from training.recipes import RECIPES
from training.runs import RunResult, run_recipe

CPU = torch.device("cpu")
LINE = RECIPES["curve-linear"]
MOONS = RECIPES["moons-tanh"]
CNN = RECIPES["mnist-cnn"]
MLP = RECIPES["mnist-mlp"]


def run(
    recipe: Recipe,
    data: Dataset,
    *,
    preset: Any = "default",
    seeds: int = 1,
    compare: bool = False,
    device: torch.device = CPU,
    progress: bool = False,
    **values: Any,
) -> RunResult:
    hyperparameters = recipe.hyperparameters(preset).override(values)
    return run_recipe(
        recipe, preset, hyperparameters, data, seeds=seeds, compare=compare, device=device,
        progress=progress,
    )  # fmt: skip


def weights(result: RunResult) -> Tensor:
    return torch.cat([value.flatten().float() for value in result.network.state_dict().values()])


# Seeds and presets.


def test_weights_are_deterministic_with_dropout_distortion_and_batch_norm(
    few_digits: Dataset,
) -> None:
    values = {"epochs": 2, "batch_size": 32, "channels": (4, 4, 4)}
    first = run(CNN, few_digits, seed=5, **values)
    torch.rand(7)  # the state of the global generator has no effect
    second = run(CNN, few_digits, seed=5, **values)
    other = run(CNN, few_digits, seed=6, **values)
    assert first.hyperparameters.dropout > 0
    assert first.hyperparameters.elastic > 0
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_result_has_the_network_on_the_cpu_in_eval_mode_and_its_metrics(moons: Dataset) -> None:
    result = run(MOONS, moons, epochs=3)
    assert not any(module.training for module in result.network.modules())
    assert {parameter.device for parameter in result.network.parameters()} == {CPU}
    test, validation = result.evaluations
    assert (test.data, test.split, test.samples) == ("moons", "test", 10_000)
    assert (validation.data, validation.split, validation.samples) == ("moons", "validation", 40)
    assert result.metric == test.metrics["accuracy"]
    predicted = result.network(moons.test.inputs).argmax(dim=1)
    assert result.metric == pytest.approx(float((predicted == moons.test.targets).float().mean()))


def test_the_best_seed_is_selected_by_validation_and_not_by_test(
    moons: Dataset,
) -> None:
    runs = [run(MOONS, moons, epochs=2, seed=seed) for seed in range(3, 8)]
    together = run(MOONS, moons, epochs=2, seed=3, seeds=5)
    best = max(runs, key=lambda result: result.score)
    assert len({result.score for result in runs}) > 1
    assert together.hyperparameters.seed == best.hyperparameters.seed
    assert torch.equal(weights(together), weights(best))
    wrong = Split(moons.test.inputs, 1 - moons.test.targets)
    inverted = run(MOONS, replace(moons, test=wrong), epochs=2, seed=3, seeds=5)
    assert torch.equal(weights(inverted), weights(together))
    assert inverted.metric == pytest.approx(1 - together.metric)


def test_the_figures_over_seeds_match_single_runs(curve: Dataset) -> None:
    together = run(LINE, curve, seeds=3, seed=1, epochs=20)
    (figures,) = together.seeds
    metrics = [run(LINE, curve, seed=seed, epochs=20).metric for seed in (1, 2, 3)]
    assert (figures.setting, figures.metric, figures.samples) == ("default", "mse", 3_000)
    assert figures.seeds == (1, 2, 3)
    assert figures.values == tuple(metrics)
    assert figures.mean == pytest.approx(np.mean(metrics))
    assert figures.standard_deviation == pytest.approx(np.std(metrics, ddof=1))


def test_a_single_seed_has_a_standard_deviation_of_0(curve: Dataset) -> None:
    (figures,) = run(LINE, curve, epochs=5).seeds
    assert figures.standard_deviation == 0
    assert figures.mean == figures.values[0]


def test_a_comparison_trains_the_tutorial_preset_over_the_same_seeds(curve: Dataset) -> None:
    short = replace(LINE, tutorial=LINE.tutorial.override({"epochs": 2}))
    result = run(short, curve, seeds=2, seed=4, compare=True, epochs=20)
    default, tutorial = result.seeds
    assert (default.setting, tutorial.setting) == ("default", "tutorial")
    assert default.seeds == tutorial.seeds == (4, 5)
    metrics = tuple(run(short, curve, preset="tutorial", seed=seed).metric for seed in (4, 5))
    assert tutorial.values == metrics
    assert result.preset == "default"


def test_the_tutorial_preset_is_not_compared_with_itself(curve: Dataset) -> None:
    result = run(LINE, curve, preset="tutorial", compare=True, epochs=2)
    assert [figures.setting for figures in result.seeds] == ["tutorial"]


def test_a_network_is_evaluated_on_the_external_test_set(
    few_digits: Dataset, digits: Dataset
) -> None:
    values = {"epochs": 2, "hidden": (16,), "batch_size": 32}
    result = run(MLP, replace(few_digits, name="mnist", external=datasets.digits), **values)
    assert [(e.data, e.split, e.samples) for e in result.evaluations] == [
        ("mnist", "test", 40),
        ("mnist", "validation", 32),
        ("digits", "all", 1_797),
    ]
    predicted = result.network(digits.all_rows.inputs).argmax(dim=1)
    right = float((predicted == digits.all_rows.targets).float().mean())
    assert result.evaluations[2].metrics["accuracy"] == pytest.approx(right)
    assert len(run(MLP, few_digits, **values).evaluations) == 2  # no external test


def test_progress_shows_recipe_seed_and_metric(
    curve: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run(LINE, curve, epochs=2, seed=7, progress=True)
    output = capsys.readouterr().err
    assert "curve-linear, default preset, seed 7, on cpu\n" in output
    assert "on the test split, mse " in output
    run(LINE, curve, epochs=2)
    assert capsys.readouterr().err == ""


# Ctrl-C.


def interrupted_recipe(recipe: Recipe, when: Callable[[int], bool]) -> tuple[Recipe, list[int]]:
    """Return the recipe with a Ctrl-C in the first batch of each run that `when` selects."""
    runs: list[int] = []

    class Pressed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            runs.append(len(runs) + 1)
            self.pressed = not when(runs[-1])

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training and not self.pressed:
                self.pressed = True
                signal.raise_signal(signal.SIGINT)
            return self.network(inputs)  # type: ignore[no-any-return]

    build = recipe.build
    return replace(
        recipe, build=lambda hyperparameters, data: Pressed(build(hyperparameters, data))
    ), runs


def figures_of(result: RunResult) -> list[tuple[str, tuple[int, ...]]]:
    def summary(figures: SeedFigures) -> tuple[str, tuple[int, ...]]:
        return figures.setting, figures.seeds

    return [summary(figures) for figures in result.seeds]


def test_ctrl_c_starts_no_further_seed_and_no_comparison(curve: Dataset) -> None:
    recipe, runs = interrupted_recipe(LINE, lambda number: number == 2)
    result = run(recipe, curve, seeds=5, compare=True, epochs=20)
    assert runs == [1, 2]
    assert figures_of(result) == [("default", (0, 1))]
    assert result.interrupted
    assert result.hyperparameters.seed == 0  # the complete run is better than the interrupted run


def test_ctrl_c_in_the_only_run_returns_its_result(curve: Dataset) -> None:
    recipe, _ = interrupted_recipe(LINE, lambda number: True)
    result = run(recipe, curve, seeds=5, compare=True, epochs=20)
    assert result.interrupted
    assert len(result.history.epochs) == 1
    assert result.evaluations[0].samples == 3_000


def test_an_interrupted_comparison_is_left_out(curve: Dataset) -> None:
    recipe, runs = interrupted_recipe(LINE, lambda number: number == 3)
    result = run(recipe, curve, seeds=2, compare=True, epochs=20)
    assert runs == [1, 2, 3]  # only the first run of the comparison
    assert figures_of(result) == [("default", (0, 1))]
    assert result.interrupted
    assert not result.history.interrupted


def test_a_run_without_ctrl_c_is_not_interrupted(curve: Dataset) -> None:
    assert not run(LINE, curve, epochs=2).interrupted


# The metrics of the recipes on the real data.


def values_of(result: RunResult) -> tuple[float, ...]:
    return result.seeds[0].values


@pytest.mark.parametrize("name", ["curve-linear", "curve-mlp"])
def test_every_seed_of_a_line_is_within_one_percent_of_least_squares(
    name: str, curve: Dataset
) -> None:
    result = run(RECIPES[name], curve, seeds=5)
    least_squares = result.evaluations[0].metrics["least_squares_mse"]
    assert len(values_of(result)) == 5
    assert max(values_of(result)) <= 1.01 * least_squares


def test_every_seed_of_the_curve_with_tanh_is_near_the_noise_floor(curve: Dataset) -> None:
    result = run(RECIPES["curve-tanh"], curve, seeds=2)
    floor = result.evaluations[0].metrics["noise_floor_mse"]
    assert max(values_of(result)) <= 1.25 * floor


def test_every_seed_of_the_linear_moons_is_near_the_best_line(moons: Dataset) -> None:
    result = run(RECIPES["moons-linear"], moons, seeds=5)
    best = result.evaluations[0].metrics["best_linear_accuracy"]
    assert min(values_of(result)) >= best - 0.002


def test_every_seed_of_the_moons_with_tanh_has_an_accuracy_of_99_percent(
    moons: Dataset,
) -> None:
    assert min(values_of(run(MOONS, moons, seeds=2))) >= 0.99


def test_a_short_run_of_the_default_mlp_reads_digits(digits: Dataset) -> None:
    assert run(MLP, digits, epochs=10, batch_size=32).metric > 0.9


def test_a_short_run_of_the_default_cnn_reads_digits(digits: Dataset) -> None:
    result = run(CNN, digits, epochs=5, batch_size=32, channels=(8, 16, 16))
    assert result.metric > 0.9


# On a GPU.


@pytest.fixture
def cuda() -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["curve-linear", "moons-tanh"])
def test_a_quick_recipe_meets_its_bound_on_a_gpu(
    name: str, cuda: torch.device, request: pytest.FixtureRequest
) -> None:
    recipe = RECIPES[name]
    result = run(recipe, request.getfixturevalue(recipe.data), device=cuda)
    metrics = result.evaluations[0].metrics
    if name == "curve-linear":
        assert metrics["mse"] <= 1.01 * metrics["least_squares_mse"]
    else:
        assert metrics["accuracy"] >= 0.99
    assert result.device.type == "cuda"
    assert {parameter.device for parameter in result.network.parameters()} == {CPU}


@pytest.mark.gpu
@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-cnn"])
def test_a_network_trained_on_a_gpu_gives_the_same_answers_on_the_cpu(
    name: str, mixed_precision: bool, cuda: torch.device, digits: Dataset
) -> None:
    result = run(
        RECIPES[name], digits, device=cuda, epochs=10, batch_size=32,
        mixed_precision=mixed_precision,
    )  # fmt: skip
    assert result.metric > 0.9
    inputs = digits.test.inputs
    with torch.inference_mode():
        on_cpu = result.network(inputs).softmax(dim=1)
        on_gpu = result.network.to(cuda)(inputs.to(cuda)).softmax(dim=1).cpu()
    assert float((on_cpu - on_gpu).abs().max()) <= 1e-3
