"""Tests of snapshots: a run that is killed and resumed gives the bytes of one that was not."""

import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from models.package.card import MODEL_FILES
from models.package.repository import ModelRepository
from training.datasets import Dataset
from training.hyperparameters import Hyperparameters
from training.loop import train
from training.recipes import RECIPES
from training.snapshots import SnapshotError, Snapshots, read_tensors
from training.state import TrainingState

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
RUN = {"hyperparameters": {"lr": 0.1}}


class KilledError(Exception):
    """The run ends here."""


class KilledAt(Snapshots):
    """Snapshots after each step, of which one ends the run after it is written."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path, RUN, every=0, resume=True)
        self._left = step

    def save_if_due(self, state: TrainingState) -> None:
        """Write a snapshot, and end the run at its step."""
        self.save(state)
        self._left -= 1
        if not self._left:
            raise KilledError


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("moons-linear", {"optimizer": "sgd", "lr": 0.1}),
    "adam, cosine": ("moons-linear", {}),
    "adamw, one-cycle, weight decay": ("moons-tanh", {"batch_size": 32}),
    "clipped, patient": ("moons-tanh", {"batch_size": 32, "clip_norm": 0.1, "patience": 1}),
    "dropout, averaged weights, distorted": ("mnist-mlp", {"dropout": 0.3, "hidden": (8,)}),
    "batch norm, channels last, averaged": ("mnist-cnn", {"channels": (2, 2, 2)}),
    "mixed precision": ("mnist-mlp", {"mixed_precision": True, "hidden": (8,)}),
}
EPOCHS = 3


def setting(case: str) -> tuple[str, Hyperparameters]:
    name, values = CASES[case]
    small = {"epochs": EPOCHS, "batch_size": 40}
    return name, RECIPES[name].default.override(small | values)


def trained(
    case: str, data: Dataset, snapshots: Snapshots | None = None
) -> tuple[dict[str, torch.Tensor], list[Any], int]:
    """Train; return the weights, the epochs and the one that was kept."""
    name, hyperparameters = setting(case)
    recipe = RECIPES[name]
    torch.manual_seed(hyperparameters.seed)
    network: nn.Module = recipe.build(hyperparameters, data)
    augment = recipe.augment(hyperparameters, CPU) if recipe.augment else None
    history = train(
        network, data, hyperparameters, device=CPU, augment=augment, progress=False,
        snapshots=snapshots,
    )  # fmt: skip
    assert history.kept is not None
    return copy.deepcopy(network.state_dict()), history.epochs, history.kept.epoch


def data_of(case: str, moons: Dataset, few_digits: Dataset) -> Dataset:
    return few_digits if CASES[case][0].startswith("mnist") else moons


@pytest.mark.parametrize("case", CASES)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kills=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_killed_run_goes_on_to_the_same_bytes(
    case: str,
    kills: list[int],
    moons: Dataset,
    few_digits: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = data_of(case, moons, few_digits)
    path = tmp_path_factory.mktemp("snapshots") / "run.safetensors"
    expected, epochs, kept = trained(case, data)
    for step in kills:
        try:
            trained(case, data, KilledAt(path, step))
        except KilledError:
            continue
        break  # the run was complete before the step
    torch.manual_seed(1234)  # the state of an earlier process is not there
    weights, resumed_epochs, resumed_kept = trained(case, data, Snapshots(path, RUN, resume=True))
    assert (resumed_epochs, resumed_kept) == (epochs, kept)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_a_complete_run_is_restored_without_a_further_step(moons: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    expected = trained("adam, cosine", moons, Snapshots(path, RUN))

    class NoStep(Snapshots):
        def save_if_due(self, state: TrainingState) -> None:
            raise AssertionError("a step was made")

    again = trained("adam, cosine", moons, NoStep(path, RUN, resume=True))
    assert again[1:] == expected[1:]
    assert all(torch.equal(again[0][name], value) for name, value in expected[0].items())


def test_without_resume_a_snapshot_is_not_read(moons: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"no snapshot")
    trained("sgd", moons, Snapshots(path, RUN))
    assert read_tensors(path)[1]["run"] == RUN


def test_the_snapshot_of_another_run_is_refused_with_what_differs(
    moons: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    trained("sgd", moons, Snapshots(path, RUN))
    other = {"hyperparameters": {"lr": 0.2}}
    with pytest.raises(SnapshotError, match=r"another run \(lr: 0.1 there, 0.2 now\)"):
        trained("sgd", moons, Snapshots(path, other, resume=True))


@pytest.mark.parametrize("content", [b"", b"no snapshot", b"\x10" + bytes(30)])
def test_a_file_that_is_no_snapshot_is_refused_in_one_sentence(
    content: bytes, moons: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"run.safetensors cannot be read .* remove it, or"):
        trained("sgd", moons, Snapshots(path, RUN, resume=True))


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(
    moons: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    trained("sgd", moons, Snapshots(path, RUN))
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.snapshots.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        trained("adam, cosine", moons, Snapshots(path, RUN, every=0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# The command.


def fit(repository: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "training", "fit", "moons-tanh", "--epochs", "150", "--seeds",
            "2", "--no-compare", "--threads", "1", "--snapshot-every", "0.05",
            "--repository", str(repository), *more,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # TorchScript writes the constants of a module in the order of a set of strings.
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONHASHSEED="0"),
    )  # fmt: skip


def files_of(repository: Path) -> dict[str, bytes]:
    package = ModelRepository(repository).get("moons-tanh")
    return {name: (package.path / name).read_bytes() for name in MODEL_FILES.values()
            if (package.path / name).exists()}  # fmt: skip


def complete(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return stdout + stderr


@pytest.mark.slow
def test_a_command_that_is_killed_and_resumed_writes_the_same_files(tmp_path: Path) -> None:
    complete(fit(tmp_path / "undisturbed"))
    killed, moments = tmp_path / "killed", random.Random(0)  # noqa: S311 - moments, no secrets
    for _ in range(2):
        process = fit(killed, "--resume")
        snapshots = killed / ".checkpoints" / "moons-tanh"
        while process.poll() is None and not list(snapshots.glob("*.safetensors")):
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    complete(fit(killed, "--resume"))
    assert files_of(killed) == files_of(tmp_path / "undisturbed")
    assert not snapshots.exists()  # they are removed with the package written


def test_after_ctrl_c_the_run_goes_on_with_resume(tmp_path: Path) -> None:
    process = fit(tmp_path, "--epochs", "3000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 150/"):
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "--resume goes on" in stderr
    refused = fit(tmp_path, "--epochs", "3001", "--resume")
    _, stderr = refused.communicate(timeout=100)
    assert refused.returncode == 1
    assert "(epochs: 3000 there, 3001 now)" in stderr
    resumed = fit(tmp_path, "--epochs", "3000", "--resume")
    assert resumed.stderr is not None
    first = next(line for line in resumed.stderr if line.startswith("epoch "))
    resumed.kill()
    resumed.communicate()
    assert int(first.split("/")[0].removeprefix("epoch ")) > 150
