"""Checks before a trained network becomes the next version of its package, and checkpoints.

The newest version of a package is served. A network must not become that version by accident if
it is worse, was trained on other data, or has absurd outputs.
"""

import math
from pathlib import Path

from models.package.card import DataRecord, ModelCard
from models.package.model_package import PackageError
from models.package.readme import headline
from models.package.repository import ModelRepository
from training.datasets import Dataset
from training.recipe import Recipe
from training.runs import RunResult
from training.snapshots import CHECKPOINT_FOLDER, write_tensors

MIN_R2 = -9.0  # ten times the squared error of a constant output, the mean
MIN_SHARE_OF_CHANCE = 0.5
METRIC_TOLERANCE = 1e-4  # relative; machines differ in digits beyond those that are shown


class PublishError(RuntimeError):
    """A network that must not become the newest version. The message has the metrics."""


def check_data(recipe: Recipe, data: Dataset, root: Path) -> None:
    """Check, before any training, that the newest version was trained on the same data.

    Raises:
        PublishError: it was trained on other data.
        PackageError: the package's folder cannot be read.
    """
    card = _newest(recipe.name, root)
    if card is None:
        return
    old_data = card.fit.data if card.fit else None
    new_data = data.record()
    if old_data is None or (old_data.name, old_data.sha256) != (new_data.name, new_data.sha256):
        source = f"trained on {_name_and_digest(old_data)}" if old_data else "added from a file"
        raise PublishError(
            f"{card.name}/{card.version} was {source} ({headline(card)}), this would be trained on "
            f"{_name_and_digest(new_data)}: name another --repository, or --replace it"
        )


def check_result(result: RunResult, root: Path, *, replace: bool) -> None:
    """Check that a trained network may become the newest version of its package.

    Args:
        result: the network and its metrics.
        root: the repository.
        replace: whether to accept a network that is worse than the newest version.

    Raises:
        PublishError: the weights are not finite, or the metric is absurd or worse.
        PackageError: the package's folder cannot be read.
    """
    _require_sane(result)
    card = None if replace else _newest(result.recipe.name, root)
    metric = result.metric_name
    if card is None or not card.evaluations or metric not in card.evaluations[0].metrics:
        return
    new_metric, old_metric = result.metric, card.evaluations[0].metrics[metric]
    worse = new_metric < old_metric if metric == "accuracy" else new_metric > old_metric
    if worse and not math.isclose(new_metric, old_metric, rel_tol=METRIC_TOLERANCE):
        raise PublishError(
            f"{result.recipe.name}: {metric} {new_metric:.6g} on the test split is worse than the "
            f"{old_metric:.6g} of {card.name}/{card.version}: name another --repository, or "
            "--replace it"
        )


def write_checkpoint(result: RunResult, root: Path) -> Path:
    """Write the weights of a network that is not published; replaces an earlier checkpoint.

    The file is safetensors: the network's state dict. Its header has `json`: recipe, setting,
    hyperparameters, data, epoch and metrics.

    Returns:
        The file, in a folder below `root` that no reader of packages opens.

    Raises:
        OSError: the file cannot be written.
    """
    path = root / CHECKPOINT_FOLDER / f"{result.recipe.name}.safetensors"
    record = {
        "recipe": result.recipe.name,
        "setting": result.preset,
        "hyperparameters": result.hyperparameters.model_dump(),
        "data": result.data.record().model_dump(),
        "epoch": result.history.kept.epoch if result.history.kept else 0,
        "metrics": dict(result.evaluations[0].metrics),
    }
    write_tensors(path, result.network.state_dict(), record)
    return path


def _newest(name: str, root: Path) -> ModelCard | None:
    """Return the card of the newest readable version."""
    repository = ModelRepository(root)
    for version in reversed(repository.versions(name)):
        try:
            return repository.get(name, version).card
        except PackageError:  # an unreadable version is not served, so it is no baseline
            continue
    return None


def _require_sane(result: RunResult) -> None:
    name, metrics = result.recipe.name, result.evaluations[0].metrics
    for key, value in result.network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise PublishError(f"{name}: the weights {key} are not finite: lower --lr")
    if result.data.task == "classification":
        bound = MIN_SHARE_OF_CHANCE / len(result.data.labels)
        absurd = metrics["accuracy"] < bound
        reason = f"accuracy {metrics['accuracy']:.6g} is below half of what guessing gives"
    else:
        absurd = metrics["r2"] < MIN_R2
        reason = f"mse {metrics['mse']:.6g} is over ten times that of answering the mean"
    if absurd:
        raise PublishError(f"{name}: {reason}: lower --lr, or train for more epochs")


def _name_and_digest(data: DataRecord) -> str:
    return f"{data.name} (SHA-256 {data.sha256[:12]})"
