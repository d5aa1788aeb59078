"""From a recipe to a fitted network with its figures: several seeds, and both settings.

The seed that ships is chosen by the validation split. The test split only measures.
"""

import statistics
import sys
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from models.card import Evaluation, SeedFigures
from training.augmentation import distortion
from training.datasets import Dataset, digits
from training.evaluation import evaluate
from training.hyperparameters import Hyperparameters, ImageHyperparameters
from training.loop import History, fit
from training.recipes import Recipe, Setting


@dataclass(frozen=True)
class Fitted:
    """A fitted network and all that is known of it. The network is on the CPU, in eval mode.

    The first of `evaluations` is that of the test split. `interrupted` says that Ctrl-C cut a fit
    short: this one, or one that it was to be compared with.
    """

    recipe: Recipe
    setting: Setting
    settings: Hyperparameters
    data: Dataset
    network: nn.Module
    history: History
    device: torch.device
    evaluations: tuple[Evaluation, ...]
    seeds: tuple[SeedFigures, ...] = ()
    interrupted: bool = False

    @property
    def metric(self) -> float:
        """The recipe's figure on the test split."""
        return self.evaluations[0].metrics[self.recipe.metric]

    @property
    def score(self) -> tuple[float, float]:
        """The validation score of the kept weights; larger is better."""
        kept = self.history.kept
        return kept.score(bool(self.data.labels)) if kept else (0.0, 0.0)


def fit_recipe(
    recipe: Recipe,
    setting: Setting,
    settings: Hyperparameters,
    data: Dataset,
    *,
    seeds: int,
    compare: bool,
    device: torch.device,
    progress: bool = True,
) -> Fitted:
    """Fit `settings` over several seeds and give the best by validation score.

    Ctrl-C ends the fit that runs and starts no further one. A comparison that it cuts short is
    left out.

    Args:
        recipe: what to fit.
        setting: which of the recipe's two settings `settings` come from.
        settings: every hyperparameter; its seed is the first one.
        data: what to fit on.
        seeds: how many seeds, one after another.
        compare: whether the figures of the tutorial setting are measured too, over the same seeds.
        device: where to fit.
        progress: whether to tell, on standard error, how it goes.
    """

    def fit_each(setting: Setting, settings: Hyperparameters, first: int) -> list[Fitted]:
        runs = []
        for seed in range(first, first + seeds):
            runs.append(_fit_once(recipe, setting, settings, data, seed, device, progress))
            if runs[-1].interrupted:
                break
        return runs

    runs = fit_each(setting, settings, settings.seed)
    interrupted = runs[-1].interrupted
    figures = [_figures(runs)]
    if compare and setting != "tutorial" and not interrupted:
        others = fit_each("tutorial", recipe.tutorial, settings.seed)
        interrupted = others[-1].interrupted
        if not interrupted:
            figures.append(_figures(others))
    best = max(runs, key=lambda run: run.score)
    return replace(best, seeds=tuple(figures), interrupted=interrupted)


def _fit_once(
    recipe: Recipe,
    setting: Literal["default", "tutorial"],
    settings: Hyperparameters,
    data: Dataset,
    seed: int,
    device: torch.device,
    progress: bool,
) -> Fitted:
    if progress:
        sys.stderr.write(f"{recipe.name}, {setting} setting, seed {seed}, on {device}\n")
    settings = settings.override({"seed": seed})
    torch.manual_seed(seed)
    network = recipe.build(settings, data)
    images = isinstance(settings, ImageHyperparameters)
    augment = distortion(settings, device) if isinstance(settings, ImageHyperparameters) else None
    history = fit(network, data, settings, device=device, augment=augment, progress=progress)
    network.cpu()
    evaluations = [
        evaluate(network, data, data.test, "test", references=True),
        evaluate(network, data, data.validation, "validation"),
    ]
    if images and data.name != "digits":
        foreign = digits()
        evaluations.append(evaluate(network, foreign, foreign.whole, "all"))
    fitted = Fitted(
        recipe, setting, settings, data, network, history, device, tuple(evaluations),
        interrupted=history.interrupted,
    )  # fmt: skip
    if progress:
        sys.stderr.write(
            f"  {history.seconds:.0f} s; on the test split, {recipe.metric} {fitted.metric:.4f}\n"
        )
    return fitted


def _figures(runs: list[Fitted]) -> SeedFigures:
    values = [run.metric for run in runs]
    return SeedFigures(
        setting=runs[0].setting,
        metric=runs[0].recipe.metric,
        seeds=tuple(run.settings.seed for run in runs),
        values=tuple(values),
        mean=statistics.fmean(values),
        standard_deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        samples=runs[0].evaluations[0].samples,
    )
