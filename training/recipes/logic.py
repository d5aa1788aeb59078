"""The recipes for truth tables: a perceptron learns AND, and not XOR; two hidden units do.

The perceptron's loss makes a step of gradient descent the perceptron rule (Rosenblatt, 1958):
`w += lr (t - y) x`, where y is the answer and t the truth, both 0 or 1. The rule ends on AND, and
never on XOR, for which there is no line (Minsky and Papert, 1969). So `default` keeps the weights
of the epoch with the fewest errors: the pocket algorithm (Gallant, 1990).

Results on the truth table, for 20 seeds each (each card has all figures):

    perceptron-and  all four points right for 20 of 20 seeds
    perceptron-xor  three points right for 13 seeds, two for 7
    xor-mlp         all four points right for 20 of 20 seeds; with `tutorial`, for 14
"""

from typing import Any

from torch import Tensor, nn

from models.package.card import Evaluation
from training.datasets import Dataset
from training.hyperparameters import ColumnHyperparameters
from training.networks.feedforward import OneUnit
from training.optimization import Loss
from training.recipe import Recipe
from training.recipes.columns import column_network
from training.reports import plots


def perceptron_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the perceptron criterion: the sum of |unit| over the rows that are wrong.

    Args:
        outputs: the logits of `OneUnit`, float32 [N, 2].
        targets: int64 [N].
    """
    unit = outputs[:, 1]
    answers = (unit > 0).to(unit.dtype)
    return ((answers - targets) * unit).sum()


def _loss(hyperparameters: Any) -> Loss:
    return perceptron_loss


def _network(hyperparameters: ColumnHyperparameters, data: Dataset) -> nn.Module:
    return nn.Sequential(*column_network(hyperparameters, data, units=1), OneUnit())


def _pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    return {"decision-surface": plots.decision_surface(network, data)}


_LIMITS = (
    "Its accuracy is that on the four points of the truth table, with which it was trained: there "
    "are no others.",
    "Between the points, its answers have no meaning.",
)
_RULE = ColumnHyperparameters(epochs=50, batch_size=1, optimizer="sgd", lr=1, keep="last")

perceptron_and = Recipe(
    name="perceptron-and",
    summary="One unit with the perceptron rule: it learns AND.",
    data="and",
    tutorial=_RULE,
    default=_RULE.model_copy(update={"keep": "best"}),
    build=_network,
    loss=_loss,
    pictures=_pictures,
    metric="accuracy",
    seeds=20,
    intended_use="Learn, and show, what one unit can learn: a function that a line separates.",
    limits=_LIMITS,
)

perceptron_xor = Recipe(
    name="perceptron-xor",
    summary="One unit with the perceptron rule: it cannot learn XOR.",
    data="xor",
    tutorial=_RULE,
    default=_RULE.model_copy(update={"keep": "best"}),
    build=_network,
    loss=_loss,
    pictures=_pictures,
    metric="accuracy",
    seeds=20,
    intended_use="Learn, and show, what one unit cannot learn: no line separates XOR.",
    limits=(
        "No line has more than three of the four points of XOR on the right side: the rule makes "
        "errors in every epoch, and the weights of the best epoch are kept.",
        *_LIMITS,
    ),
)

xor_mlp = Recipe(
    name="xor-mlp",
    summary="2-2-1 with GELU: two hidden units learn XOR.",
    data="xor",
    tutorial=ColumnHyperparameters(
        epochs=1_000, batch_size=1, optimizer="sgd", lr=0.5, keep="last",
        hidden=(2,), activation="sigmoid",
    ),
    default=ColumnHyperparameters(
        epochs=300,
        batch_size=4,
        optimizer="adam",
        lr=0.1,
        lr_scheduler="cosine",
        keep="last",
        hidden=(2,),
        activation="gelu",
        rescale=True,
    ),
    build=_network,
    pictures=_pictures,
    metric="accuracy",
    seeds=20,
    intended_use="Learn, and show, that a hidden layer separates what no line separates.",
    limits=_LIMITS,
)  # fmt: skip
