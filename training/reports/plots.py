"""The pictures of a package's report, as PNG bytes."""

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from models.package.card import Evaluation
from training.datasets import Dataset, Task
from training.history import Epoch, History
from training.loop import predict

INK, BLUE, ORANGE, GREY = "#1d2733", "#2563a8", "#d9772b", "#9aa5b1"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def report(pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return pictures by their file names in the package."""
    return {f"report/{name}.png": content for name, content in pictures.items()}


def loss_curves(history: History, task: Task) -> bytes:
    """Plot both losses and the validation error by epoch, and mark the kept epoch.

    The error is the share of rows that are wrong, or the mean absolute error of values.
    """
    with picture(8.4, 3.4) as (figure, save):
        losses, errors = figure.subplots(1, 2)
        epochs = [entry.epoch for entry in history.epochs]
        # Markers are legible on up to 40 epochs.
        marker = "o" if len(epochs) <= 40 else None

        def line(axes: Axes, label: str, colour: str, value: Callable[[Epoch], float]) -> None:
            values = [value(entry) for entry in history.epochs]
            axes.plot(epochs, values, label=label, color=colour, marker=marker, markersize=3)

        def error(entry: Epoch) -> float:
            return 1 - entry.metric if task == "classification" else entry.metric

        line(losses, "training", GREY, lambda entry: entry.train_loss)
        line(losses, "validation", BLUE, lambda entry: entry.validation_loss)
        line(errors, "validation", BLUE, error)
        for axes in (losses, errors):
            if history.kept:
                axes.axvline(
                    history.kept.epoch, color=ORANGE, linewidth=1, linestyle="--", label="kept"
                )
            axes.set(xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        losses.set(title="Loss", ylabel="loss", yscale="log")
        is_share = task == "classification"
        errors.set(title="Error", ylabel="share wrong" if is_share else "mean absolute error")
        errors.set_ylim(bottom=-0.02 if is_share else 0)
    return save.getvalue()


def confusion(evaluation: Evaluation) -> bytes:
    """Plot the confusion matrix as counts, with colour for mistakes only."""
    labels = [entry.label for entry in evaluation.classes]
    side = 2.2 + 0.42 * len(labels)
    with picture(side + 0.4, side) as (figure, save):
        axes = figure.subplots()
        counts = np.array(evaluation.confusion)
        mistakes = counts * (1 - np.eye(len(counts), dtype=int))
        sns.heatmap(
            mistakes,
            annot=counts,
            fmt="d",
            cmap=sns.light_palette(ORANGE, as_cmap=True),
            cbar=False,
            square=True,
            linewidths=0.5,
            linecolor="#eef1f4",
            vmin=0,
            vmax=max(1, int(mistakes.max())),
            annot_kws={"size": 7, "color": INK},
            xticklabels=labels,
            yticklabels=labels,
            ax=axes,
        )
        count = int(mistakes.sum())
        title = f"{count:,} of {evaluation.samples:,} wrong ({evaluation.data}, {evaluation.split})"
        axes.set(title=title, xlabel="answered", ylabel="true")
        axes.tick_params(length=0)
    return save.getvalue()


def confident_mistakes(network: nn.Module, data: Dataset, count: int = 18) -> bytes:
    """Plot the misclassified test images of the highest confidence."""
    probabilities = predict(network, data.test.inputs).softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    wrong_indices = (predicted != data.test.targets).nonzero().flatten()
    worst = wrong_indices[confidence[wrong_indices].argsort(descending=True)][:count]
    space = "\n" if max(map(len, data.labels)) > 2 else " "
    columns = 9
    rows = max(1, -(-len(worst) // columns))
    with picture(columns * 0.95, rows * 1.3 + 0.4) as (figure, save):
        figure.suptitle("The most confident mistakes", x=0.01, ha="left", color=INK, fontsize=11)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, index in zip(grid.flat, worst.tolist(), strict=False):
            pixels = data.test.inputs[index]
            if pixels.ndim == 3:  # channels first
                pixels = pixels.permute(1, 2, 0)
            axes.imshow(pixels.numpy(), cmap="gray_r", vmin=0, vmax=255)
            truth = data.labels[int(data.test.targets[index])]
            prediction = data.labels[int(predicted[index])]
            axes.set_title(
                f"{truth},{space}not {prediction}\n{confidence[index]:.0%}",
                fontsize=8,
                loc="center",
            )
    return save.getvalue()


def fitted_curve(network: nn.Module, data: Dataset) -> bytes:
    """Plot the training points, the true function and the fitted function."""
    x = torch.linspace(
        float(data.train.inputs.min()), float(data.train.inputs.max()), 500
    ).unsqueeze(1)
    with picture(6.4, 3.8) as (figure, save):
        axes = figure.subplots()
        points = data.train.inputs.numpy(), data.train.targets.numpy()
        axes.scatter(*points, s=9, color=GREY, label="training points")
        if data.truth:
            true = data.truth(x).numpy()
            axes.plot(x.numpy(), true, color=INK, linewidth=1, linestyle="--", label="true curve")
        axes.plot(x.numpy(), predict(network, x).numpy(), color=BLUE, linewidth=2, label="fitted")
        axes.set(title="Data and fit", xlabel="x", ylabel="y")
        axes.legend()
    return save.getvalue()


def decision_surface(network: nn.Module, data: Dataset) -> bytes:
    """Plot the probability of the second class over the plane, and the training points.

    A ring marks the points that are classified wrongly.
    """
    points: Tensor = data.train.inputs
    low, high = points.amin(dim=0) - 0.5, points.amax(dim=0) + 0.5
    first = torch.linspace(float(low[0]), float(high[0]), 200)
    second = torch.linspace(float(low[1]), float(high[1]), 200)
    grid = torch.cartesian_prod(first, second)
    surface = predict(network, grid).softmax(dim=1)[:, 1].view(200, 200).T.numpy()
    plane = first.numpy(), second.numpy(), surface
    with picture(6.4, 4.2) as (figure, save):
        axes = figure.subplots()
        colours = sns.blend_palette([BLUE, "#ffffff", ORANGE], as_cmap=True)
        filled = axes.contourf(*plane, levels=np.linspace(0, 1, 21), cmap=colours, alpha=0.75)
        axes.contour(*plane, levels=[0.5], colors=INK, linewidths=1)
        size = 14 if len(points) > 20 else 60
        wrong = points[predict(network, points).argmax(dim=1) != data.train.targets].numpy()
        if len(wrong):
            axes.scatter(
                wrong[:, 0], wrong[:, 1], s=6 * size, facecolor="none", edgecolor=INK, label="wrong"
            )
        for index, (label, colour) in enumerate(zip(data.labels, (BLUE, ORANGE), strict=True)):
            members = points[data.train.targets == index].numpy()
            axes.scatter(
                members[:, 0], members[:, 1], s=size, color=colour, edgecolor="white",
                linewidth=0.5, label=label,
            )  # fmt: skip
        figure.colorbar(filled, ax=axes, label=f"probability of the {data.labels[1]}")
        axes.set(title="Decision surface", xlabel="x1", ylabel="x2")
        axes.legend(loc="upper right", frameon=True, facecolor="white", framealpha=0.9)
    return save.getvalue()


def attention(weights: Sequence[Tensor], text: str, answer: str) -> bytes:
    """Plot from which characters of a text each character of the answer is made.

    Args:
        weights: of each layer, the mean of its heads, float32 [places, places].
        text: the characters of the places. The last of them are the answer without its end.
        answer: the characters that are written, the first after `text[-len(answer)]`.
    """
    with picture(0.42 * len(text) * len(weights) + 1.5, 0.42 * len(answer) + 1.2) as (figure, save):
        grid = figure.subplots(1, len(weights), squeeze=False)
        for layer, (axes, of_layer) in enumerate(zip(grid.flat, weights, strict=True), start=1):
            sns.heatmap(
                of_layer[-len(answer) :].numpy(),
                cmap=sns.light_palette(BLUE, as_cmap=True),
                vmin=0,
                vmax=1,
                cbar=False,
                square=True,
                linewidths=0.5,
                linecolor="white",
                xticklabels=list(text),
                yticklabels=list(answer),
                ax=axes,
            )
            axes.set(title=f"Attention of layer {layer}", xlabel="looks at", ylabel="to write")
            axes.tick_params(length=0, rotation=0)
    return save.getvalue()


def importances(
    shares: Mapping[str, float],
    drawn: Mapping[str, Sequence[Any]],
    results: Sequence[float],
    result: str,
    best: int,
    logarithmic: Collection[str] = (),
) -> bytes:
    """Plot what mattered in a search, and the results over the values that mattered most.

    Args:
        shares: the share of each hyperparameter; the largest is first.
        drawn: the values of each hyperparameter, one for each trial.
        results: the result of each trial.
        result: the name of the results.
        best: the index of the best trial, which is marked.
        logarithmic: the names of hyperparameters with a logarithmic axis.
    """
    bars_height = 0.7 + 0.22 * len(shares)
    with picture(6.4, bars_height + 2.2) as (figure, save):
        heights = [bars_height, 2.2]
        bars, points = figure.subfigures(2, 1, height_ratios=heights, squeeze=False).flat
        axes = bars.subplots()
        shown = axes.barh(list(shares), list(shares.values()), color=BLUE, height=0.6)
        axes.bar_label(shown, fmt="{:.0%}", padding=3)
        axes.set(title=f"What distinguished the best of {len(results):,} complete trials")
        axes.invert_yaxis()
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        most = list(shares)[:3]
        for axes, name in zip(
            points.subplots(1, len(most), sharey=True, squeeze=False).flat, most, strict=True
        ):
            values = drawn[name]
            axes.scatter(values, results, s=14, color=BLUE, edgecolor="white", linewidth=0.5)
            axes.scatter(values[best], results[best], s=26, color=ORANGE)
            axes.set(xlabel=name)
            if name in logarithmic:
                axes.set_xscale("log")
            if isinstance(values[0], int):  # powers of two, all of which are shown
                axes.set_xticks(sorted(set(values)), map(str, sorted(set(values))))
                axes.minorticks_off()
        points.axes[0].set(ylabel=result)
    return save.getvalue()


@contextmanager
def picture(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """Yield a figure, in inches, and its PNG stream, without changing matplotlib's global state."""
    stream = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, stream
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
