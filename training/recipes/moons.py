"""The recipes for two moons: the best straight line, and a network that separates them.

Results of `default` on the test split (each card has all figures):

    moons-linear  the best straight line but for one point in 10,000, 5 seeds
    moons-tanh    100 % of 10,000 fresh points, 5 of 5 seeds
"""

from torch import nn

from models.package.card import Evaluation
from training.datasets import Dataset
from training.hyperparameters import ColumnHyperparameters
from training.recipe import Recipe
from training.recipes.columns import column_network
from training.reports import plots


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    return {
        "confusion-matrix": plots.confusion(evaluation),
        "decision-surface": plots.decision_surface(network, data),
    }


_POINT_USE = "Learn, and show, how a network separates two interleaving half circles."
_POINT_LIMITS = ("Far from the moons its confidence is high, without a basis in the data.",)

moons_linear = Recipe(
    name="moons-linear",
    summary="One linear layer: the best straight line between two moons.",
    data="moons",
    tutorial=ColumnHyperparameters(
        epochs=50, batch_size=1, optimizer="sgd", lr=1e-3, keep="last"
    ),
    default=ColumnHyperparameters(
        epochs=300, batch_size=160, optimizer="adam", lr=0.1, lr_scheduler="cosine",
        keep="last", rescale=True,
    ),
    build=column_network,
    pictures=_pictures,
    metric="accuracy",
    seeds=5,
    intended_use=_POINT_USE,
    limits=("No straight line separates the moons.", *_POINT_LIMITS),
)  # fmt: skip

moons_tanh = Recipe(
    name="moons-tanh",
    summary="2-30-30-2 with tanh: it separates the moons.",
    data="moons",
    tutorial=ColumnHyperparameters(
        epochs=300, batch_size=1, optimizer="sgd", lr=1e-3, keep="last",
        hidden=(30, 30), activation="tanh",
    ),
    default=ColumnHyperparameters(
        epochs=300,
        batch_size=16,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.01,
        lr_scheduler="one-cycle",
        hidden=(30, 30),
        activation="tanh",
        rescale=True,
    ),
    build=column_network,
    pictures=_pictures,
    metric="accuracy",
    seeds=5,
    intended_use=_POINT_USE,
    limits=_POINT_LIMITS,
)  # fmt: skip
