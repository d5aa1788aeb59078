"""Two loops on the same data, alternately: the time of an epoch, and the quality on the test split.

Both loops train the same network in the tutorial preset of a recipe, from the same seeds, on the
same rows and threads. The time of `train` includes its validation.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.datasets import Dataset
from training.loop import validate
from training.recipe import Recipe
from training.runs import train_seed

CPU = torch.device("cpu")

Run = tuple[float, float]
"""Seconds per epoch, and quality on the test split: the accuracy, or the mean squared error."""


@dataclass(frozen=True)
class Comparison:
    """A recipe, and the plain loop to compare `train` with.

    Attributes:
        recipe: the recipe.
        plain: trains with the plain loop: data, folder of the data, epochs and seed → run.
        epochs: of a run.
        min_speedup: the target.
        quality: what is compared on the test split, in the plural.
        to_text: writes a quality.
    """

    recipe: Recipe
    plain: Callable[[Dataset, Path, int, int], Run]
    epochs: int
    min_speedup: float
    quality: str
    to_text: Callable[[float], str]

    def fitserve(self, data: Dataset, epochs: int, seed: int) -> Run:
        """Train with the loop of `training.loop`."""
        preset = self.recipe.hyperparameters("tutorial")
        hyperparameters = preset.override({"epochs": epochs, "seed": seed})
        network, history = train_seed(self.recipe, hyperparameters, data, CPU)
        loss, accuracy = validate(network, data.test, data.task)
        return history.seconds / epochs, loss if data.task == "regression" else accuracy

    def run(self, data: Dataset, data_dir: Path, epochs: int, rounds: int, seeds: int) -> bool:
        """Run both loops and print their results; return whether both bounds hold.

        Args:
            data: of the recipe.
            data_dir: the folder of the data.
            epochs: of each run.
            rounds: of both loops, at least.
            seeds: over which the qualities are compared, each in one round.
        """
        batch_size = self.recipe.hyperparameters("tutorial").batch_size
        print(
            f"\n{self.recipe.name}: {len(data.train):,} rows an epoch in batches of "
            f"{batch_size:,}, {epochs} epochs a run; {self.quality} on {len(data.test):,} test "
            "samples\n"
        )
        self.fitserve(data, 1, 0)  # untimed: the first run of a process also imports and allocates
        print("round  seed  fitserve            plain loop")
        ours: list[Run] = []
        plain: list[Run] = []
        for number in range(max(rounds, seeds)):
            seed = number % seeds
            ours.append(self.fitserve(data, epochs, seed))
            plain.append(self.plain(data, data_dir, epochs, seed))
            shown = "  ".join(
                f"{seconds:6.2f} s  {self.to_text(quality):>8}"
                for seconds, quality in (ours[-1], plain[-1])
            )
            print(f"{number + 1:5}  {seed:4}  {shown}", flush=True)
        return self.report(ours, plain, seeds)

    def report(self, ours: Sequence[Run], plain: Sequence[Run], seeds: int) -> bool:
        """Print the results of all runs; return whether both bounds hold.

        Args:
            ours: the runs of `train`, with each seed once at first.
            plain: those of the plain loop, likewise.
            seeds: the number of seeds.
        """
        print()
        for name, runs in (("fitserve", ours), ("plain loop", plain)):
            seconds, qualities = [list(values) for values in zip(*runs, strict=True)]
            qualities = qualities[:seeds]
            low, high = self.to_text(min(qualities)), self.to_text(max(qualities))
            print(
                f"{name:10}  {statistics.median(seconds):6.2f} s an epoch "
                f"({min(seconds):.2f} to {max(seconds):.2f}), average of the {self.quality} "
                f"{self.to_text(statistics.fmean(qualities))} ({low} to {high})"
            )
        ratio = statistics.median(b for b, _ in plain) / statistics.median(a for a, _ in ours)
        first, second = ([quality for _, quality in runs[:seeds]] for runs in (ours, plain))
        difference = abs(statistics.fmean(first) - statistics.fmean(second))
        bound = max(value_range(first), value_range(second))
        is_fast, is_equal = ratio >= self.min_speedup, difference <= bound
        print(
            f"\nspeedup {ratio:.2f}: target {self.min_speedup:g} {'met' if is_fast else 'missed'}"
        )
        print(
            f"the averages of the {self.quality} differ by "
            f"{self.to_text(difference)}, {'' if is_equal else 'not '}within the "
            f"{self.to_text(bound)} between seeds"
        )
        return is_fast and is_equal


def value_range(values: Sequence[float]) -> float:
    """Return the difference of the highest and the lowest value."""
    return max(values) - min(values)
