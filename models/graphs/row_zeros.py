"""The values of a graph of which 0 or -0 depends on the place in the batch.

Max and Min of 0 and -0 give the one or the other, by their place in a vector of the processor.
"""

from collections.abc import Callable, Mapping

import numpy as np

from models.graphs.graph import Node, Value, is_subnormal
from models.graphs.row_rules import MixesError

SIGN_TELLING = {"Div": 1, "LabelEncoder": 0, "Pow": 0, "QuantizeLinear": 1, "Reciprocal": 0}
"""By operator: the input of which 0 and -0 have unlike results."""
UNSIGNED = {"Abs", "Cos", "Cosh", "Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Sigmoid",
            "Softmax"}  # fmt: skip
"""Operators of which 0 and -0 have the same result, or results of the same sign."""


class DoubtfulZeros:
    """Follows these values from node to node.

    Args:
        values: the values of the graph.
        varies: whether a value has rows, or depends on an input that rows share.
    """

    def __init__(self, values: Mapping[str, Value], varies: Callable[[str], bool]) -> None:
        self._values = values
        self._varies = varies
        self._names: set[str] = set()

    def follow(self, node: Node) -> None:
        """Find such values among the outputs of a node.

        Raises:
            MixesError: the node distinguishes 0 from -0 where either may be computed.
        """
        doubtful = [name for name in node.inputs if name in self._names]
        position = SIGN_TELLING.get(node.kind.rpartition(".")[2])
        is_power = node.kind == "Pow" and self._is_positive(node, 1)
        if position is not None and node.inputs[position] in doubtful and not is_power:
            raise MixesError("tells 0 from -0, of which Max or Min give either")
        others = [name for name in node.inputs if name not in doubtful]
        has_constant = any(self._is_nonzero(name) for name in others)
        if node.kind in ("Max", "Min"):
            chooses = bool(doubtful) or sum(not self._is_nonzero(name) for name in others) > 1
        elif node.kind in ("Add", "Sub"):
            chooses = bool(doubtful) and not has_constant
        elif node.kind == "Clip":
            chooses = bool(doubtful) and not self._is_positive(node, 1)
        else:
            chooses = bool(doubtful) and node.kind not in UNSIGNED
        for name in filter(None, node.outputs):
            kind = self._values[name].dtype.kind
            if chooses and kind == "f":
                self._names.add(name)
            elif doubtful and kind not in "biuf":
                raise MixesError("writes 0 or -0 as text, of which Max or Min give either")

    def _is_nonzero(self, name: str) -> bool:
        """Return whether a value is constant, without numbers that are or count as zero."""
        arrays = self._values[name].arrays if name in self._values else None
        return (
            not self._varies(name)
            and arrays is not None
            and not any(np.any(array == 0) or is_subnormal(array) for array in arrays)
        )

    def _is_positive(self, node: Node, index: int) -> bool:
        """Return whether an input is constant and has only positive numbers."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        arrays = self._values[name].arrays if self._is_nonzero(name) else None
        return arrays is not None and all(bool(np.all(array > 0)) for array in arrays)
