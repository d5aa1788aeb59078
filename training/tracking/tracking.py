"""Tracking: each training of `fit` is passed on to the trackers that `--track` names.

A tracker that fails is left out from then on, with a warning: tracking ends no training.
"""

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from models.package.card import DataRecord, Evaluation
from training.datasets import Dataset, Task
from training.history import Epoch
from training.hyperparameters import Hyperparameters
from training.recipe import Preset

Status = Literal["finished", "interrupted", "failed"]
Figures = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What is known of a training before it begins.

    Attributes:
        name: the name of the run, unlike that of any other.
        recipe: the name of the recipe.
        preset: the preset that the hyperparameters are derived from.
        hyperparameters: every hyperparameter.
        task: the task of the data.
        data: the record of the data.
    """

    name: str
    recipe: str
    preset: Preset
    hyperparameters: Hyperparameters
    task: Task
    data: DataRecord


class Tracker(Protocol):
    """A writer of runs, one after another. Each method may raise any exception."""

    kind: str
    """The name of the writer, as `--track` has it."""

    def start(self, run: Run) -> str:
        """Begin a run; return the id by which the writer's readers find it."""

    def epoch(self, number: int, figures: Figures) -> None:
        """Write the figures of a completed epoch."""

    def end(self, status: Status, figures: Figures) -> None:
        """End the run, with its final figures; there are none unless it has finished."""


class Tracking:
    """Passes runs on to several trackers, without the exceptions that they raise."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    @contextmanager
    def run(
        self, recipe: str, preset: Preset, hyperparameters: Hyperparameters, data: Dataset
    ) -> Iterator["TrackedRun"]:
        """Begin a run, and end it as failed if an exception is raised before its end."""
        name = f"{recipe}-{preset}-{hyperparameters.seed}-{secrets.token_hex(4)}"
        run = Run(name, recipe, preset, hyperparameters, data.task, data.record())
        tracked = TrackedRun(self, run)
        try:
            yield tracked
        except BaseException:
            self.each(lambda tracker: tracker.end("failed", {}))
            raise

    def each(self, call: Callable[[Tracker], T]) -> dict[str, T]:
        """Return what each tracker returned, by its kind; one that fails is left out."""
        results = {}
        for tracker in tuple(self._trackers):
            try:
                results[tracker.kind] = call(tracker)
            except Exception as error:  # noqa: BLE001 - tracking ends no training
                self._trackers.remove(tracker)
                reason = str(error).partition("\n")[0] or type(error).__name__
                sys.stderr.write(
                    f"warning: {tracker.kind} failed, and the rest is not tracked there: {reason}\n"
                )
        return results


class TrackedRun:
    """A run that has begun.

    Attributes:
        ids: the id of the run at each tracker, by the kind of the tracker.
    """

    def __init__(self, tracking: Tracking, run: Run) -> None:
        self.ids = tracking.each(lambda tracker: tracker.start(run))
        self._tracking = tracking
        self._metric = "validation_accuracy" if run.task == "classification" else "validation_mae"

    def epoch(self, epoch: Epoch) -> None:
        """Write a completed epoch."""
        figures = {
            "lr": epoch.lr,
            "train_loss": epoch.train_loss,
            "validation_loss": epoch.validation_loss,
            self._metric: epoch.metric,
        }
        self._tracking.each(lambda tracker: tracker.epoch(epoch.epoch, figures))

    def end(self, evaluations: Sequence[Evaluation], *, interrupted: bool) -> None:
        """End the run with its evaluations: their figures are named as `final/test_accuracy`."""
        figures = {
            f"final/{evaluation.split}_{name}": value
            for evaluation in evaluations
            for name, value in evaluation.metrics.items()
        }
        status: Status = "interrupted" if interrupted else "finished"
        self._tracking.each(lambda tracker: tracker.end(status, figures))
