"""Tests of the space that `tune` searches: ranges by type, `--only` and `--set`."""

from typing import Annotated, Any, get_args

import pytest

from training.hyperparameters import Between, HyperparameterError, Hyperparameters, Times
from training.networks.feedforward import Activation
from training.recipes import RECIPES

optuna = pytest.importorskip("optuna", reason="needs optuna: pip install 'optuna>=5'")
from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: E402

from training.tuning.search_space import SearchSpace, search_space  # noqa: E402

TANH = RECIPES["curve-tanh"].default
CNN = RECIPES["mnist-cnn"].default
ROWS = 240


def draws(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """Return what trials draw at random."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.draw(study.ask()) for _ in range(count)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_draw_of_every_recipe_is_valid_and_within_the_data(name: str) -> None:
    preset = RECIPES[name].default
    space = search_space(preset, ROWS)
    assert {"lr", "batch_size", "weight_decay"} <= set(space.distributions)
    for values in draws(space, 30):
        drawn = preset.override(values)
        assert drawn.batch_size <= ROWS
        assert preset.lr / 10.001 <= drawn.lr <= preset.lr * 10.001
        unchanged = set(type(preset).model_fields) - set(values)
        assert {"epochs", "optimizer", "keep", "seed"} <= unchanged
        assert all(getattr(drawn, name) == getattr(preset, name) for name in unchanged)


def test_draws_differ_in_every_hyperparameter_that_is_searched() -> None:
    values = draws(search_space(CNN, 55_000), 30)
    assert {"dropout", "rotation", "elastic", "channels"} <= set(values[0])
    for name in values[0]:
        assert len({str(entry[name]) for entry in values}) > 2


def test_the_first_trial_is_the_preset() -> None:
    for preset in (CNN, RECIPES["moons-tanh"].default):
        space = search_space(preset, 55_000)
        assert preset.override(space.values(space.first())) == preset
    space = search_space(TANH, ROWS)  # without decay, which the range does not have
    first = TANH.override(space.values(space.first()))
    assert first == TANH.override({"weight_decay": 1e-5})


def test_whole_numbers_are_the_preset_times_powers_of_two() -> None:
    space = search_space(TANH, 100, ["batch_size", "hidden"])
    assert space.distributions == {
        "batch_size": CategoricalDistribution((15, 30, 60, 100)),  # 120 is more than there are
        "hidden.0": CategoricalDistribution((2, 5, 10, 20)),
    }


@pytest.mark.parametrize(
    ("only", "given", "distributions", "fixed"),
    [
        (["lr"], ["lr=1e-4:0.1"], {"lr": FloatDistribution(1e-4, 0.1, log=True)}, {}),
        (["batch-size"], ["batch-size=16:100"],
         {"batch_size": CategoricalDistribution((16, 32, 64))}, {}),
        (["hidden"], ["hidden=8:32"], {"hidden.0": CategoricalDistribution((8, 16, 32))}, {}),
        (["activation"], [], {"activation": CategoricalDistribution(get_args(Activation))}, {}),
        (["rescale"], [], {"rescale": CategoricalDistribution((False, True))}, {}),
        (["rescale"], ["activation=relu,tanh", "seed=3"],
         {"rescale": CategoricalDistribution((False, True)),
          "activation": CategoricalDistribution(("relu", "tanh"))}, {"seed": 3}),
        (["lr"], ["lr=0.1,0.2", "hidden=[8,4]", "clip-norm=0.5:2"],
         {"lr": CategoricalDistribution((0.1, 0.2)), "clip_norm": FloatDistribution(0.5, 2)},
         {"hidden": (8, 4)}),
    ],
)  # fmt: skip
def test_only_selects_and_set_gives_ranges_choices_and_values(
    only: list[str], given: list[str], distributions: dict[str, Any], fixed: dict[str, Any]
) -> None:
    space = search_space(TANH, ROWS, only, given)
    assert space.distributions == distributions
    assert space.fixed == fixed
    for values in draws(space, 5):
        assert fixed.items() <= values.items()
        TANH.override(values)


def test_a_fixed_tuple_is_the_preset_of_its_elements() -> None:
    space = search_space(TANH, ROWS, ["hidden"], ["hidden=8:32"])
    assert search_space(TANH, ROWS, given=["hidden=64,32"]).preset.hidden == (64, 32)
    assert space.values({"hidden.0": 16}) == {"hidden": [16]}


class Own(Hyperparameters):
    """Hyperparameters of a user."""

    layers: Annotated[int, Between(1, 4)] = 2
    width: Annotated[int, Times(1, 4)] = 10
    noise: Annotated[float, Between(0, 0.5)] = 0.1
    margin: float = 1.0


def test_ranges_in_the_types_of_a_users_hyperparameters_are_searched() -> None:
    preset = Own(epochs=1, batch_size=8, optimizer="adam", lr=0.1)
    space = search_space(preset, 8, ["layers", "width", "noise"])
    assert space.distributions == {
        "layers": CategoricalDistribution((1, 2, 4)),
        "width": CategoricalDistribution((10, 20, 40)),
        "noise": FloatDistribution(0, 0.5),
    }
    assert "margin" not in search_space(preset, 8).distributions


@pytest.mark.parametrize(
    ("only", "given", "message"),
    [
        (["dropout"], [], "there is no hyperparameter 'dropout'; there are epochs, "),
        ([], ["dropout=0:1"], "there is no hyperparameter 'dropout'; there are epochs, "),
        (["patience"], [], "patience has no range of its own: --set patience=LOW:HIGH"),
        ([], ["lr"], "--set lr: write a range as lr=1e-4:0.1"),
        ([], ["lr="], "--set lr=: write a range as lr=1e-4:0.1"),
        ([], ["lr=1:x"], "--lr 'x': input should be a valid number"),
        ([], ["lr=0:1"], "--lr '0': input should be greater than 0"),
        ([], ["lr=2:1"], "--set lr=2:1: write it as LOW:HIGH"),
        ([], ["lr=1:2:3"], "--set lr=1:2:3: write it as LOW:HIGH"),
        ([], ["weight_decay=0:1"], "--set weight_decay=0:1: the range must begin above 0"),
        ([], ["seed=0:4"], "--set seed=0:4: the range must begin above 0"),
        ([], ["hidden=0:4"], "--hidden '0': input should be greater than or equal to 1"),
        ([], ["activation=relu:tanh"], "--set activation=relu:tanh: write the choices as A,B"),
        ([], ["activation=relu,softmax"], "--activation 'softmax': input should be 'none', "),
        (["lr"], ["lr=0.1"], "nothing is left to search: name a range, as --set lr=1e-4:0.1"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_range_is_a_sentence(
    only: list[str], given: list[str], message: str
) -> None:
    with pytest.raises(HyperparameterError) as caught:
        search_space(TANH, ROWS, only, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_range_that_is_not_valid_around_the_preset_is_refused_before_any_trial() -> None:
    with pytest.raises(HyperparameterError, match="--channels 1: input should be greater than or"):
        search_space(CNN.override({"channels": (2, 4, 4)}), ROWS, ["channels"])
