"""Tests of `fit --table`: the package of a table, and one sentence for each wrong option."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_tables import shops, write_shops
from typer.testing import CliRunner, Result

import training.command_line as command_line
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import table_inputs
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.runtime import OnnxRuntime

QUICK = ["--epochs", "12", "--threads", "1"]


def fit(repository: Path, *arguments: str) -> Result:
    command = ["fit", *arguments, "--repository", str(repository)]
    return CliRunner().invoke(command_line.app, command, env={"COLUMNS": "200"})


@pytest.fixture(autouse=True, scope="module")
def wide() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line.console, "width", 200)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shops(tmp_path_factory.mktemp("shops"))


@pytest.fixture(scope="module")
def regression(table: Path) -> tuple[ModelPackage, str]:
    """Return a package that predicts the sales, and what the command printed."""
    result = fit(
        table.parent / "models", "--table", str(table), "--target", "sales", "--unit", "euros",
        "--split-by", "day", "--name", "sales", "--leave-out", "grade", *QUICK,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return ModelRepository(table.parent / "models").get("sales"), result.output


def test_the_types_are_shown_before_the_fit(regression: tuple[ModelPackage, str]) -> None:
    before, _, after = regression[1].partition("default preset")
    assert after
    lines = {line.split()[0]: " ".join(line.split()) for line in before.splitlines() if line}
    assert lines["day"].startswith(
        "day date 2013-01-01 to 2014-05-15 parts of the calendar, splits"
    )
    assert lines["visitors"] == "visitors integer 10 to 89 38 scaled"
    assert lines["open"] == "open boolean False to True scaled"
    assert "3: " in lines["region"]
    assert lines["region"].endswith("31 embedded, 3 known")
    assert lines["sales"].endswith("the target of a regression")
    assert "grade" not in lines
    assert "350 rows train, 75 validate, 75 test" in before


def test_the_baselines_stand_beside_the_network(regression: tuple[ModelPackage, str]) -> None:
    metrics = regression[0].card.evaluations[0].metrics
    for name in ("mean", "linear", "gradient_boosting"):
        assert metrics[f"{name}_mse"] > 0
        assert metrics[f"{name}_mae"] > 0
    assert metrics["mse"] < metrics["mean_mse"] / 5


def test_the_report_has_residuals_and_importances(regression: tuple[ModelPackage, str]) -> None:
    files = set(regression[0].card.files)
    assert {"report/residuals.png", "report/permutation-importance.png"} <= files


def test_raw_rows_are_answered_by_the_package_in_the_unit_of_the_target(
    regression: tuple[ModelPackage, str],
) -> None:
    package, _ = regression
    card = package.card
    assert card.table is not None
    assert card.outputs[0].answer is not None
    assert card.outputs[0].answer.to_text() == "in euros"
    frame = shops()
    names = [column.name for column in card.table.columns]
    rows = frame.iloc[425:][names].astype(object).where(frame.iloc[425:][names].notna(), None)
    rows = [*rows.to_dict("records"), dict.fromkeys(names) | {"day": "2013-05-05", "size": 20.0,
                                                              "open": True}]  # fmt: skip
    inputs = table_inputs(card.table, values_of_rows(card.table, rows), card.inputs)
    runtime = OnnxRuntime((package.path / "model.onnx").read_bytes(), threads=1)
    answers = runtime(inputs)["y"][:, 0]
    assert np.isfinite(answers).all()
    errors = answers[:-1] - frame["sales"].to_numpy()[425:]
    assert np.mean(errors**2) == pytest.approx(card.evaluations[0].metrics["mse"], rel=0.05)


def test_a_classification_has_calibration_and_a_confusion_matrix(table: Path) -> None:
    root = table.parent / "grades"
    result = fit(
        root, "--table", str(table), "--target", "grade", "--leave-out", "sales", *QUICK
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    card = ModelRepository(root).get("shops").card
    assert card.outputs[0].labels == ("good", "poor")
    assert {"report/calibration.png", "report/confusion-matrix.png"} <= set(card.files)
    metrics = card.evaluations[0].metrics
    assert metrics["accuracy"] > metrics["majority_accuracy"]
    assert {"linear_accuracy", "gradient_boosting_accuracy"} <= metrics.keys()


def test_a_column_that_gives_the_target_away_is_named_in_the_card(table: Path) -> None:
    root = table.parent / "leaks"
    result = fit(root, "--table", str(table), "--target", "grade", "--epochs", "1")
    said = "sales alone gives grade away (100.0% on rows not seen)"
    assert said in result.output.partition("default preset")[0]
    assert any(said in limit for limit in ModelRepository(root).get("shops").card.limits)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the column to predict with --target; there are day, size, visitors"),
        (["--target", "sale"], "there is no column 'sale'; the nearest is 'sales'"),
        (["--target", "sales", "--split-by", "dy"], "there is no column 'dy'; the nearest is"),
        (["--target", "sales", "--leave-out", "zzz"], "there is no column 'zzz'; the columns are"),
        (["--target", "sales", "--leave-out", "sales"], "'sales' is left out, and is needed"),
        (["--target", "sales", "--split-by", "sales"], "cannot split the rows"),
        (["--target", "sales", "--type", "size"], "--type 'size': give COLUMN=TYPE"),
        (["--target", "sales", "--type", "size=real"], "with one of number, integer"),
        (["--target", "day"], "the target 'day' is a date"),
        (["--target", "grade", "--task", "regression"], "a regression needs numbers"),
        (["--target", "sales", "--task", "classification"], "give --task regression"),
        (["--target", "sales", "--name", "a/b"], "the name 'a/b' must be"),
        (["--target", "sales", "--epochs", "0"], "--epochs"),
        (["--target", "sales", "--lr", "x"], "--lr"),
    ],
)
def test_a_wrong_option_is_answered_before_any_work(
    table: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = fit(tmp_path / "models", "--table", str(table), *arguments)
    assert result.exit_code != 0
    assert said in " ".join(result.output.split())
    assert not list((tmp_path / "models").glob("*/*"))


def test_a_file_that_is_not_there_is_answered_by_a_sentence(tmp_path: Path) -> None:
    result = fit(tmp_path / "models", "--table", str(tmp_path / "no.csv"), "--target", "y")
    assert result.exit_code == 1
    assert "there is no such file" in result.output


@pytest.mark.parametrize("option", [["--target", "y"], ["--split-by", "x"], ["--leave-out", "x"]])
def test_options_of_tables_need_a_table(tmp_path: Path, option: list[str]) -> None:
    result = fit(tmp_path / "models", "moons-linear", *option)
    assert result.exit_code == 1
    assert f"{option[0]} needs --table" in result.output


def test_a_table_and_recipes_exclude_each_other(table: Path, tmp_path: Path) -> None:
    result = fit(tmp_path / "models", "moons-linear", "--table", str(table), "--target", "sales")
    assert result.exit_code == 1
    assert "--table makes a recipe of its own: omit moons-linear" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moons-linear", "--images", "{}"], "--images makes a recipe of its own: omit moons-lin"),
        (["--all", "--images", "{}"], "--images makes a recipe of its own: omit --all"),
        (["--all", "--table", "{}/t.csv"], "--table makes a recipe of its own: omit --all"),
        (["--images", "{}", "--table", "{}/t.csv"], "--table makes a recipe of its own: omit --im"),
        (["moons-linear", "--size", "32"], "--size=32 needs --images"),
        (["moons-linear", "--network", "resnet18"], "--network=resnet18 needs --images"),
        (["moons-linear", "--pretrained"], "--pretrained needs --images"),
        (["moons-linear", "--name", "mine"], "--name needs --images or --table"),
    ],
)
def test_options_of_one_kind_of_data_are_not_ignored_beside_others(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = fit(tmp_path / "models", *(text.format(tmp_path) for text in arguments))
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not list((tmp_path / "models").glob("*/*"))
