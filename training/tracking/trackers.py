"""The writers of `--track`: JSON lines, TensorBoard and MLflow.

The packages of TensorBoard and MLflow are imported for their writers only.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from training.tracking.tracking import Figures, Run, Status, Tracker, Tracking

MLFLOW_SECONDS = 1.0
"""How often epochs are sent to MLflow."""
MOST_METRICS = 1_000
"""The metrics that MLflow takes in one call."""
STATUS: Mapping[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class TrackError(ValueError):
    """A tracker that does not exist, is given twice, or lacks its package or its place."""


def open_tracking(texts: Sequence[str]) -> Tracking:
    """Return the trackers that texts name: `jsonl:FILE`, `tensorboard:DIR`, `mlflow:EXPERIMENT`.

    Raises:
        TrackError: a text names no tracker, two name the same, or a package is not installed.
    """
    trackers: dict[str, Tracker] = {}
    for text in texts:
        kind, _, place = text.partition(":")
        if kind not in TRACKERS:
            forms = "jsonl:FILE, tensorboard:DIR, mlflow or mlflow:EXPERIMENT"
            raise TrackError(f"--track {text}: write {forms}")
        if kind in trackers:
            raise TrackError(f"--track {text}: {kind} is given twice")
        trackers[kind] = TRACKERS[kind](place)
    return Tracking(list(trackers.values()))


class JsonLines:
    """Appends an object on a line of its own for each start, epoch and end."""

    kind = "jsonl"

    def __init__(self, place: str) -> None:
        if not place:
            raise TrackError("--track jsonl: name the file, as jsonl:FILE")
        self._path = Path(place)
        self._run = ""

    def start(self, run: Run) -> str:
        """Begin a run, with its hyperparameters and its data."""
        self._run = run.name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(
            "start",
            recipe=run.recipe,
            preset=run.preset,
            hyperparameters=run.hyperparameters.model_dump(mode="json"),
            data={"name": run.data.name, "sha256": run.data.sha256},
        )
        return run.name

    def epoch(self, number: int, figures: Figures) -> None:
        """Write the figures of an epoch."""
        self._write("epoch", epoch=number, **figures)

    def end(self, status: Status, figures: Figures) -> None:
        """Write the final figures."""
        self._write("end", status=status, **figures)

    def _write(self, event: str, **values: Any) -> None:
        record = {"run": self._run, "event": event, "time": datetime.now(UTC).isoformat()}
        with self._path.open("a") as file:
            file.write(json.dumps(record | values) + "\n")


class TensorBoard:
    """Writes a folder of events for each run, below one folder."""

    kind = "tensorboard"

    def __init__(self, place: str) -> None:
        if not place:
            raise TrackError("--track tensorboard: name the folder, as tensorboard:DIR")
        _require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._open = SummaryWriter
        self._folder = Path(place)

    def start(self, run: Run) -> str:
        """Begin a run; its folder has the run's name."""
        self._writer = self._open(str(self._folder / run.name))
        self._hyperparameters = _flat(run)
        return run.name

    def epoch(self, number: int, figures: Figures) -> None:
        """Write the figures of an epoch as scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)

    def end(self, status: Status, figures: Figures) -> None:
        """Write the hyperparameters beside the final figures."""
        if figures:
            self._writer.add_hparams(self._hyperparameters, dict(figures), run_name=".")
        self._writer.close()


class MLflow:
    """Writes runs to the server or the file that `MLFLOW_TRACKING_URI` names."""

    kind = "mlflow"

    def __init__(self, place: str) -> None:
        _require("mlflow", "mlflow-skinny sqlalchemy alembic")
        # With MLflow's own seven retries, a server that is gone holds the training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        if mlflow.get_tracking_uri().startswith("sqlite"):  # as by default
            _require("sqlalchemy", "sqlalchemy alembic")
            _require("alembic", "sqlalchemy alembic")
        try:
            self._client = mlflow.MlflowClient()
        except mlflow.MlflowException as error:
            raise TrackError(f"--track mlflow: {' '.join(str(error).split())}") from error
        self._experiment = place
        self._run = ""
        self._waiting: list[mlflow.entities.Metric] = []
        self._sent = 0.0

    def start(self, run: Run) -> str:
        """Begin a run in the experiment that is given, or in that of the recipe."""
        from mlflow.entities import Param

        name = self._experiment or run.recipe
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"data": run.data.name, "data.sha256": run.data.sha256, "recipe": run.recipe}
        started = self._client.create_run(experiment, run_name=run.name, tags=tags)
        self._run = str(started.info.run_id)
        self._waiting, self._sent = [], time.monotonic()
        params = [Param(name, str(value)) for name, value in _flat(run).items()]
        self._client.log_batch(self._run, params=params)
        return self._run

    def epoch(self, number: int, figures: Figures) -> None:
        """Write the figures of an epoch: with those of others, if epochs take less than a second.

        Each call of the tracking server takes several milliseconds.
        """
        self._add(figures, number)
        full = len(self._waiting) > MOST_METRICS - len(figures)
        if full or time.monotonic() - self._sent > MLFLOW_SECONDS:
            self._send()

    def end(self, status: Status, figures: Figures) -> None:
        """Write the final figures, and end the run."""
        self._send()
        self._add(figures, 0)
        self._send()
        self._client.set_terminated(self._run, STATUS[status])

    def _add(self, figures: Figures, step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in figures.items()]

    def _send(self) -> None:
        self._client.log_batch(self._run, metrics=self._waiting)
        self._waiting, self._sent = [], time.monotonic()


TRACKERS: Mapping[str, Callable[[str], Tracker]] = {
    writer.kind: writer for writer in (JsonLines, TensorBoard, MLflow)
}


def _flat(run: Run) -> dict[str, bool | int | float | str]:
    """Return recipe, preset and hyperparameters, with anything but scalars as text."""
    values = run.hyperparameters.model_dump()
    return {"recipe": run.recipe, "preset": run.preset} | {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in values.items()
    }


def _require(module: str, packages: str) -> None:
    """Check that a module can be imported."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise TrackError(f"{error.name} is not installed: pip install {packages}") from error
