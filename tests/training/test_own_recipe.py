"""Tests of recipes in files of the user: the documented example, and what is said of mistakes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.package.repository import ModelRepository
from training.command_line import app
from training.own_recipe import load_recipe
from training.recipe import RecipeError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_recipe.py"


def test_the_example_is_trained_and_packaged_with_its_own_hyperparameters(tmp_path: Path) -> None:
    arguments = [
        "fit", f"{EXAMPLE}:recipe", "--set", "epochs=15", "--set", "keep=last", "--threads", "1",
        "--repository", str(tmp_path),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    package = ModelRepository(tmp_path).get("wine")
    package.verify()
    card = package.card
    assert card.evaluations[0].metrics["accuracy"] > 0.8
    assert [spec.name for spec in card.inputs] == ["features"]
    assert card.inputs[0].shape == (-1, 13)
    assert card.outputs[0].labels == ("first grower", "second grower", "third grower")
    assert card.fit is not None
    assert (card.fit.epochs, card.fit.hyperparameters["keep"]) == (15, "last")
    assert "What it is for" not in (package.path / "README.md").read_text()  # nothing is stated


def test_the_only_recipe_of_a_file_needs_no_name() -> None:
    assert load_recipe(str(EXAMPLE)).name == "wine"


ONE = "from training.recipes import RECIPES\n"


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (None, "", "there is no file .*mine.py: give the path"),
        ("x = 1\n", "", "mine.py has no recipe: make one, as recipe = training.recipe.Recipe"),
        (
            ONE + "a, b = list(RECIPES.values())[:2]\n",
            "",
            "name a recipe .*mine.py:a or .*mine.py:b",
        ),
        (ONE + "a = list(RECIPES.values())[0]\n", ":c", "name a recipe of the file: .*mine.py:a$"),
        (
            ONE + "from dataclasses import replace\n"
            "a = replace(list(RECIPES.values())[0], name='../a')\n",
            "",
            "the name '../a': ",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    content: str | None, suffix: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(f"{file}{suffix}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epochs"], "--set epochs: write NAME=VALUE"),
        (["--set", "depth=3"], "--depth does not belong to this recipe"),
        (["--set", "lr=fast"], "--lr 'fast': "),
        (["--data", "moons"], "the recipe wine cannot be trained on moons"),
        (["--as", "tutorial"], "the recipe wine has no preset for a tutorial: omit --as"),
    ],
)
def test_an_option_that_does_not_fit_is_named(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    command = ["fit", str(EXAMPLE), *arguments, "--repository", str(tmp_path / "models")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith(f"error: {message}")
