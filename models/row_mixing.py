"""Which operator of a graph mixes the rows of a batch: found by following the batch axis.

The inputs' first axis counts rows. From node to node it is followed to the outputs, through
operators that are known to compute along other axes alone. The first node that does something else
is named: one that reduces, sorts, picks or joins rows, that draws random numbers, that computes
with the size of the batch, or that is not known here. So a graph in which none is named computes
each row for itself; one in which some is may do so too.
"""

from collections.abc import Set

import numpy as np

from models.graph import (
    COUNTS,
    MORE,
    Node,
    ObservedGraph,
    UnreadableGraphError,
    Value,
    observe,
)
from models.row_rules import RESHAPING, RULES, Call, MixesError, Rows, batch_axis
from models.runtimes import Arrays

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike"}  # fmt: skip
MOVING = RESHAPING | {"Cast", "Concat", "Gather", "Identity", "Slice", "Split", "Transpose"}
"""What they give are numbers that they were given."""
_INT64 = 7
"""ONNX's number of the type, which holds any size as it is."""
_MOST = 2**31
"""Of a size that is as large for three rows, no number of rows makes one that INT64 cannot hold."""
SHAPES_FROM = {"Expand": 1, "Pad": 1, "Reshape": 1, "Resize": 1, "Slice": 1, "Tile": 1}
"""The input from which on an operator takes sizes, which the size of the batch may be one of."""


def row_mixing(content: bytes, rows: Arrays) -> str | None:
    """Name the first operator that mixes rows, or is not known not to; None where none does.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        rows: of every input, at least one; the graph is computed for the first ones of them.

    Returns:
        A clause such as "ReduceMax (node_max) reduces over the rows".

    Raises:
        AddError: the package `onnx` is not installed.
    """
    batches = [
        {name: np.resize(array, (count, *array.shape[1:])) for name, array in rows.items()}
        for count in COUNTS
    ]
    try:
        graph = observe(content, batches)
    except UnreadableGraphError as error:
        return f"its graph cannot be followed ({error})"
    follower = _Follower(graph)
    for node in graph.nodes:
        try:
            follower.follow(node)
        except MixesError as found:
            return f"{node.kind} ({node.name}) {found}"
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return f"{node.kind} ({node.name}) cannot be followed"
    for name in graph.outputs:
        if follower.rows.get(name) != Rows(0):
            return f"the output {name} does not hold one row for each row"
    return None


class _Follower:
    """Follows the rows from node to node."""

    def __init__(self, graph: ObservedGraph) -> None:
        self._values = graph.values
        self._opset = graph.opset
        self.rows: dict[str, Rows] = {name: Rows(0) for name in graph.inputs}
        self._sized: set[str] = set()
        """The values that hold no rows, and depend on how many there are."""
        self._sizes: set[str] = set()
        """Of these, the values that hold sizes as they are, or so many times as much."""
        self._lengths: set[str] = set()
        """The values that hold no rows, and may depend on another free dimension."""
        self._plain_lengths: set[str] = set()
        """Of these, the values that hold lengths as they are, or so many times as much."""
        self._is_free = graph.is_free
        self._later = {name for node in graph.nodes for name in node.outputs if name}
        """What the nodes that were not followed yet give."""

    def follow(self, node: Node) -> None:
        """Find out where the rows are in what a node gives.

        Raises:
            MixesError: it is not certain that it computes each row for itself.
        """
        if node.kind in RANDOM or node.inner_kinds & {*RANDOM, "Dropout"}:
            raise MixesError("draws random numbers")
        taken = {*node.inputs, *(node.inner or ())}
        if taken & self._later:
            raise MixesError("stands before what it takes")
        self._later.difference_update(node.outputs)
        with_rows = [name for name in taken if name in self.rows]
        if not with_rows or node.kind in ("Shape", "Size"):
            self._follow_sizes(node, taken)
            return
        if node.inner is not None:
            raise MixesError("computes what depends on its values, and is not followed")
        most = SHAPES_FROM.get(node.kind, len(node.inputs))
        if any(name in self._sized for name in node.inputs[:most]):
            raise MixesError("computes with the number of rows")
        if any(name in self._sized - self._sizes for name in node.inputs[most:]):
            raise MixesError("takes a size that is computed from the number of rows")
        if node.kind in ("Expand", "Reshape", "Slice") and self._computed_lengths & {
            *node.inputs[most:]
        }:
            raise MixesError("takes a size that is computed from another size")
        if any(name in self.rows for name in node.inputs[most:]):
            raise MixesError("takes a size from a row")
        rule = RULES.get(node.kind)
        if rule is None:
            raise MixesError("is not known to compute each row for itself")
        structure = rule(
            Call(
                node,
                self._opset,
                self._values,
                self.rows,
                self._sized,
                self._sizes,
                self._lengths,
                self._is_free,
            )
        )
        for name in filter(None, node.outputs):
            self.rows[name] = self._found(name, structure)

    def _follow_sizes(self, node: Node, taken: set[str]) -> None:
        """What a node gives that takes no row, or the shape of one."""
        if node.kind == "Dropout" and len(node.inputs) > 2:
            raise MixesError("may draw random numbers")
        asks = node.kind in ("Shape", "Size")
        sized = self._sized & taken
        is_long = (asks and self._is_free) or bool(self._lengths & taken)
        for name in filter(None, node.outputs):
            value = self._value(name)
            if is_long:
                self._lengths.add(name)
                if self._keeps_lengths(node, taken):
                    self._plain_lengths.add(name)
            if asks and sized <= self._sizes:
                if not value.same:
                    self._sized.add(name)
                    if not sized:
                        self._sizes.add(name)
            elif not sized or self._is_settled(node, sized):
                if not value.same:
                    self._sized.add(name)
            elif self._keeps_sizes(node, sized):
                if not value.same:
                    self._sized.add(name)
                    self._sizes.add(name)
            elif (rows := self._repeated(node, value)) is not None:
                self.rows[name] = rows
            else:
                self._sized.add(name)

    @property
    def _computed_lengths(self) -> set[str]:
        return self._lengths - self._plain_lengths

    def _keeps_lengths(self, node: Node, taken: Set[str]) -> bool:
        """Whether a node gives lengths as they are, or so many times as much."""
        lengths = self._lengths & taken
        if node.kind in ("Shape", "Size"):
            return not self._computed_lengths & taken
        if not lengths <= self._plain_lengths:
            return False
        moves = node.kind in MOVING and not lengths & {*node.inputs[1:]}
        return moves or node.kind in ("Concat", "Mul")

    def _keeps_sizes(self, node: Node, sized: Set[str]) -> bool:
        """Whether a node gives sizes as they are, or so many times as much, for any number."""
        if not sized <= self._sizes or self._computed_lengths & {*node.inputs}:
            return False
        if node.kind == "Cast":
            return node.attributes.get("to") == _INT64
        if node.kind == "Mul":
            value = self._value(node.outputs[0]).arrays
            small = value is not None and bool(np.all(np.abs(value[-1]) < _MOST))
            return small and len(sized) == 1 and node.inputs[0] != node.inputs[1]
        if node.kind == "Div":
            return node.inputs[1] not in sized and self._divides(*node.inputs)
        if node.kind == "Where":
            return node.inputs[0] not in sized
        return node.kind == "Concat" or (node.kind in MOVING and not sized & {*node.inputs[1:]})

    def _divides(self, size: str, by: str) -> bool:
        """Whether a size, and so every multiple of it, is divided without a rest."""
        found = [value.arrays for value in (self._value(size), self._value(by))]
        numbers, divisors = (None if arrays is None else arrays[0] for arrays in found)
        if numbers is None or divisors is None or not np.all(divisors):
            return False
        return not np.any(numbers % divisors)

    def _is_settled(self, node: Node, sized: Set[str]) -> bool:
        """Whether it compares sizes, which are not negative, with negative numbers."""
        if node.kind != "Equal" or len(sized) != 1 or not sized <= self._sizes:
            return False
        (size,) = sized
        other = node.inputs[0] if node.inputs[1] == size else node.inputs[1]
        sizes, others = self._value(size).arrays, self._value(other).arrays
        if sizes is None or others is None or other in self._lengths:
            return False
        return bool(np.all((sizes[0] == sizes[-1]) | ((others[0] < 0) & (sizes[0] >= 0))))

    def _repeated(self, node: Node, value: Value) -> Rows | None:
        """Where the rows are in what holds something constant once for each row."""
        if node.kind not in ("ConstantOfShape", "Expand", "Tile"):
            return None
        *constant, shape = node.inputs
        if shape not in self._sizes or self._sized & {*constant}:
            return None
        axis = batch_axis(value)
        if axis is None or axis not in value.level:
            return None
        return Rows(axis, 1, value.shapes[-1][axis] // MORE)

    def _found(self, name: str, structure: tuple[int, int]) -> Rows:
        """Where the rows are in a value that has some, with this order along its axis."""
        value = self._value(name)
        axis, (outer, inner) = batch_axis(value), structure
        if axis is None or value.shapes[-1][axis] != outer * MORE * inner:
            raise MixesError(f"gives {list(value.shapes[-1])} for {MORE} rows")
        return Rows(axis, outer, inner)

    def _value(self, name: str) -> Value:
        if name not in self._values:
            raise MixesError("gives what is no tensor")
        return self._values[name]
