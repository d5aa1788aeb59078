"""Kills fits at random moments, resumes them, and compares their files with an undisturbed fit.

Every second fit is killed while it writes a snapshot. A fit whose training ended before its moment
is repeated with an earlier one. Prints a row for each killed fit: when it was killed, how far its
snapshot was, whether it left a partly written one, and whether the resumed fit wrote the same
files, byte for byte. The exit status is 1 if one did not.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from models.package.card import MODEL_FILES
from models.package.repository import ModelRepository
from training.snapshots import SnapshotError, read_tensors

RUNS = {
    "moons-tanh": ["--epochs", "400"],
    "mnist-cnn": ["--data", "digits", "--epochs", "8", "--batch-size", "64"],
}
"""The recipes, and what makes their fits short."""
COMPLETE = "complete"
"""The snapshot of a fit whose training has ended."""


class Fit(NamedTuple):
    """The command of a fit, and its repository."""

    recipe: str
    repository: Path

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the fit in a process of its own."""
        command = [
            sys.executable, "-m", "training", "fit", self.recipe, *RUNS[self.recipe],
            "--seeds", "1", "--no-compare", "--threads", "1", "--snapshot-every", "0.05",
            "--repository", str(self.repository), *more,
        ]  # fmt: skip
        # TorchScript writes the constants of a layer in the order of a set of strings.
        environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def complete(self, *more: str) -> None:
        """Run the fit to its end."""
        if self.start(*more).wait() != 0:
            raise SystemExit(f"the fit of {self.recipe} failed")

    def files(self) -> dict[str, bytes]:
        """The files of the network."""
        package = ModelRepository(self.repository).get(self.recipe)
        return {
            name: (package.path / name).read_bytes()
            for name in MODEL_FILES.values()
            if name in package.card.files
        }

    def progress(self) -> str:
        """How far the snapshot is."""
        (path,) = (self.repository / ".checkpoints" / self.recipe).glob("*.safetensors")
        try:
            state = read_tensors(path)[1]["state"]
        except SnapshotError as error:
            return str(error)
        if state["finished"]:
            return COMPLETE
        return f"epoch {len(state['epochs']) + 1}, batch {state['batches']}"

    def writes(self) -> bool:
        """Whether a snapshot is partly written."""
        return bool(list((self.repository / ".checkpoints" / self.recipe).glob(".*-*")))


def kill(fit: Fit, moment: float, *, in_write: bool) -> str | None:
    """Start a fit, kill it `moment` seconds after its first snapshot; return how far it was.

    With `in_write`, the kill waits for the next snapshot to be partly written. None means that the
    training had ended before.
    """
    process = fit.start()
    folder = fit.repository / ".checkpoints" / fit.recipe
    while process.poll() is None and not list(folder.glob("*.safetensors")):
        time.sleep(0.01)
    time.sleep(moment)
    while in_write and process.poll() is None and not fit.writes():
        pass  # a write takes milliseconds
    process.kill()
    process.wait()
    if not folder.exists() or (in_write and not fit.writes()):
        return None
    progress = fit.progress()
    if progress == COMPLETE:
        return None
    return progress + (", in a write" if fit.writes() else "")


def training_seconds(fit: Fit) -> float:
    """Run the fit to its end, and return the time from its first snapshot to its last."""
    process = fit.start()
    folder = fit.repository / ".checkpoints" / fit.recipe
    while process.poll() is None and not list(folder.glob("*.safetensors")):
        time.sleep(0.01)
    started = time.monotonic()
    process.wait()
    return time.monotonic() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and resume; print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of each recipe")
    options = parser.parse_args(arguments)
    moments = random.Random(0)  # noqa: S311 - moments, no secrets
    different = 0
    print("recipe      killed after  snapshot                         files")
    for recipe in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            undisturbed = Fit(recipe, Path(folder, "undisturbed"))
            longest = training_seconds(undisturbed)
            expected = undisturbed.files()
            for number in range(options.kills):
                fit = Fit(recipe, Path(folder, str(number)))
                moment = moments.uniform(0, longest)
                while (how_far := kill(fit, moment, in_write=number % 2 == 1)) is None:
                    shutil.rmtree(fit.repository)
                    longest = moment
                    moment = moments.uniform(0, longest)
                fit.complete("--resume")
                same = fit.files() == expected
                different += not same
                files = "same" if same else "DIFFERENT"
                print(f"{recipe:10}  {moment:10.2f} s  {how_far:31}  {files}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
