"""What comes of a study: the best hyperparameters as JSON, and what mattered as a picture."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from training.reports import plots
from training.tuning.search_space import Distribution
from training.tuning.study import Search, TuneError

BEST_SHARE = 0.25
"""What matters is what distinguishes this share of the complete trials, the best, from all."""
MIN_TRIALS = 8
"""The complete trials of which it is computed; of fewer, one or none would be the best."""


@dataclass(frozen=True)
class Result:
    """The best trial of a study, and the files that were written.

    Attributes:
        trial: the best trial.
        values: the hyperparameters that the search has set, as JSON has them.
        file: the JSON file with these.
        picture: the PNG file of what mattered, if there are enough trials.
    """

    trial: FrozenTrial
    values: dict[str, Any]
    file: Path
    picture: Path | None


def write_result(study: Study, search: Search, path: Path) -> Result:
    """Write the files of the result beside the file of the study.

    Raises:
        TuneError: no trial is complete.
        OSError: a file cannot be written.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise TuneError("no trial is complete: search smaller learning rates, as --set lr=1e-5:0.1")
    best = study.best_trial
    values = search.space.values(best.params)
    file, picture = path.with_suffix(".json"), path.with_suffix(".png")
    _replace(file, json.dumps(values, indent=1).encode() + b"\n")
    if len(complete) < MIN_TRIALS:
        return Result(best, values, file, None)
    _replace(picture, _what_mattered(study, search, complete, best.number))
    return Result(best, values, file, picture)


def _what_mattered(study: Study, search: Search, complete: list[FrozenTrial], best: int) -> bytes:
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = get_param_importances(study, evaluator=evaluator)
    return plots.importances(
        shares,
        {name: [_plotted(trial.params[name]) for trial in complete] for name in shares},
        [search.score(trial) for trial in complete],
        search.score_name,
        [trial.number for trial in complete].index(best),
        [name for name, entry in search.space.distributions.items() if _is_logarithmic(entry)],
    )


def _plotted(value: Any) -> Any:
    return str(value) if isinstance(value, bool) else value


def _is_logarithmic(distribution: Distribution) -> bool:
    if isinstance(distribution, FloatDistribution):
        return distribution.log
    return not isinstance(distribution.choices[0], str | bool)


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole: another process may write it at the same time."""
    written = path.with_name(f".{path.name}-{os.getpid()}")
    written.write_bytes(content)
    written.replace(path)
