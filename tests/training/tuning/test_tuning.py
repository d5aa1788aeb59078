"""Tests of `python -m training tune`: its study, its results, several processes, and Ctrl-C."""

import io
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from models.kinds.table_columns import CategoryColumn
from models.package.repository import ModelRepository
from training.command_line import app
from training.datasets import Dataset, Split
from training.history import Epoch
from training.recipes import RECIPES

optuna = pytest.importorskip("optuna", reason="needs optuna: pip install 'optuna>=5'")
from optuna import Study  # noqa: E402
from optuna.trial import TrialState  # noqa: E402
from small_tables import write_shops  # noqa: E402
from waiting import wait_until  # noqa: E402

from training.tuning.search_space import search_space  # noqa: E402
from training.tuning.study import Search, open_study, run_trials, started_trials  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
LINE = RECIPES["curve-linear"]
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def search_of(data: Dataset, *, epochs: int = 3, **changes: object) -> Search:
    preset = LINE.default.override({"epochs": epochs})
    space = search_space(preset, len(data.train), ["lr"])
    return replace(Search(LINE, data, space, torch.device("cpu")), **changes)


def study_of(path: Path) -> Study:
    return optuna.load_study(study_name="curve-linear", storage=f"sqlite:///{path}")


def ignore(_: object) -> None:
    pass


# The command.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return a repository with a study of ten trials, and the result of the command."""
    root = tmp_path_factory.mktemp("tuned")
    return root, run("tune", "curve-linear", *TUNE, "--repository", str(root))


TUNE = ["--trials", "10", "--epochs", "4", "--threads", "1"]


def test_tune_writes_a_study_the_best_hyperparameters_and_a_picture(
    tuned: tuple[Path, Result],
) -> None:
    root, result = tuned
    assert result.exit_code == 0, result.output
    study = study_of(root / ".checkpoints" / "curve-linear-tune.db")
    assert [trial.state in DONE for trial in study.trials] == [True] * 10
    assert study.trials[0].params["lr"] == LINE.default.lr  # the preset is the first trial
    assert len({trial.params["lr"] for trial in study.trials}) == 10
    values = json.loads((root / ".checkpoints" / "curve-linear-tune.json").read_text())
    assert values == study.best_params
    assert f"best: trial {study.best_trial.number}: validation loss {study.best_value:.6g}" in (
        result.output
    )


def test_the_printed_command_trains_the_network_of_the_best_trial(
    tuned: tuple[Path, Result], tmp_path: Path
) -> None:
    root, result = tuned
    (line,) = [line for line in result.output.splitlines() if line.startswith("to train: ")]
    python, _, _, *arguments = shlex.split(line.removeprefix("to train: "))
    assert python == "python"
    quick = ["--seeds", "1", "--no-compare", "--epochs", "4", "--threads", "1"]
    fitted = run(*arguments, *quick, "--repository", str(tmp_path))
    assert fitted.exit_code == 0, fitted.output
    card = ModelRepository(tmp_path).get("curve-linear").card
    study = study_of(root / ".checkpoints" / "curve-linear-tune.db")
    assert card.fit is not None
    assert study.best_params.items() <= card.fit.hyperparameters.items()
    assert card.evaluations[1].split == "validation"
    assert card.evaluations[1].metrics["mse"] == pytest.approx(study.best_value)


def test_the_same_command_goes_on_until_the_study_has_its_trials(
    tuned: tuple[Path, Result],
) -> None:
    root, _ = tuned
    again = run("tune", "curve-linear", *TUNE, "--repository", str(root))
    assert again.exit_code == 0
    assert "curve-linear-tune.db: going on, 10 of 10 trials" in again.output
    assert "the study has all its trials; --trials 20 adds 10" in again.output
    more = run("tune", "curve-linear", *TUNE, "--trials", "12", "--repository", str(root))
    assert more.exit_code == 0
    assert "going on, 10 of 12 trials" in more.output
    study = study_of(root / ".checkpoints" / "curve-linear-tune.db")
    assert [trial.state in DONE for trial in study.trials] == [True] * 12


def test_the_picture_of_what_mattered_is_there_from_eight_complete_trials(
    tmp_path: Path, curve: Dataset
) -> None:
    from training.tuning.results import write_result

    search, path = search_of(curve), tmp_path / "study.db"
    study = open_study(path, search)
    study.pruner = optuna.pruners.NopPruner()
    run_trials(study, search, 7, ignore)
    assert write_result(study, search, path).picture is None
    run_trials(study, search, 8, ignore)
    picture = write_result(study, search, path).picture
    assert picture == tmp_path / "study.png"
    image = Image.open(io.BytesIO(picture.read_bytes()))
    assert image.format == "PNG"
    assert image.width > 400


def test_a_study_of_another_search_is_refused_with_what_differs(
    tuned: tuple[Path, Result],
) -> None:
    root, _ = tuned
    other = run("tune", "curve-linear", *TUNE, "--epochs", "5", "--repository", str(root))
    assert other.exit_code == 1
    line = other.output.splitlines()[-1]
    assert "has the study of another search (epochs: 4 there, 5 now): give the options" in line
    other = run("tune", "curve-linear", *TUNE, "--only", "lr", "--repository", str(root))
    assert "has the study of another search (batch_size: " in other.output
    study = str(root / "another.db")
    another = [*TUNE, "--trials", "1", "--only", "lr", "--study", study]
    assert run("tune", "curve-linear", *another).exit_code == 0
    assert (root / "another.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "error: there is no recipe 'nope'; there are mnist-mlp"),
        ([], "error: name a recipe, or give --images or --table; there are mnist-mlp"),
        (["curve-linear", "--table", "{}/text"], "--table makes a recipe of its own: omit curve-"),
        (["curve-linear", "--target", "y"], "--target needs --table"),
        (["curve-linear", "--images", "{}"], "--images makes a recipe of its own: omit curve-"),
        (["--images", "{}/nothing"], "error: there is no folder"),
        (["--table", "{}/nothing.csv", "--target", "y"], "there is no such file"),
        (["curve-linear", "--as", "tutorial", "--only", "dropout"],
         "error: there is no hyperparameter 'dropout'"),
        (["curve-linear", "--data", "moons"], "error: the recipe curve-linear cannot be trained"),
        (["curve-linear", "--data", "x"], "error: there is no data set 'x'"),
        (["curve-linear", "--device", "tpu"], "error: there is no device 'tpu'"),
        (["curve-linear", "--study", "{}/none"], "no study can be written there"),
        (["curve-linear", "--study", "{}/text"], "has no study (file is not a database): name "),
    ],
)  # fmt: skip
def test_a_mistake_is_a_one_line_error_before_any_trial(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text(
        "This is a text, which is longer than the header of SQLite.\n" * 9
    )
    (tmp_path / "file").touch()
    places = [text.format(tmp_path).replace("/none", "/file/study.db") for text in arguments]
    result = run("tune", *places, "--repository", str(tmp_path))
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_without_a_complete_trial_there_is_no_result_but_a_sentence(tmp_path: Path) -> None:
    result = run(
        "tune", "curve-linear", "--as", "tutorial", "--set", "lr=1e25:1e30", "--only", "lr",
        "--trials", "2", "--repository", str(tmp_path),
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "trial 1: stopped, its loss is not finite; lr " in result.output
    assert "error: no trial is complete: search smaller learning rates" in result.output
    assert not (tmp_path / ".checkpoints" / "curve-linear-tune.json").exists()


# Data of one's own.


@pytest.mark.parametrize("kind", ["table", "images"])
def test_data_of_one_s_own_are_searched_and_trained_by_the_printed_command(
    kind: str, tmp_path: Path
) -> None:
    if kind == "table":
        own = [
            "--table", str(write_shops(tmp_path)), "--target", "sales", "--leave-out", "grade",
            "--type", "visitors=category", "--unit", "euros", "--name", "my-data",
        ]  # fmt: skip
    else:
        for label, shade in (("dark", 40), ("light", 210)):
            (tmp_path / "shades" / label).mkdir(parents=True)
            for index in range(10):
                image = Image.new("RGB", (12, 12), (shade + index, shade, shade))
                image.save(tmp_path / "shades" / label / f"{index}.png")
        own = ["--images", str(tmp_path / "shades"), "--size", "8", "--name", "my-data"]
    root = tmp_path / "models"
    small = ["--only", "lr", "--threads", "1", "--repository", str(root)]
    result = run("tune", *own, "--trials", "2", "--epochs", "1", *small)
    assert result.exit_code == 0, result.output
    study = optuna.load_study(
        study_name="my-data", storage=f"sqlite:///{root / '.checkpoints' / 'my-data-tune.db'}"
    )
    assert [trial.state in DONE for trial in study.trials] == [True] * 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("to train: ")]
    quick = ["--seeds", "1", "--epochs", "1", "--threads", "1"]
    fitted = run(*shlex.split(line.removeprefix("to train: "))[3:], *quick)
    assert fitted.exit_code == 0, fitted.output
    card = ModelRepository(root).get("my-data").card
    assert card.fit is not None
    assert study.best_params.items() <= card.fit.hyperparameters.items()
    if kind == "table":
        assert card.table is not None
        assert "grade" not in card.table.by_name
        assert isinstance(card.table.by_name["visitors"], CategoryColumn)
        assert card.outputs[0].answer is not None
        assert card.outputs[0].answer.to_text() == "in euros"
        assert "sales" in result.stderr.partition("a new study")[0]  # shown before the search
        assert "visitors" not in result.stdout.partition("to train")[0]
    else:
        assert card.inputs[0].shape == (-1, 3, 8, 8)


def test_other_columns_of_a_table_are_another_search(tmp_path: Path) -> None:
    table = ["--table", str(write_shops(tmp_path)), "--target", "sales", "--only", "lr"]
    small = ["--trials", "1", "--epochs", "1", "--repository", str(tmp_path / "models")]
    assert run("tune", *table, *small).exit_code == 0
    other = run("tune", *table, *small, "--leave-out", "region")
    assert other.exit_code == 1
    assert "has the study of another search (sha256: " in other.output


# Trials.


def test_the_test_split_is_not_used(tmp_path: Path, curve: Dataset) -> None:
    blank = Split(torch.full_like(curve.test.inputs, torch.nan), curve.test.targets * torch.nan)
    blanked = replace(curve, test=blank)
    values = []
    for name, data in (("whole", curve), ("blanked", blanked)):
        search = search_of(data)
        study = open_study(tmp_path / f"{name}.db", search)
        for rate in (0.1, 0.3):
            study.enqueue_trial({"lr": rate})
        run_trials(study, search, 3, ignore)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]
    assert len(set(values[0])) > 1


def test_a_trial_that_is_worse_than_half_of_the_others_is_stopped_early(
    tmp_path: Path, curve: Dataset
) -> None:
    search = search_of(curve, epochs=40)
    study = open_study(tmp_path / "study.db", search)
    for rate in (0.11, 0.12, 0.13, 0.14, 0.011):
        study.enqueue_trial({"lr": rate})
    run_trials(study, search, 6, ignore)
    *kept, slow = study.trials
    assert [trial.state for trial in kept] == [TrialState.COMPLETE] * 5
    assert slow.state is TrialState.PRUNED
    assert 14 <= slow.last_step < 40
    assert slow.user_attrs["stopped"] == f"worse than half of the others at epoch {slow.last_step}"
    assert study.best_trial.params["lr"] > 0.1


losses = st.floats(0, 1e6)


@given(st.tuples(st.integers(0, 32), losses), st.tuples(st.integers(0, 32), losses))
def test_a_value_has_the_order_of_the_validation_score(
    few_digits: Dataset, first: tuple[int, float], second: tuple[int, float]
) -> None:
    search = search_of(few_digits)
    one, two = (
        Epoch(1, 0.1, 1.0, loss, right / len(few_digits.validation))
        for right, loss in (first, second)
    )
    higher = search.value(one) > search.value(two)
    if search.value(one) != search.value(two):  # losses that differ by a rounding error may tie
        assert higher == (one.score("classification") > two.score("classification"))
    else:
        assert first[0] == second[0]
    assert abs(search.value(one) - one.metric) <= 1 / len(few_digits.validation)


# Several processes.


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_the_trial_of_a_killed_process_runs_again(
    tmp_path: Path, curve: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tuning.study.GRACE_SECONDS", 1)
    search = search_of(curve)
    study = open_study(tmp_path / "study.db", search)
    trial = study.ask()  # as a process that is killed after its first heartbeat
    search.space.draw(trial)
    study._storage.record_heartbeat(trial._trial_id)
    assert started_trials(study) == 1
    wait_until(lambda: started_trials(study) == 0)
    run_trials(study, search, 1, ignore)
    killed, again = study.trials
    assert (killed.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == killed.params


def test_two_processes_share_a_study_that_ctrl_c_keeps(tmp_path: Path) -> None:
    # A background job of a shell ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [
        sys.executable, "-m", "training", "tune", "curve-linear", "--trials", "100000",
        "--epochs", "60", "--threads", "1", "--repository", str(tmp_path),
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        starts = [read_until(process, lambda line: "trial " in line) for process in processes]
        for process in processes:
            process.send_signal(signal.SIGINT)
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sum("a new study" in start for start in starts) >= 1
    for process, (stdout, stderr) in zip(processes, ends, strict=True):
        assert process.returncode == 130, stderr
        assert "interrupted: the study is kept" in stderr
        assert "Traceback" not in stderr
        assert "to train: python -m training fit curve-linear" in stdout
    study = study_of(tmp_path / ".checkpoints" / "curve-linear-tune.db")
    states = [trial.state for trial in study.trials]
    assert TrialState.RUNNING not in states
    assert sum(state in DONE for state in states) >= 2
    interrupted = [
        trial.params or trial.system_attrs.get("fixed_params")
        for trial in study.trials
        if trial.state is TrialState.FAIL
    ]
    waiting = [
        trial.system_attrs["fixed_params"]
        for trial in study.trials
        if trial.state is TrialState.WAITING
    ]
    # The other process may begin a waiting trial, and be interrupted as well.
    begun = {tuple(sorted(entry.items())) for entry in interrupted if entry}
    assert sorted(begun) == sorted(tuple(sorted(entry.items())) for entry in waiting)


def read_until(process: subprocess.Popen[str], condition: Callable[[str], bool]) -> str:
    """Return the lines of standard error up to the first that meets the condition."""
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if condition(line):
            return lines
    raise AssertionError(lines)
