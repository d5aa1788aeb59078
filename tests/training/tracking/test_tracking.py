"""Tests of `fit --track`: what the trackers wrote is read with the libraries that define it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from models.package.readme import render_page
from models.package.repository import ModelRepository
from training.command_line import app
from training.datasets import Dataset
from training.history import Epoch
from training.loop import DivergedError
from training.recipes import RECIPES
from training.runs import RunResult, run_recipe
from training.tracking.trackers import TrackError, open_tracking
from training.tracking.tracking import Figures, Run, Status, Tracking

LINE = RECIPES["curve-linear"]
TUTORIAL_EPOCHS = 20


def fit(repository: Path, *arguments: str) -> Result:
    options = ["--seeds", "1", "--epochs", "3", "--threads", "1", "--repository", str(repository)]
    return CliRunner().invoke(app, ["fit", "curve-linear", *options, *arguments])


def train(data: Dataset, tracking: Tracking, *, seeds: int = 1, **values: Any) -> RunResult:
    """Train with three epochs, without an export."""
    return run_recipe(
        LINE, "default", LINE.default.override({"epochs": 3} | values), data, seeds=seeds,
        compare=False, device=torch.device("cpu"), progress=False, tracking=tracking,
    )  # fmt: skip


# The writers.


def test_json_lines_have_the_start_the_epochs_and_the_end_of_each_training(tmp_path: Path) -> None:
    file = tmp_path / "new" / "runs.jsonl"
    result = fit(tmp_path, "--track", f"jsonl:{file}")
    assert result.exit_code == 0, result.output
    card = ModelRepository(tmp_path).get("curve-linear").card
    assert card.fit is not None
    events = [json.loads(line) for line in file.read_text().splitlines()]
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        runs.setdefault(event["run"], []).append(event)
    default, tutorial = runs.values()
    assert card.fit.run_ids == {"jsonl": default[0]["run"]}
    for run, preset, epochs in ((default, "default", 3), (tutorial, "tutorial", TUTORIAL_EPOCHS)):
        start, *middle, end = run
        assert (start["event"], start["recipe"], start["preset"]) == (
            "start", "curve-linear", preset,
        )  # fmt: skip
        assert start["hyperparameters"]["epochs"] == epochs
        assert start["data"] == {"name": "curve", "sha256": card.fit.data.sha256}
        assert [event["epoch"] for event in middle] == list(range(1, epochs + 1))
        assert all(event["train_loss"] > 0 < event["validation_mae"] for event in middle)
        assert (end["event"], end["status"]) == ("end", "finished")
    assert default[-1]["final/test_mse"] == card.evaluations[0].metrics["mse"]
    assert default[-2]["validation_loss"] == pytest.approx(default[-1]["final/validation_mse"])


def test_a_second_fit_is_appended_under_another_id(tmp_path: Path, curve: Dataset) -> None:
    file = tmp_path / "runs.jsonl"
    ids = [train(curve, open_tracking([f"jsonl:{file}"])).run_ids["jsonl"] for _ in range(2)]
    names = [json.loads(line)["run"] for line in file.read_text().splitlines()]
    assert names == [ids[0]] * 5 + [ids[1]] * 5
    assert ids[0] != ids[1]


def test_tensorboard_reads_scalars_and_hyperparameters(tmp_path: Path, curve: Dataset) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    result = train(curve, open_tracking([f"tensorboard:{tmp_path / 'board'}"]))
    (folder,) = (tmp_path / "board").iterdir()
    assert result.run_ids == {"tensorboard": folder.name}
    events = EventAccumulator(str(folder)).Reload()
    assert {"lr", "train_loss", "validation_loss", "validation_mae"} <= set(
        events.Tags()["scalars"]
    )
    losses = events.Scalars("validation_loss")
    assert [event.step for event in losses] == [1, 2, 3]
    assert events.Scalars("lr")[0].value == pytest.approx(LINE.default.lr)
    (final,) = events.Scalars("final/validation_mse")
    assert final.value == pytest.approx(losses[-1].value)
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    data = plugin_data_pb2.HParamsPluginData.FromString(plugin.content)
    hyperparameters = data.session_start_info.hparams
    assert hyperparameters["lr"].number_value == pytest.approx(LINE.default.lr)
    assert hyperparameters["epochs"].number_value == 3
    assert hyperparameters["optimizer"].string_value == "adam"


@pytest.fixture
def mlflow_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that MLflow writes to; its database takes seconds to be made."""
    pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow-skinny")
    folder = tmp_path / "runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return folder


@pytest.mark.usefixtures("mlflow_folder")
@pytest.mark.parametrize(
    ("track", "experiment"), [("mlflow", "curve-linear"), ("mlflow:x y", "x y")]
)
def test_mlflow_reads_parameters_metrics_and_the_end(
    track: str, experiment: str, curve: Dataset
) -> None:
    from mlflow import MlflowClient

    result = train(curve, open_tracking([track]))
    client = MlflowClient()
    (found,) = [entry for entry in client.search_experiments() if entry.name == experiment]
    (run,) = client.search_runs([found.experiment_id])
    assert result.run_ids == {"mlflow": run.info.run_id}
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == str(LINE.default.lr)
    assert run.data.params["preset"] == "default"
    assert run.data.tags["data.sha256"] == curve.record().sha256
    history = client.get_metric_history(run.info.run_id, "validation_loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3]
    assert run.data.metrics["final/test_mse"] == result.metric


@pytest.mark.usefixtures("mlflow_folder")
def test_mlflow_gets_every_epoch_of_a_long_training(curve: Dataset) -> None:
    from mlflow import MlflowClient

    tracking = open_tracking(["mlflow"])
    with tracking.run("long", "default", LINE.default, curve) as run:
        for number in range(1, 601):
            run.epoch(Epoch(number, 0.1, 1.0, 1.0, 1.0))
        run.end([], interrupted=True)
    client = MlflowClient()
    assert len(client.get_metric_history(run.ids["mlflow"], "lr")) == 600
    assert client.get_run(run.ids["mlflow"]).info.status == "KILLED"


@pytest.mark.usefixtures("mlflow_folder")
def test_a_store_that_mlflow_refuses_is_a_one_line_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "refused").as_uri())
    result = fit(tmp_path, "--track", "mlflow")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("error: --track mlflow: ")


def test_a_server_that_is_gone_costs_a_warning(
    curve: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = train(curve, open_tracking(["mlflow"]))
    assert len(result.history.epochs) == 3
    assert result.run_ids == {}
    warning = "warning: mlflow failed, and the rest is not tracked there: API request to http://127"
    assert capsys.readouterr().err.count(warning) == 1


# Errors.


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["wandb"], "--track wandb: write jsonl:FILE, tensorboard:DIR, mlflow or mlflow:EXP"),
        (["jsonl"], "--track jsonl: name the file, as jsonl:FILE"),
        (["tensorboard:"], "--track tensorboard: name the folder, as tensorboard:DIR"),
        (["jsonl:a", "jsonl:b"], "--track jsonl:b: jsonl is given twice"),
    ],
)  # fmt: skip
def test_a_wrong_tracker_is_a_one_line_error_before_training(
    texts: list[str], message: str, tmp_path: Path
) -> None:
    result = fit(tmp_path, *(option for text in texts for option in ("--track", text)))
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("text", "module", "command"),
    [
        ("tensorboard:x", "tensorboard", "pip install tensorboard"),
        ("mlflow", "mlflow", "pip install mlflow-skinny sqlalchemy alembic"),
    ],
)
def test_a_package_that_is_absent_is_named_with_its_command(
    text: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TrackError, match=f"^{module} is not installed: {command}$"):
        open_tracking([text])


class Recorder:
    """A tracker that records its calls, and fails in one of them."""

    def __init__(self, kind: str, failing: str = "") -> None:
        self.kind = kind
        self.calls: list[str] = []
        self._failing = failing

    def start(self, run: Run) -> str:
        """Record the start."""
        self._call(f"start {run.preset} {run.hyperparameters.seed}")
        return f"{self.kind}-{run.name}"

    def epoch(self, number: int, figures: Figures) -> None:
        """Record the epoch."""
        self._call(f"epoch {number}")

    def end(self, status: Status, figures: Figures) -> None:
        """Record the end."""
        self._call(f"{status} {len(figures)}")

    def _call(self, call: str) -> None:
        self.calls.append(call)
        if self._failing and self._failing in call:
            raise RuntimeError("the disk is full\nand more")


@pytest.mark.parametrize("failing", ["start", "epoch 2", "finished"])
def test_a_tracker_that_fails_ends_no_training_and_warns_once(
    failing: str, curve: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = Recorder("bad", failing), Recorder("good")
    result = train(curve, Tracking([bad, good]), seeds=2)
    assert len(result.history.epochs) == 3
    every = ["start default 0", "epoch 1", "epoch 2", "epoch 3", "finished 10"]
    assert good.calls == [*every, "start default 1", *every[1:]]
    assert bad.calls == every[: [failing in call for call in every].index(True) + 1]
    assert result.run_ids["good"].startswith("good-curve-linear-default-")
    assert capsys.readouterr().err == (
        "warning: bad failed, and the rest is not tracked there: the disk is full\n"
    )


def test_the_id_is_that_of_the_seed_that_is_exported(curve: Dataset) -> None:
    result = train(curve, Tracking([Recorder("a")]), seeds=2)
    assert f"-default-{result.hyperparameters.seed}-" in result.run_ids["a"]


def test_a_training_that_fails_ends_its_run_as_failed(curve: Dataset) -> None:
    tracker = Recorder("a")
    with pytest.raises(DivergedError):
        train(curve, Tracking([tracker]), optimizer="sgd", lr=1e30)
    assert tracker.calls[-1] == "failed 0"


def test_the_page_of_a_package_shows_its_run_and_an_old_card_has_none(root: Path) -> None:
    card = ModelRepository(root / "models").get("curve-linear").card
    assert card.fit is not None
    assert card.fit.run_ids == {}
    assert "run in" not in render_page(card)
    fit = card.fit.model_copy(update={"run_ids": {"mlflow": "72ba3e05b9e7"}})
    assert "| run in mlflow | `72ba3e05b9e7` |" in render_page(card.model_copy(update={"fit": fit}))
