"""Tests of the hyperparameters: validation, overrides, and the options of the command line."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from typer.testing import CliRunner

import training.recipe
from models.package.card import FitRecord
from training.datasets import Dataset
from training.hyperparameters import (
    CnnHyperparameters,
    ColumnHyperparameters,
    HyperparameterError,
    Hyperparameters,
    LstmHyperparameters,
    MlpHyperparameters,
    ResidualHyperparameters,
)
from training.recipes import RECIPES

COLUMNS = RECIPES["moons-tanh"].default
MLP = RECIPES["mnist-mlp"].default
CNN = RECIPES["mnist-cnn"].default


def numbers(low: float, high: float = 1e6, *, inclusive: bool = True) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=not inclusive, allow_nan=False)


SHARES = st.floats(0, 1, exclude_max=True)
SIZES = st.integers(1, 100_000)
LOOP: dict[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(1, 10**9),
    "batch_size": SIZES,
    "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
    "lr": numbers(0, inclusive=False),
    "weight_decay": numbers(0),
    "lr_scheduler": st.sampled_from(["constant", "cosine", "one-cycle"]),
    "clip_norm": numbers(0, inclusive=False),
    "ema_decay": SHARES,
    "keep": st.sampled_from(["best", "last"]),
    "patience": st.integers(1, 10**6),
    "mixed_precision": st.booleans(),
    "seed": st.integers(0, 2**63 - 1),
}
HIDDEN = st.lists(SIZES, min_size=1, max_size=4).map(tuple)
IMAGES = LOOP | {
    "pixel_mean": numbers(-1e6),
    "pixel_std": numbers(0, inclusive=False),
    "dropout": SHARES,
    "label_smoothing": SHARES,
    "rotation": numbers(0, 180),
    "scaling": SHARES,
    "shear": SHARES,
    "translation": numbers(0, 28),
    "elastic": numbers(0, 200),
    "mirror": st.booleans(),
    "erase": st.integers(0, 28),
}
VALUES: dict[type[Hyperparameters], dict[str, st.SearchStrategy[Any]]] = {
    ColumnHyperparameters: LOOP
    | {
        "hidden": HIDDEN,
        "activation": st.sampled_from(["none", "relu", "tanh"]),
        "rescale": st.booleans(),
        "nguyen_widrow": st.booleans(),
    },
    MlpHyperparameters: IMAGES | {"hidden": HIDDEN},
    CnnHyperparameters: IMAGES | {"channels": st.tuples(st.integers(2, 100_000), SIZES, SIZES)},
    ResidualHyperparameters: IMAGES | {"channels": st.tuples(SIZES, SIZES, SIZES)},
    LstmHyperparameters: LOOP
    | {
        "embedding": SIZES,
        "units": SIZES,
        "dropout": SHARES,
        "unreadable": SHARES,
    },
}
RECIPE_OF = {
    ColumnHyperparameters: "moons-tanh",
    MlpHyperparameters: "mnist-mlp",
    CnnHyperparameters: "mnist-cnn",
    ResidualHyperparameters: "fashion-cnn",
    LstmHyperparameters: "names-lstm",
}
CARD = TypeAdapter(FitRecord.model_fields["hyperparameters"].annotation)


def overrides(kind: type[Hyperparameters]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=VALUES[kind])


def test_the_strategies_cover_every_hyperparameter() -> None:
    for kind, values in VALUES.items():
        assert set(values) == set(kind.model_fields)


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_an_override_changes_only_the_named_values(
    kind: type[Hyperparameters], data: st.DataObject
) -> None:
    before = RECIPES[RECIPE_OF[kind]].default
    values = data.draw(overrides(kind))
    after = before.override(values)
    assert type(after) is kind
    assert after.model_dump() == before.model_dump() | values


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_hyperparameters_survive_a_round_trip_through_a_card(
    kind: type[Hyperparameters], data: st.DataObject
) -> None:
    chosen = RECIPES[RECIPE_OF[kind]].default.override(data.draw(overrides(kind)))
    written = CARD.dump_json(CARD.validate_python(chosen.model_dump()))
    assert kind.model_validate(CARD.validate_json(written)) == chosen


class Reached(Exception):  # noqa: N818 - not an error: it stops the command
    """The command line reached the run of the recipe."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_hyperparameter_of_the_command_line_is_passed_to_the_run(
    few_digits: Dataset, moons: Dataset, kind: type[Hyperparameters], data: st.DataObject
) -> None:
    from training import command_line  # which imports the libraries of the report, too

    values = data.draw(overrides(kind))
    arguments = ["fit", RECIPE_OF[kind], "--replace"]
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(option if value else option.replace("--", "--no-", 1))
        else:
            for element in value if isinstance(value, tuple) else (value,):
                arguments += [option, str(element)]
    passed: list[Hyperparameters] = []

    def run(
        recipe: object, preset: str, hyperparameters: Hyperparameters, *_: object, **__: object
    ):
        passed.append(hyperparameters)
        raise Reached

    loaded = moons if kind is ColumnHyperparameters else few_digits
    with (
        patch.object(command_line, "run_recipe", run),
        patch.object(training.recipe, "load", lambda name, folder: loaded),
    ):
        result = CliRunner().invoke(command_line.app, arguments)
    assert isinstance(result.exception, Reached), result.output
    assert passed == [RECIPES[RECIPE_OF[kind]].default.override(values)]


def test_help_lists_every_hyperparameter_with_a_description() -> None:
    from training import command_line

    output = CliRunner().invoke(command_line.app, ["fit", "--help"], terminal_width=200).output
    words = " ".join(output.replace("│", " ").split())
    for kind in VALUES:
        for name, field in kind.model_fields.items():
            assert f"--{name.replace('_', '-')} " in words
            assert field.description


WRONG: list[tuple[Hyperparameters, str, Any]] = [
    (COLUMNS, "epochs", 0),
    (COLUMNS, "epochs", 1.5),
    (COLUMNS, "epochs", "many"),
    (COLUMNS, "batch_size", 0),
    (COLUMNS, "batch_size", 100_001),
    (COLUMNS, "optimizer", "lbfgs"),
    (COLUMNS, "lr", 0),
    (COLUMNS, "lr", -1),
    (COLUMNS, "lr", float("nan")),
    (COLUMNS, "lr", float("inf")),
    (COLUMNS, "weight_decay", -0.1),
    (COLUMNS, "lr_scheduler", "linear"),
    (COLUMNS, "clip_norm", 0),
    (COLUMNS, "ema_decay", 1),
    (COLUMNS, "ema_decay", -0.1),
    (COLUMNS, "keep", "first"),
    (COLUMNS, "patience", 0),
    (COLUMNS, "mixed_precision", "perhaps"),
    (COLUMNS, "seed", -1),
    (COLUMNS, "seed", 2**63),
    (COLUMNS, "hidden", (0,)),
    (COLUMNS, "hidden", (4, -1)),
    (COLUMNS, "hidden", (100_001,)),
    (COLUMNS, "activation", "softmax"),
    (COLUMNS, "dropout", 0.5),
    (COLUMNS, "channels", (2, 2, 2)),
    (COLUMNS, "momentum", 0.9),
    (MLP, "hidden", (0,)),
    (MLP, "pixel_mean", float("nan")),
    (MLP, "pixel_std", 0),
    (MLP, "dropout", 1),
    (MLP, "label_smoothing", 1),
    (MLP, "rotation", 181),
    (MLP, "rotation", -1),
    (MLP, "scaling", 1),
    (MLP, "shear", 1),
    (MLP, "translation", 29),
    (MLP, "elastic", 201),
    (MLP, "channels", (2, 2, 2)),
    (MLP, "rescale", True),
    (CNN, "hidden", (4,)),
    (CNN, "channels", (4, 4)),
    (CNN, "channels", (4, 4, 4, 4)),
    (CNN, "channels", (1, 4, 4)),
    (CNN, "activation", "tanh"),
]


@pytest.mark.parametrize(("before", "name", "value"), WRONG)
def test_a_wrong_name_or_value_is_a_one_line_error_that_begins_with_the_option(
    before: Hyperparameters, name: str, value: Any
) -> None:
    with pytest.raises(HyperparameterError) as caught:
        before.override({name: value})
    message = str(caught.value)
    assert message.startswith("--" + name.replace("_", "-") + " ")
    assert "\n" not in message


def test_the_error_for_an_unknown_name_lists_the_known_names() -> None:
    with pytest.raises(HyperparameterError, match="does not belong to this recipe") as caught:
        CNN.override({"hidden": (4,)})
    for name in CnnHyperparameters.model_fields:
        assert "--" + name.replace("_", "-") in str(caught.value)


def test_the_error_for_too_few_channels_says_too_few() -> None:
    with pytest.raises(HyperparameterError, match=r"--channels .*too few"):
        CNN.override({"channels": (4,)})


def test_hyperparameters_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        COLUMNS.lr = 1.0  # type: ignore[misc]


def test_a_file_of_hyperparameters_is_read_and_options_come_before_it(
    tmp_path: Path, moons: Dataset
) -> None:
    from training import command_line

    file = tmp_path / "best.json"
    file.write_text('{"lr": 0.5, "hidden": [8, 4], "seed": 3}')
    passed: list[Hyperparameters] = []

    def run(
        recipe: object, preset: str, hyperparameters: Hyperparameters, *_: object, **__: object
    ):
        passed.append(hyperparameters)
        raise Reached

    with patch.object(command_line, "run_recipe", run):
        CliRunner().invoke(
            command_line.app,
            ["fit", "moons-tanh", "--hyperparameters", str(file), "--lr", "0.25", "--repository",
             str(tmp_path)],
        )  # fmt: skip
    assert passed == [COLUMNS.override({"lr": 0.25, "hidden": (8, 4), "seed": 3})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("lr: 1", "is not JSON ("),
        ("[1]", 'must have an object, as {"lr": 0.01}'),
        ('{"lr": -1}', "--lr -1: input should be greater than 0"),
        ('{"momentum": 1}', "--momentum does not belong to this recipe"),
    ],
)
def test_a_file_without_hyperparameters_is_a_one_line_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    from training import command_line

    file = tmp_path / "best.json"
    if content is not None:
        file.write_text(content)
    arguments = ["fit", "moons-tanh", "--hyperparameters", str(file)]
    result = CliRunner().invoke(command_line.app, arguments)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert message in line
