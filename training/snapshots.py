"""Snapshots of a training run: one file of safetensors each, with JSON in its header.

A snapshot is written every so many seconds and at Ctrl-C. `fit --resume` goes on with it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.datasets import Dataset
from training.hyperparameters import Hyperparameters
from training.recipe import Preset, Recipe
from training.state import TrainingState

CHECKPOINT_FOLDER = ".checkpoints"
"""The folder below a repository for snapshots and checkpoints; no reader of packages opens it."""
SECONDS = 60.0
"""The default time from one snapshot to the next."""


class SnapshotError(RuntimeError):
    """A snapshot that cannot be read, or is that of another run."""


class Snapshots:
    """The snapshots of one run, in one file that each replaces.

    Args:
        path: the file.
        run: what identifies the run, as JSON: the recipe, its hyperparameters and its data.
        every: the time from one snapshot to the next, in seconds.
        resume: whether to go on with the snapshot that is there.
    """

    def __init__(
        self, path: Path, run: Mapping[str, Any], *, every: float = SECONDS, resume: bool = False
    ) -> None:
        self._path = path
        self._run = json.loads(json.dumps(run))
        self._every = every
        self._resume = resume
        self._due = time.monotonic() + every

    def save_if_due(self, state: TrainingState) -> None:
        """Write a snapshot if the last one is old enough."""
        if time.monotonic() >= self._due:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Write a snapshot.

        Raises:
            OSError: the file cannot be written.
        """
        numbers = {"run": self._run, "state": state.numbers()}
        write_tensors(self._path, state.tensors(), numbers)
        self._due = time.monotonic() + self._every

    def restore(self, state: TrainingState) -> bool:
        """Set `state` to the snapshot, if there is one and the run is to be resumed.

        Raises:
            SnapshotError: the file cannot be read, or it belongs to another run.
        """
        if not self._resume or not self._path.exists():
            return False
        tensors, numbers = read_tensors(self._path)
        if numbers.get("run") != self._run:
            raise SnapshotError(
                f"{self._path}: the snapshot is of another run ({_difference(numbers, self._run)}):"
                " give the options of that run, or omit --resume to begin anew"
            )
        state.restore(tensors, numbers["state"])
        return True


def snapshots_of(
    recipe: Recipe, data: Dataset, root: Path, every: float, resume: bool
) -> Callable[[Preset, Hyperparameters], Snapshots]:
    """Return a function from preset and hyperparameters to the snapshots of that training."""
    record = data.record().model_dump()

    def of_seed(preset: Preset, hyperparameters: Hyperparameters) -> Snapshots:
        return Snapshots(
            _folder(recipe, root) / f"{preset}-{hyperparameters.seed}.safetensors",
            {"hyperparameters": hyperparameters.model_dump(), "data": record},
            every=every,
            resume=resume,
        )

    return of_seed


def remove_snapshots(recipe: Recipe, root: Path) -> None:
    """Remove the snapshots of a recipe, whose package is written."""
    shutil.rmtree(_folder(recipe, root), ignore_errors=True)


def _folder(recipe: Recipe, root: Path) -> Path:
    return root / CHECKPOINT_FOLDER / recipe.name


def write_tensors(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write tensors, and numbers as JSON, into one file. A file that is there is replaced whole.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, written = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        # Copies, since the format has no tensors that share memory.
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(_unshared(copies), written, metadata={"json": json.dumps(numbers)})
        Path(written).replace(path)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the numbers of a file.

    Raises:
        SnapshotError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            numbers: dict[str, Any] = json.loads((file.metadata() or {})["json"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SnapshotError(
            f"{path} cannot be read ({error}): remove it, or omit --resume to begin anew"
        ) from error
    return tensors, numbers


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a copy of each that shares memory with one before it."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        unshared[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return unshared


def _difference(numbers: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the first value that differs, as `lr: 0.1 there, 0.01 now`."""

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            inner: entry
            for name, value in values.items()
            for inner, entry in (value.items() if isinstance(value, dict) else [(name, value)])
        }

    before, now = flat(numbers.get("run", {})), flat(run)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{name}: {before.get(name)} there, {now.get(name)} now"
    return "it has no record of its run"
