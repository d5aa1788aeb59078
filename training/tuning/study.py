"""A study: trials of a recipe with different hyperparameters, compared by the validation split.

A study is an SQLite file. Several processes may run its trials at the same time, and a later
process goes on with it. The test split is not used.
"""

import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import DatabaseError
from tqdm import tqdm

from training.datasets import Dataset
from training.history import Epoch
from training.loop import DivergedError
from training.recipe import Recipe
from training.runs import train_seed
from training.tuning.search_space import SearchSpace

HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
"""After this time without a heartbeat, the trial of a process that was killed runs again."""
LOCK_SECONDS = 60
"""How long a process waits while another one writes to the file."""
COMPARISONS = 20
"""How often a trial is compared with others, at most: each time, the study is read and written."""
COMPLETE_FIRST = 5
"""The number of trials that are complete before another one is stopped early.

No trial is stopped in the first third of its epochs: schedulers of the learning rate warm up.
"""


class TuneError(RuntimeError):
    """A study that cannot be opened, is that of another search, or has no complete trial."""


@dataclass(frozen=True)
class Search:
    """What the trials of a study have in common."""

    recipe: Recipe
    data: Dataset
    space: SearchSpace
    device: torch.device

    @property
    def epochs(self) -> int:
        """The epochs of a trial, if they are not searched."""
        return self.space.preset.epochs

    def record(self) -> dict[str, Any]:
        """Return what identifies the search, as JSON."""
        data = self.data.record()
        return {"recipe": self.recipe.name, "data": data.name, "sha256": data.sha256} | (
            self.space.record()
        )

    @property
    def score_name(self) -> str:
        """The name of the score by which people compare trials."""
        kind = "loss" if self.data.task == "regression" else "accuracy"
        return f"validation {kind}"

    def score(self, trial: FrozenTrial) -> float:
        """Return the score of a complete trial."""
        return float(trial.user_attrs[self.score_name])

    def value(self, epoch: Epoch) -> float:
        """Return the value of an epoch, in the order of its validation score.

        It is the validation loss of a regression, smaller is better. Of a classification it is the
        validation accuracy, larger is better; the loss decides between equal accuracies, and
        counts less than one row.
        """
        if self.data.task == "regression":
            return epoch.validation_loss
        loss = epoch.validation_loss
        return epoch.metric - loss / (1 + loss) / len(self.data.validation)


def open_study(path: Path, search: Search) -> Study:
    """Open the study of a file, or begin it. Its first trial is the preset.

    Raises:
        TuneError: the file cannot be opened, or it has the study of another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two processes would both make the tables
            study = optuna.create_study(
                storage=_storage(path),
                study_name=search.recipe.name,
                direction="minimize" if search.data.task == "regression" else "maximize",
                sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
                pruner=optuna.pruners.MedianPruner(COMPLETE_FIRST, math.ceil(search.epochs / 3)),
                load_if_exists=True,
            )
            _check_search(study, search, path)
    except OSError as error:
        raise TuneError(f"{path}: no study can be written there ({error.strerror})") from error
    except DatabaseError as error:
        reason = str(error.orig)
        raise TuneError(f"{path} has no study ({reason}): name another --study") from error
    return study


def _storage(path: Path) -> RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the heartbeat
        return RDBStorage(
            URL.create("sqlite", database=str(path)).render_as_string(),
            engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}},
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )


def _check_search(study: Study, search: Search, path: Path) -> None:
    """Check that the study is of this search; that of a new study is recorded."""
    now = search.record()
    before = study.user_attrs.get("search")
    if before is None:
        study.set_user_attr("search", now)
        study.enqueue_trial(search.space.first())
    elif before != now:
        names = sorted(before.keys() | now.keys())
        name = next(name for name in names if before.get(name) != now.get(name))
        raise TuneError(
            f"{path} has the study of another search ({name}: {before.get(name)} there, "
            f"{now.get(name)} now): give the options of that search, or name another --study"
        )


def started_trials(study: Study) -> int:
    """Return how many trials are complete, stopped early, or running in some process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return len(study.get_trials(deepcopy=False, states=states))


def run_trials(
    study: Study, search: Search, trials: int, report: Callable[[FrozenTrial], None]
) -> None:
    """Run trials until the study has `trials`, with those of all processes.

    Ctrl-C ends the epoch. The trial runs again when the study goes on.

    Args:
        study: the study.
        search: what the trials have in common.
        trials: the number of trials.
        report: called with each trial that this process has ended.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """

    def objective(trial: Trial) -> float:
        try:
            with interruptible():
                return _run_trial(trial, search)
        except KeyboardInterrupt:
            recorded = study.get_trials(deepcopy=False)[trial.number]
            if drawn := trial.params or recorded.system_attrs.get("fixed_params"):
                study.enqueue_trial(drawn)
            raise

    with _interrupted_in_trials() as interruptible:
        while started_trials(study) < trials:
            study.optimize(objective, n_trials=1, callbacks=[lambda _, trial: report(trial)])


@contextmanager
def _interrupted_in_trials() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield a context manager for trials; the first Ctrl-C outside of them is raised in the next.

    Optuna would leave a trial that it begins or ends at this moment as a running one.
    """
    interrupted = threading.Event()
    default = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or default is not signal.default_int_handler:
        yield nullcontext
        return

    def remember(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    @contextmanager
    def interruptible() -> Iterator[None]:
        signal.signal(signal.SIGINT, default)
        try:
            if interrupted.is_set():
                raise KeyboardInterrupt
            yield
        finally:
            signal.signal(signal.SIGINT, remember)

    signal.signal(signal.SIGINT, remember)
    try:
        yield interruptible
    finally:
        signal.signal(signal.SIGINT, default)


def _run_trial(trial: Trial, search: Search) -> float:
    """Train with the hyperparameters that a trial draws; return the value of the kept epoch.

    Raises:
        TrialPruned: the trial is worse than half of the others, or its loss is not finite.
        KeyboardInterrupt: after Ctrl-C.
    """
    hyperparameters = search.space.preset.override(search.space.draw(trial))
    epochs = hyperparameters.epochs
    every = math.ceil(epochs / COMPARISONS)

    def compare(epoch: Epoch) -> None:
        bar.update()
        if epoch.epoch % every == 0 and epoch.epoch < epochs:
            trial.report(search.value(epoch), epoch.epoch)
            if trial.should_prune():
                trial.set_user_attr(
                    "stopped", f"worse than half of the others at epoch {epoch.epoch}"
                )
                raise TrialPruned

    label = f"trial {trial.number}"
    with tqdm(desc=label, total=epochs, leave=False, disable=not sys.stderr.isatty()) as bar:
        try:
            _, history = train_seed(
                search.recipe, hyperparameters, search.data, search.device, on_epoch=compare
            )
        except DivergedError as error:
            trial.set_user_attr("stopped", "its loss is not finite")
            raise TrialPruned from error
    if history.interrupted:
        raise KeyboardInterrupt
    kept = history.kept or history.epochs[-1]
    score = kept.validation_loss if search.data.task == "regression" else kept.metric
    trial.set_user_attr(search.score_name, score)
    return search.value(kept)
