"""The recipes for the curve: a line, two layers that are still a line, and a network that follows.

Results of `default` on the test split (each card has all figures):

    curve-linear  the least-squares line, for 5 of 5 seeds
    curve-mlp     the least-squares line, for 5 of 5 seeds
    curve-tanh    1.06 to 1.16 times the noise floor, 5 seeds
"""

from torch import nn

from models.package.card import Evaluation
from training.datasets import Dataset
from training.hyperparameters import ColumnHyperparameters
from training.recipe import Recipe
from training.recipes.columns import column_network
from training.reports import plots


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    return {"fitted-curve": plots.fitted_curve(network, data)}


_CURVE_USE = "Learn, and show, what a network of this kind can fit: y = x + 2 sin x on [0, 20]."
_CURVE_LIMITS = ("Outside [0, 20] its outputs are extrapolated and have no meaning.",)

_CURVE_TUTORIAL = ColumnHyperparameters(
    epochs=20, batch_size=1, optimizer="sgd", lr=1e-3, keep="last"
)
_LINE = ColumnHyperparameters(
    epochs=200,
    batch_size=240,
    optimizer="adam",
    lr=0.1,
    lr_scheduler="cosine",
    keep="last",
    rescale=True,
)

curve_linear = Recipe(
    name="curve-linear",
    summary="One linear unit: the least-squares line through a curve.",
    data="curve",
    tutorial=_CURVE_TUTORIAL,
    default=_LINE,
    build=column_network,
    pictures=_pictures,
    metric="mse",
    seeds=5,
    intended_use=_CURVE_USE,
    limits=("A line cannot follow the sine.", *_CURVE_LIMITS),
)

curve_mlp = Recipe(
    name="curve-mlp",
    summary="1-10-1 without an activation: two layers, and still a line.",
    data="curve",
    tutorial=_CURVE_TUTORIAL.model_copy(update={"hidden": (10,)}),
    default=_LINE.model_copy(update={"hidden": (10,)}),
    build=column_network,
    pictures=_pictures,
    metric="mse",
    seeds=5,
    intended_use=_CURVE_USE,
    limits=(
        "Without an activation two layers are equivalent to one: the network is still a line, "
        "no better than `curve-linear`.",
        *_CURVE_LIMITS,
    ),
)

curve_tanh = Recipe(
    name="curve-tanh",
    summary="1-10-1 with tanh: it follows the curve.",
    data="curve",
    tutorial=_CURVE_TUTORIAL.model_copy(
        update={"epochs": 200, "hidden": (10,), "activation": "tanh"}
    ),
    default=ColumnHyperparameters(
        epochs=1_500,
        keep="last",
        batch_size=60,
        optimizer="adam",
        lr=0.02,
        lr_scheduler="one-cycle",
        hidden=(10,),
        activation="tanh",
        rescale=True,
        nguyen_widrow=True,
    ),
    build=column_network,
    pictures=_pictures,
    metric="mse",
    seeds=5,
    intended_use=_CURVE_USE,
    limits=_CURVE_LIMITS,
)
