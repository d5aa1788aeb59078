"""The picture of a network that reads letters: what may follow after each of them."""

import numpy as np
import seaborn as sns
from torch import nn

from training.datasets import Dataset
from training.datasets.names import filled, letters, spelled
from training.loop import predict
from training.reports.plots import INK, ORANGE, picture


def letter_by_letter(network: nn.Module, data: Dataset) -> bytes:
    """Plot the probability of every next letter after each letter of one test name.

    Args:
        network: takes the beginnings of names, returns logits of the next letter.
        data: names. The name is the longest of the first 200 whole ones in the test split.
    """
    is_whole = data.test.targets == len(data.labels) - 1
    name = max(spelled(data.test.inputs[is_whole][:200]), key=len)
    begun = [name[:count] for count in range(len(name) + 1)]
    shares = predict(network, filled([letters(text) for text in begun])).softmax(dim=1).numpy()
    following = np.full(shares.shape, "", dtype=object)
    for row, label in enumerate([*name, data.labels[-1]]):
        following[row, data.labels.index(label)] = label
    with picture(0.3 * len(data.labels) + 2.6, 0.34 * len(begun) + 1.3) as (figure, save):
        axes = figure.subplots()
        sns.heatmap(
            shares,
            annot=following,
            fmt="",
            cmap=sns.light_palette(ORANGE, as_cmap=True),
            vmin=0,
            vmax=1,
            linewidths=0.5,
            linecolor="white",
            annot_kws={"size": 8, "color": INK},
            xticklabels=data.labels,
            yticklabels=[text or "(start)" for text in begun],
            cbar_kws={"label": "probability"},
            ax=axes,
        )
        axes.set(title=f"What may follow, in {name}", xlabel="next letter", ylabel="after")
        axes.tick_params(length=0)
        axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    return save.getvalue()
