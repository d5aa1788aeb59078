"""The recipe of a network for a table: its network, hyperparameters, module and pictures."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.kinds.answers import NumberSpec
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Evaluation
from training.datasets.dataset import Dataset
from training.datasets.table import CATEGORIES, NUMBERS, TableDataset
from training.hyperparameters import TableHyperparameters
from training.recipe import Recipe
from training.reports import plots
from training.served import Served
from training.tables import plots as table_plots
from training.tables.network import TableNetwork

STEPS = 6_000
"""Of training, if that is 10 to 40 epochs."""
SMALL_ROWS = 2_000
"""Training rows of which a smaller network is fitted, since a larger one learns them by heart."""


class _Answers(nn.Module):
    """A network on a table, with the softmax of a classification. Subclasses name the inputs."""

    def __init__(self, network: TableNetwork, classifies: bool) -> None:
        super().__init__()
        self.network = network
        self.classifies = classifies

    def answered(self, numbers: Tensor, categories: Tensor) -> Tensor:
        output: Tensor = self.network.answer(numbers, categories)
        if self.classifies:
            output = output.softmax(dim=1)
        return output


class _OnBoth(_Answers):
    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        return self.answered(numbers, categories)


class _OnNumbers(_Answers):
    def forward(self, numbers: Tensor) -> Tensor:
        return self.answered(numbers, numbers)


class _OnCategories(_Answers):
    def forward(self, categories: Tensor) -> Tensor:
        return self.answered(categories, categories)


def build(hyperparameters: TableHyperparameters, data: Dataset) -> nn.Module:
    """Return the network for a table."""
    return TableNetwork(hyperparameters, _table(data))


def served(network: nn.Module, data: Dataset) -> Served:
    """Return the module of a package: numbers and codes → probabilities, or the target."""
    table = _table(data)
    assert isinstance(network, TableNetwork)  # noqa: S101 - `build` returns no other
    numbers, sizes = table.numbers, table.sizes
    inputs = []
    if numbers:
        inputs.append(
            TensorSpec(
                name=NUMBERS, datatype="FP32", shape=(-1, numbers),
                meaning="the numbers of a row; NaN for a missing one",
            )
        )  # fmt: skip
    if sizes:
        inputs.append(
            TensorSpec(
                name=CATEGORIES, datatype="INT64", shape=(-1, len(sizes)),
                minimum=0, maximum=max(sizes) - 1,
                meaning="the codes of the categories of a row",
            )
        )  # fmt: skip
    kind = _OnBoth if numbers and sizes else _OnNumbers if numbers else _OnCategories
    module = kind(network, classifies=table.task == "classification").eval()
    return Served(
        module, tuple(inputs), (_output(table),), arguments=table.parts, card={"table": table.table}
    )


def _output(data: TableDataset) -> TensorSpec:
    if data.task == "classification":
        return TensorSpec(
            name="probabilities", datatype="FP32", shape=(-1, data.outputs), minimum=0, maximum=1,
            meaning=f"of each class of {data.target}; a row sums to 1", labels=data.labels,
        )  # fmt: skip
    return TensorSpec(
        name="y", datatype="FP32", shape=(-1, 1), meaning=data.target,
        answer=NumberSpec(unit=data.unit),
    )  # fmt: skip


def pictures(network: nn.Module, data: Dataset, evaluation: Evaluation) -> dict[str, bytes]:
    """Return residuals, or the confusion matrix and the calibration; and what columns matter."""
    table = _table(data)
    importance = {"permutation-importance": table_plots.permutation_importance(network, table)}
    if table.task == "regression":
        return {"residuals": table_plots.residuals(network, table), **importance}
    return {
        "confusion-matrix": plots.confusion(evaluation),
        "calibration": table_plots.calibration(network, table),
        **importance,
    }


def hyperparameters_for(data: TableDataset) -> TableHyperparameters:
    """Return hyperparameters that suit the number of rows of a table."""
    rows = len(data.train)
    is_small = rows < SMALL_ROWS
    batch_size = min(1_024, max(32, rows // 100))
    return TableHyperparameters(
        epochs=min(40, max(10, STEPS * batch_size // rows)), batch_size=batch_size,
        optimizer="adamw", lr=2e-3, weight_decay=0.05, lr_scheduler="one-cycle",
        hidden=(64, 32) if is_small else (256, 128),
        dropout=0.3 if is_small else 0.1, bins=4 if is_small else 16,
    )  # fmt: skip


def table_recipe(name: str, data: TableDataset, limits: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe that trains a network on a table.

    Args:
        name: of the recipe and its package.
        data: the table.
        limits: further sentences for the card.
    """
    scale = float(data.train.targets.float().std())

    def loss(hyperparameters: Any) -> Any:
        """Return the squared error in deviations of the target, so that Adam's steps fit."""
        return lambda values, targets: mse_loss(values / scale, targets / scale)

    columns = len(data.table.columns)
    return Recipe(
        name=name,
        summary=f"{data.target} from {columns} columns of a table, by an MLP.",
        data=lambda _: data,
        build=build,
        default=hyperparameters_for(data),
        metric="mse" if data.task == "regression" else "accuracy",
        intended_use=f"Predict {data.target} for rows like those of {data.name}.",
        limits=(*data.notes, *limits),
        loss=loss if data.task == "regression" else None,
        served=served,
        pictures=pictures,
    )


def _table(data: Dataset) -> TableDataset:
    assert isinstance(data, TableDataset)  # noqa: S101 - the recipes here have no other data
    return data
