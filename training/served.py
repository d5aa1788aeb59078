"""What a package holds of a trained network: a module from raw inputs to answers, with its tensors.

The module includes the preprocessing and, for a classifier, the softmax, so that clients send raw
inputs and read probabilities.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from models.kinds.tensor_spec import TensorSpec
from models.package.interfaces import IMAGE, POINT, X
from training.datasets import Dataset


def _one(rows: Tensor) -> tuple[Tensor, ...]:
    return (rows,)


@dataclass(frozen=True)
class Served:
    """The module that is exported, and its tensors.

    Attributes:
        module: in eval mode and on the CPU. The names of its arguments are those of `inputs`.
        inputs: the specifications of the arguments, in their order, the batch first.
        outputs: the specifications of what it returns.
        arguments: returns the arguments for inputs of the data set.
        card: further fields of the card.
        files: further files of the package, by name.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arguments: Callable[[Tensor], tuple[Tensor, ...]] = _one
    card: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class _Network(nn.Module):
    """A network with the softmax of a classification. Subclasses name the argument."""

    def __init__(self, network: nn.Module, classifies: bool) -> None:
        super().__init__()
        self.network = network
        self.classifies = classifies

    def answer(self, rows: Tensor) -> Tensor:
        output: Tensor = self.network(rows)
        if self.classifies:
            output = output.softmax(dim=1)
        return output


class _OnImage(_Network):
    def forward(self, image: Tensor) -> Tensor:
        return self.answer(image)


class _OnPoint(_Network):
    def forward(self, point: Tensor) -> Tensor:
        return self.answer(point)


class _OnX(_Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


class _OnFeatures(_Network):
    def forward(self, features: Tensor) -> Tensor:
        return self.answer(features)


def served_network(network: nn.Module, data: Dataset) -> Served:
    """Return a network of one input: an image, an x, a point, or a row of features.

    The outputs are `probabilities` for a classification, and `y` for a regression.
    """
    inputs = data.train.inputs
    columns = inputs.shape[1]
    kind: type[_Network]
    if data.input_kind == "images":
        kind, spec = _OnImage, IMAGE
    elif (data.task, columns) == ("classification", 2):
        kind, spec = _OnPoint, POINT
    elif (data.task, columns) == ("regression", 1):
        kind, spec = _OnX, replace(X, minimum=float(inputs.min()), maximum=float(inputs.max()))
    else:
        kind, spec = (
            _OnFeatures,
            TensorSpec(
                name="features",
                datatype="FP32",
                shape=(-1, columns),
                meaning="the columns of a row",
            ),
        )
    module = kind(network, classifies=data.task == "classification").eval()
    return Served(module, (spec,), (_output(data),))


def probabilities(data: Dataset) -> TensorSpec:
    """Return the output of a classification."""
    return TensorSpec(
        name="probabilities", datatype="FP32", shape=(-1, data.outputs), minimum=0, maximum=1,
        meaning="of each class; a row sums to 1", labels=data.labels,
    )  # fmt: skip


def _output(data: Dataset) -> TensorSpec:
    if data.task == "classification":
        return probabilities(data)
    meaning = "the curve's value at x" if data.truth else "the predicted value"
    return TensorSpec(name="y", datatype="FP32", shape=(-1, data.outputs), meaning=meaning)
