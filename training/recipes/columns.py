"""The network of the recipes on one or two columns: an MLP, in the units of the data."""

from torch import Tensor, nn

from training.datasets import Dataset
from training.hyperparameters import ColumnHyperparameters
from training.networks.feedforward import Affine, mlp, nguyen_widrow_


def column_network(
    hyperparameters: ColumnHyperparameters, data: Dataset, units: int | None = None
) -> nn.Sequential:
    """Return an MLP that takes the columns of `data` as they are.

    If `rescale` is set, inputs and outputs are rescaled inside it.

    Args:
        hyperparameters: the layers and their initialisation.
        data: the data set.
        units: the units of the last layer; None for one of each class or value.
    """
    inputs, targets = data.train.inputs, data.train.targets
    network = mlp(
        inputs.shape[1],
        hyperparameters.hidden,
        units or data.outputs,
        hyperparameters.activation,
    )
    first = network[0]
    if hyperparameters.nguyen_widrow and isinstance(first, nn.Linear):
        nguyen_widrow_(first)
    if not hyperparameters.rescale:
        return network
    layers = [_to_unit_range(inputs), *network]
    if data.task == "regression":
        to_unit = _to_unit_range(targets)
        inverse = Affine(-to_unit.shift / to_unit.scale, 1 / to_unit.scale)
        layers.append(inverse)
    return nn.Sequential(*layers)


def _to_unit_range(values: Tensor) -> Affine:
    low, high = values.amin(dim=0), values.amax(dim=0)
    return Affine((low + high) / 2, (high - low) / 2)
