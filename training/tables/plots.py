"""Pictures for networks on tables: residuals, calibration, and the importance of columns."""

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from training.datasets.table import TableDataset
from training.loop import predict
from training.reports.plots import BLUE, GREY, INK, ORANGE, picture

POINTS = 3_000
"""Test rows that are drawn."""
IMPORTANCE_ROWS = 5_000
"""Test rows whose columns are permuted."""
REPEATS = 3
SHOWN_COLUMNS = 25
BINS = 10


def residuals(network: nn.Module, data: TableDataset) -> bytes:
    """Plot prediction against truth, and the distribution of the residuals, on the test split."""
    truth = data.test.targets[:, 0].numpy()
    values = predict(network, data.test.inputs)[:, 0].numpy()
    some = np.random.default_rng(0).permutation(len(truth))[:POINTS]
    unit = f" ({data.unit})" if data.unit else ""
    with picture(8.4, 3.6) as (figure, save):
        left, right = figure.subplots(1, 2)
        ends = [min(truth.min(), values.min()), max(truth.max(), values.max())]
        left.plot(ends, ends, color=ORANGE, linewidth=1)
        left.scatter(values[some], truth[some], s=4, color=BLUE, alpha=0.4, linewidth=0)
        left.set(title="True and predicted", xlabel=f"predicted {data.target}{unit}",
                 ylabel=f"true {data.target}{unit}")  # fmt: skip
        left.xaxis.set_major_locator(MaxNLocator(6))
        errors = truth - values
        ends = np.quantile(errors, [0.005, 0.995]).tolist()
        right.hist(errors, bins=60, range=(ends[0], ends[1]), color=GREY)
        right.axvline(0, color=INK, linewidth=1)
        right.set(title="Residuals, without the outer 1 %", xlabel=f"true - predicted{unit}",
                  ylabel="test rows")  # fmt: skip
    return save.getvalue()


def calibration(network: nn.Module, data: TableDataset) -> bytes:
    """Plot how often the answered class is right, by its probability, on the test split."""
    probabilities, answered = predict(network, data.test.inputs).softmax(dim=1).max(dim=1)
    right = (answered == data.test.targets).double().numpy()
    order = np.argsort(probabilities.numpy(), kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    confidence = [float(probabilities.numpy()[part].mean()) for part in bins]
    accuracy = [float(right[part].mean()) for part in bins]
    errors = [2 * (share * (1 - share) / len(part)) ** 0.5
              for share, part in zip(accuracy, bins, strict=True)]  # fmt: skip
    with picture(4.6, 3.8) as (figure, save):
        axes = figure.subplots()
        low = min(*confidence, *accuracy)
        axes.plot([low, 1], [low, 1], color=GREY, linewidth=1, linestyle="--")
        axes.errorbar(confidence, accuracy, yerr=errors, color=BLUE, marker="o", markersize=4)
        axes.set(title=f"Calibration, {BINS} bins of equal numbers of rows",
                 xlabel="probability of the answered class", ylabel="share right")  # fmt: skip
    return save.getvalue()


def importances(network: nn.Module, data: TableDataset) -> dict[str, float]:
    """Return how much larger the loss is with each column permuted among the rows; largest first.

    The loss is the root of the mean squared error, or the negative log-likelihood (nats).
    Breiman, "Random forests" (2001).
    """
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(data.test), generator=generator)[:IMPORTANCE_ROWS]
    inputs, targets = data.test.inputs[some], data.test.targets[some]

    def loss(rows: torch.Tensor) -> float:
        outputs = predict(network, rows)
        if data.task == "regression":
            return float(mse_loss(outputs, targets).sqrt())
        return float(cross_entropy(outputs, targets))

    def permuted(places: slice) -> torch.Tensor:
        rows = inputs.clone()
        rows[:, places] = inputs[torch.randperm(len(inputs), generator=generator)][:, places]
        return rows

    base = loss(inputs)
    found = {
        name: sum(loss(permuted(places)) for _ in range(REPEATS)) / REPEATS - base
        for name, places in data.places
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def permutation_importance(network: nn.Module, data: TableDataset) -> bytes:
    """Plot how much the loss grows if a column is permuted among test rows."""
    shown = dict(list(importances(network, data).items())[:SHOWN_COLUMNS])
    unit = f" ({data.unit})" if data.unit else ""
    measure = f"root mean squared error{unit}"
    if data.task == "classification":
        measure = "negative log-likelihood (nats)"
    with picture(6.4, 1.2 + 0.24 * len(shown)) as (figure, save):
        axes = figure.subplots()
        names = [f"{name}  {growth:.3g}" for name, growth in shown.items()]
        axes.barh(names[::-1], list(shown.values())[::-1], color=BLUE, height=0.7)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(title="Importance of the columns", xlabel=f"growth of the {measure}")
        axes.tick_params(axis="y", length=0)
    return save.getvalue()
