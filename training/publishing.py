"""Whether a trained network may become the next version of its package, and its checkpoint if not.

The newest version of a package serves, so a network that is worse, was trained on other data, or
gives absurd answers must not become that version by accident.
"""

import io
import math
import os
import tempfile
from pathlib import Path

import torch

from models.card import ModelCard
from models.package import PackageError
from models.page import headline
from models.repository import ModelRepository
from training.datasets import Dataset
from training.fitting import Fitted
from training.recipes import Recipe

CHECKPOINT_FOLDER = ".checkpoints"
MIN_R2 = -9.0  # a squared error ten times that of answering the mean
MIN_SHARE_OF_CHANCE = 0.5
FIGURE_TOLERANCE = 1e-4  # relative: below the last digit that is shown, machines differ


class PublishError(RuntimeError):
    """A network that must not become the newest version: says why, with the figures."""


def check_data(recipe: Recipe, data: Dataset, root: Path) -> None:
    """Check, before any training, that the newest version was trained on the same data.

    Raises:
        PublishError: it was not.
        PackageError: the package's folder cannot be read.
    """
    card = _newest(recipe.name, root)
    if card is None:
        return
    there = card.fit.data if card.fit else None
    record = data.record()
    if there is None or (there.name, there.sha256) != (record.name, record.sha256):
        source = f"trained on {_named(there.name, there.sha256)}" if there else "added from a file"
        raise PublishError(
            f"{card.name}/{card.version} was {source} ({headline(card)}), this would be trained on "
            f"{_named(record.name, record.sha256)}: name another --repository, or --replace it"
        )


def check_result(fitted: Fitted, root: Path, *, replace: bool) -> None:
    """Check that a trained network is fit to be the newest version of its package.

    Args:
        fitted: the network and its figures.
        root: the repository.
        replace: also where its figure is worse than that of the newest version.

    Raises:
        PublishError: it is not finite, absurd, or worse.
        PackageError: the package's folder cannot be read.
    """
    _require_sane(fitted)
    card = None if replace else _newest(fitted.recipe.name, root)
    metric = fitted.recipe.metric
    if card is None or not card.evaluations or metric not in card.evaluations[0].metrics:
        return
    new, old = fitted.metric, card.evaluations[0].metrics[metric]
    worse = new < old if metric == "accuracy" else new > old
    if worse and not math.isclose(new, old, rel_tol=FIGURE_TOLERANCE):
        raise PublishError(
            f"{fitted.recipe.name}: {metric} {new:.6g} on the test split is worse than the "
            f"{old:.6g} of {card.name}/{card.version}: name another --repository, or --replace it"
        )


def write_checkpoint(fitted: Fitted, root: Path) -> Path:
    """Keep a network that is not published, in place of the one that was kept before.

    The file is read by `torch.load(path, weights_only=True)`: a dict of `recipe`, `setting`,
    `hyperparameters`, `data`, `epoch`, `metrics` and `weights`, the network's state dict.

    Returns:
        The file, below `root`, in a folder that no reader of packages looks into.

    Raises:
        OSError: it cannot be written.
    """
    folder = root / CHECKPOINT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(
        {
            "recipe": fitted.recipe.name,
            "setting": fitted.setting,
            "hyperparameters": fitted.settings.model_dump(),
            "data": fitted.data.record().model_dump(),
            "epoch": fitted.history.kept.epoch if fitted.history.kept else 0,
            "metrics": dict(fitted.evaluations[0].metrics),
            "weights": fitted.network.state_dict(),
        },
        content,
    )
    path = folder / f"{fitted.recipe.name}.pt"
    handle, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.getbuffer())
        Path(written).replace(path)
    except BaseException:
        Path(written).unlink()
        raise
    return path


def _newest(name: str, root: Path) -> ModelCard | None:
    """The card of the newest version that can be read."""
    repository = ModelRepository(root)
    for version in reversed(repository.versions(name)):
        try:
            return repository.get(name, version).card
        except PackageError:  # one that does not serve is no reason to keep another from serving
            continue
    return None


def _require_sane(fitted: Fitted) -> None:
    name, metrics = fitted.recipe.name, fitted.evaluations[0].metrics
    for key, value in fitted.network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise PublishError(f"{name}: the weights {key} are not finite: lower --lr")
    if fitted.data.labels:
        bound = MIN_SHARE_OF_CHANCE / len(fitted.data.labels)
        absurd = metrics["accuracy"] < bound
        reason = f"accuracy {metrics['accuracy']:.6g} is below half of what guessing gives"
    else:
        absurd = metrics["r2"] < MIN_R2
        reason = f"mse {metrics['mse']:.6g} is over ten times that of answering the mean"
    if absurd:
        raise PublishError(f"{name}: {reason}: lower --lr, or fit for more epochs")


def _named(name: str, sha256: str) -> str:
    return f"{name} (SHA-256 {sha256[:12]})"
