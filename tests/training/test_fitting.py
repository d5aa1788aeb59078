"""What fitting a recipe promises: seeds, both settings, an unseen test split; and how good it is.

The last part fits the real recipes on their real data and holds them to the bounds that the
project promises for every seed.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.card import SeedFigures
from training.datasets import Dataset, Split
from training.fitting import Fitted, fit_recipe
from training.recipes import RECIPES, Recipe

CPU = torch.device("cpu")
LINE = RECIPES["curve-linear"]
MOONS = RECIPES["moons-tanh"]
CNN = RECIPES["mnist-cnn"]
MLP = RECIPES["mnist-mlp"]


def run(
    recipe: Recipe,
    data: Dataset,
    *,
    setting: Any = "default",
    seeds: int = 1,
    compare: bool = False,
    device: torch.device = CPU,
    progress: bool = False,
    **values: Any,
) -> Fitted:
    settings = recipe.settings(setting).override(values)
    return fit_recipe(
        recipe, setting, settings, data, seeds=seeds, compare=compare, device=device,
        progress=progress,
    )  # fmt: skip


def weights(fitted: Fitted) -> Tensor:
    return torch.cat([value.flatten().float() for value in fitted.network.state_dict().values()])


# Seeds and settings.


def test_one_seed_gives_identical_weights_with_dropout_distortion_and_batch_norm(
    few_digits: Dataset,
) -> None:
    values = {"epochs": 2, "batch_size": 32, "channels": (4, 4, 4)}
    first = run(CNN, few_digits, seed=5, **values)
    torch.rand(7)  # a used global generator must not matter
    second = run(CNN, few_digits, seed=5, **values)
    other = run(CNN, few_digits, seed=6, **values)
    assert first.settings.dropout > 0
    assert first.settings.elastic > 0
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_the_fitted_network_is_on_the_cpu_in_eval_mode_with_its_figures(moons: Dataset) -> None:
    fitted = run(MOONS, moons, epochs=3)
    assert not any(module.training for module in fitted.network.modules())
    assert {parameter.device for parameter in fitted.network.parameters()} == {CPU}
    test, validation = fitted.evaluations
    assert (test.data, test.split, test.samples) == ("moons", "test", 10_000)
    assert (validation.data, validation.split, validation.samples) == ("moons", "validation", 40)
    assert fitted.metric == test.metrics["accuracy"]
    answers = fitted.network(moons.test.inputs).argmax(dim=1)
    assert fitted.metric == pytest.approx(float((answers == moons.test.targets).float().mean()))


def test_of_several_seeds_the_best_on_validation_is_given_whatever_the_test_split_says(
    moons: Dataset,
) -> None:
    alone = [run(MOONS, moons, epochs=2, seed=seed) for seed in range(3, 8)]
    together = run(MOONS, moons, epochs=2, seed=3, seeds=5)
    best = max(alone, key=lambda fitted: fitted.score)
    assert len({fitted.score for fitted in alone}) > 1
    assert together.settings.seed == best.settings.seed
    assert torch.equal(weights(together), weights(best))
    wrong = Split(moons.test.inputs, 1 - moons.test.targets)
    upside_down = run(MOONS, replace(moons, test=wrong), epochs=2, seed=3, seeds=5)
    assert torch.equal(weights(upside_down), weights(together))
    assert upside_down.metric == pytest.approx(1 - together.metric)


def test_the_figures_over_seeds_are_those_of_each_seed_alone(curve: Dataset) -> None:
    together = run(LINE, curve, seeds=3, seed=1, epochs=20)
    (figures,) = together.seeds
    alone = [run(LINE, curve, seed=seed, epochs=20).metric for seed in (1, 2, 3)]
    assert (figures.setting, figures.metric, figures.samples) == ("default", "mse", 3_000)
    assert figures.seeds == (1, 2, 3)
    assert figures.values == tuple(alone)
    assert figures.mean == pytest.approx(np.mean(alone))
    assert figures.standard_deviation == pytest.approx(np.std(alone, ddof=1))


def test_one_seed_alone_has_no_spread(curve: Dataset) -> None:
    (figures,) = run(LINE, curve, epochs=5).seeds
    assert figures.standard_deviation == 0
    assert figures.mean == figures.values[0]


def test_a_comparison_fits_the_tutorial_setting_over_the_same_seeds(curve: Dataset) -> None:
    brief = replace(LINE, tutorial=LINE.tutorial.override({"epochs": 2}))
    fitted = run(brief, curve, seeds=2, seed=4, compare=True, epochs=20)
    ours, tutorial = fitted.seeds
    assert (ours.setting, tutorial.setting) == ("default", "tutorial")
    assert ours.seeds == tutorial.seeds == (4, 5)
    alone = tuple(run(brief, curve, setting="tutorial", seed=seed).metric for seed in (4, 5))
    assert tutorial.values == alone
    assert fitted.setting == "default"


def test_the_tutorial_setting_is_not_compared_with_itself(curve: Dataset) -> None:
    fitted = run(LINE, curve, setting="tutorial", compare=True, epochs=2)
    assert [figures.setting for figures in fitted.seeds] == ["tutorial"]


def test_a_network_for_images_is_measured_on_data_that_nobody_tuned_to(
    few_digits: Dataset, digits: Dataset
) -> None:
    values = {"epochs": 2, "hidden": (16,), "batch_size": 32}
    elsewhere = run(MLP, replace(few_digits, name="mnist"), **values)
    assert [(e.data, e.split, e.samples) for e in elsewhere.evaluations] == [
        ("mnist", "test", 40),
        ("mnist", "validation", 32),
        ("digits", "all", 1_797),
    ]
    answers = elsewhere.network(digits.whole.inputs).argmax(dim=1)
    right = float((answers == digits.whole.targets).float().mean())
    assert elsewhere.evaluations[2].metrics["accuracy"] == pytest.approx(right)
    assert len(run(MLP, few_digits, **values).evaluations) == 2  # not on its own data again


def test_progress_tells_what_is_fitted_and_how_it_did(
    curve: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run(LINE, curve, epochs=2, seed=7, progress=True)
    shown = capsys.readouterr().err
    assert "curve-linear, default setting, seed 7, on cpu\n" in shown
    assert "on the test split, mse " in shown
    run(LINE, curve, epochs=2)
    assert capsys.readouterr().err == ""


# Ctrl-C.


def pressing(recipe: Recipe, when: Callable[[int], bool]) -> tuple[Recipe, list[int]]:
    """The recipe with a Ctrl-C in the first batch of each fit that `when` names, from 1."""
    fits: list[int] = []

    class Pressed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            fits.append(len(fits) + 1)
            self.pressed = not when(fits[-1])

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training and not self.pressed:
                self.pressed = True
                signal.raise_signal(signal.SIGINT)
            return self.network(inputs)  # type: ignore[no-any-return]

    build = recipe.build
    return replace(recipe, build=lambda settings, data: Pressed(build(settings, data))), fits


def figures_of(fitted: Fitted) -> list[tuple[str, tuple[int, ...]]]:
    def brief(figures: SeedFigures) -> tuple[str, tuple[int, ...]]:
        return figures.setting, figures.seeds

    return [brief(figures) for figures in fitted.seeds]


def test_ctrl_c_starts_no_further_seed_and_no_comparison(curve: Dataset) -> None:
    recipe, fits = pressing(LINE, lambda number: number == 2)
    fitted = run(recipe, curve, seeds=5, compare=True, epochs=20)
    assert fits == [1, 2]
    assert figures_of(fitted) == [("default", (0, 1))]
    assert fitted.interrupted
    assert fitted.settings.seed == 0  # the whole fit beats the one cut short


def test_ctrl_c_in_the_only_fit_gives_what_there_is(curve: Dataset) -> None:
    recipe, _ = pressing(LINE, lambda number: True)
    fitted = run(recipe, curve, seeds=5, compare=True, epochs=20)
    assert fitted.interrupted
    assert len(fitted.history.epochs) == 1
    assert fitted.evaluations[0].samples == 3_000


def test_a_comparison_cut_short_by_ctrl_c_is_left_out(curve: Dataset) -> None:
    recipe, fits = pressing(LINE, lambda number: number == 3)
    fitted = run(recipe, curve, seeds=2, compare=True, epochs=20)
    assert fits == [1, 2, 3]  # the first fit of the comparison, and no further one
    assert figures_of(fitted) == [("default", (0, 1))]
    assert fitted.interrupted
    assert not fitted.history.interrupted


def test_a_fit_without_ctrl_c_is_not_called_interrupted(curve: Dataset) -> None:
    assert not run(LINE, curve, epochs=2).interrupted


# How good the recipes are, on the real data.


def values_of(fitted: Fitted) -> tuple[float, ...]:
    return fitted.seeds[0].values


@pytest.mark.parametrize("name", ["curve-linear", "curve-mlp"])
def test_every_seed_of_a_line_is_within_one_percent_of_least_squares(
    name: str, curve: Dataset
) -> None:
    fitted = run(RECIPES[name], curve, seeds=5)
    least = fitted.evaluations[0].metrics["least_squares_mse"]
    assert len(values_of(fitted)) == 5
    assert max(values_of(fitted)) <= 1.01 * least


def test_every_seed_of_the_curve_with_tanh_is_near_the_noise_floor(curve: Dataset) -> None:
    fitted = run(RECIPES["curve-tanh"], curve, seeds=2)
    floor = fitted.evaluations[0].metrics["noise_floor_mse"]
    assert max(values_of(fitted)) <= 1.25 * floor


def test_every_seed_of_the_straight_line_between_the_moons_is_the_best_one(moons: Dataset) -> None:
    fitted = run(RECIPES["moons-linear"], moons, seeds=5)
    best = fitted.evaluations[0].metrics["best_linear_accuracy"]
    assert min(values_of(fitted)) >= best - 0.002


def test_every_seed_of_the_moons_with_tanh_is_right_on_99_of_100_fresh_points(
    moons: Dataset,
) -> None:
    assert min(values_of(run(MOONS, moons, seeds=2))) >= 0.99


def test_a_short_fit_of_the_default_perceptron_reads_digits(digits: Dataset) -> None:
    assert run(MLP, digits, epochs=10, batch_size=32).metric > 0.9


def test_a_short_fit_of_the_default_convolutional_network_reads_digits(digits: Dataset) -> None:
    fitted = run(CNN, digits, epochs=5, batch_size=32, channels=(8, 16, 16))
    assert fitted.metric > 0.9


# On a GPU.


@pytest.fixture
def cuda() -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["curve-linear", "moons-tanh"])
def test_on_a_gpu_a_quick_recipe_is_as_good(
    name: str, cuda: torch.device, request: pytest.FixtureRequest
) -> None:
    recipe = RECIPES[name]
    fitted = run(recipe, request.getfixturevalue(recipe.data), device=cuda)
    metrics = fitted.evaluations[0].metrics
    if name == "curve-linear":
        assert metrics["mse"] <= 1.01 * metrics["least_squares_mse"]
    else:
        assert metrics["accuracy"] >= 0.99
    assert fitted.device.type == "cuda"
    assert {parameter.device for parameter in fitted.network.parameters()} == {CPU}


@pytest.mark.gpu
@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-cnn"])
def test_on_a_gpu_digits_are_read_and_the_cpu_gives_the_same_answers(
    name: str, mixed_precision: bool, cuda: torch.device, digits: Dataset
) -> None:
    fitted = run(
        RECIPES[name], digits, device=cuda, epochs=10, batch_size=32,
        mixed_precision=mixed_precision,
    )  # fmt: skip
    assert fitted.metric > 0.9
    inputs = digits.test.inputs
    with torch.inference_mode():
        on_cpu = fitted.network(inputs).softmax(dim=1)
        on_gpu = fitted.network.to(cuda)(inputs.to(cuda)).softmax(dim=1).cpu()
    assert float((on_cpu - on_gpu).abs().max()) <= 1e-3
