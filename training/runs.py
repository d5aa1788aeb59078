"""Runs of a recipe: training and evaluation over several seeds, in one or both presets.

The validation split selects the seed of the exported network. The test split is used for
measurements only.
"""

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from models.package.card import Evaluation, SeedFigures
from training.datasets import Dataset
from training.evaluation import evaluate
from training.history import Epoch, History
from training.hyperparameters import Hyperparameters
from training.loop import train
from training.recipe import Preset, Recipe
from training.snapshots import Snapshots
from training.tracking.tracking import Tracking


@dataclass(frozen=True)
class RunResult:
    """A trained network, on the CPU and in eval mode, with its metrics.

    The first evaluation is that of the test split. `run_ids` has the id of the training at each
    tracker. `interrupted` is true if Ctrl-C interrupted the training of this network or of the
    comparison.
    """

    recipe: Recipe
    preset: Preset
    hyperparameters: Hyperparameters
    data: Dataset
    network: nn.Module
    history: History
    device: torch.device
    evaluations: tuple[Evaluation, ...]
    run_ids: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[SeedFigures, ...] = ()
    interrupted: bool = False

    @property
    def metric_name(self) -> str:
        """Return the name of the recipe's metric."""
        return self.recipe.metric_on(self.data)

    @property
    def metric(self) -> float:
        """Return the recipe's metric on the test split."""
        return self.evaluations[0].metrics[self.metric_name]

    @property
    def score(self) -> tuple[float, float]:
        """Return the validation score of the kept weights; larger is better."""
        epoch = self.history.kept
        return epoch.score(self.data.task) if epoch else (0.0, 0.0)


def train_seed(
    recipe: Recipe,
    hyperparameters: Hyperparameters,
    data: Dataset,
    device: torch.device,
    *,
    progress: bool = False,
    snapshots: Snapshots | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[nn.Module, History]:
    """Build and train the network of a recipe from one seed; return it, on the CPU.

    The options are those of `train`. The test split is not used.
    """
    torch.manual_seed(hyperparameters.seed)
    network = recipe.build(hyperparameters, data)
    history = train(
        network,
        data,
        hyperparameters,
        device=device,
        loss=recipe.loss(hyperparameters) if recipe.loss else None,
        augment=recipe.augment(hyperparameters, device) if recipe.augment else None,
        progress=progress,
        snapshots=snapshots,
        on_epoch=on_epoch,
    )
    return network.cpu(), history


def run_recipe(
    recipe: Recipe,
    preset: Preset,
    hyperparameters: Hyperparameters,
    data: Dataset,
    *,
    seeds: int,
    compare: bool,
    device: torch.device,
    progress: bool = True,
    snapshots: Callable[[Preset, Hyperparameters], Snapshots] | None = None,
    tracking: Tracking | None = None,
) -> RunResult:
    """Train a recipe over several seeds and return the best result by validation score.

    Ctrl-C ends the current training and starts no further one. An interrupted comparison is left
    out.

    Args:
        recipe: the recipe.
        preset: the preset that `hyperparameters` are derived from.
        hyperparameters: every hyperparameter; `seed` is the first seed.
        data: the data set.
        seeds: the number of consecutive seeds.
        compare: whether to measure the tutorial preset too, over the same seeds.
        device: the device for training.
        progress: whether to report progress on standard error.
        snapshots: returns the snapshots of the training of one seed in one preset.
        tracking: follows the training of each seed in each preset.
    """
    tracking = tracking or Tracking()

    def run_seed(preset: Preset, hyperparameters: Hyperparameters) -> RunResult:
        if progress:
            seed = hyperparameters.seed
            sys.stderr.write(f"{recipe.name}, {preset} preset, seed {seed}, on {device}\n")
        with tracking.run(recipe.name, preset, hyperparameters, data) as run:
            network, history = train_seed(
                recipe, hyperparameters, data, device,
                progress=progress,
                snapshots=snapshots(preset, hyperparameters) if snapshots else None,
                on_epoch=run.epoch,
            )  # fmt: skip
            evaluations = _evaluations(network, data)
            run.end(evaluations, interrupted=history.interrupted)
        result = RunResult(
            recipe, preset, hyperparameters, data, network, history, device, evaluations, run.ids,
            interrupted=history.interrupted,
        )  # fmt: skip
        if progress:
            figure = f"{result.metric_name} {result.metric:.4f}"
            sys.stderr.write(f"  {history.seconds:.0f} s; on the test split, {figure}\n")
        return result

    def run_seeds(preset: Preset, hyperparameters: Hyperparameters, first: int) -> list[RunResult]:
        results = []
        for seed in range(first, first + seeds):
            results.append(run_seed(preset, hyperparameters.override({"seed": seed})))
            if results[-1].interrupted:
                break
        return results

    results = run_seeds(preset, hyperparameters, hyperparameters.seed)
    interrupted = results[-1].interrupted
    figures = [_seed_figures(results)]
    if compare and preset != "tutorial" and recipe.tutorial and not interrupted:
        tutorial = run_seeds("tutorial", recipe.tutorial, hyperparameters.seed)
        interrupted = tutorial[-1].interrupted
        if not interrupted:
            figures.append(_seed_figures(tutorial))
    best = max(results, key=lambda result: result.score)
    return replace(best, seeds=tuple(figures), interrupted=interrupted)


def _evaluations(network: nn.Module, data: Dataset) -> tuple[Evaluation, ...]:
    evaluations = [
        evaluate(network, data, data.test, "test", references=True),
        evaluate(network, data, data.validation, "validation"),
    ]
    if data.external:
        external = data.external()
        evaluations.append(evaluate(network, external, external.all_rows, "all"))
    return tuple(evaluations)


def _seed_figures(results: list[RunResult]) -> SeedFigures:
    values = [result.metric for result in results]
    return SeedFigures(
        setting=results[0].preset,
        metric=results[0].metric_name,
        seeds=tuple(result.hyperparameters.seed for result in results),
        values=tuple(values),
        mean=statistics.fmean(values),
        standard_deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        samples=results[0].evaluations[0].samples,
    )
