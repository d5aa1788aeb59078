"""The search of a graph for an operator that mixes the rows of a batch.

The batch axis of every input is known. It is followed from node to node to the outputs,
through operators that are known to compute along other axes only. The first other node is reported:
a node that reduces, sorts, selects or joins rows, draws random numbers, computes with the batch
size, or is unknown. In a graph without such a node, rows are independent; in a graph with one they
may be independent too.
"""

import math
from collections.abc import Sequence, Set

import numpy as np

from models.graphs.branches import BranchObserver
from models.graphs.graph import (
    MORE,
    Node,
    ObservedGraph,
    UnreadableGraphError,
    Value,
    attribute_numbers,
    is_subnormal,
)
from models.graphs.row_attributes import unknown_attribute
from models.graphs.row_distances import is_distances
from models.graphs.row_places import Places, numbered_axis, picked, picked_in_rows, places_of
from models.graphs.row_rules import (
    ELEMENTWISE,
    RESHAPING,
    RULES,
    Call,
    MixesError,
    Rows,
    batch_axis,
)
from models.graphs.row_texts import TEXT_RULES, filling_of
from models.graphs.row_zeros import DoubtfulZeros
from models.kinds.batch_axes import ROWS_FIRST, BatchAxes
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays

MOVING = RESHAPING | {"Cast", "Concat", "Gather", "Identity", "Slice", "Split", "Transpose"}
"""Operators whose outputs are values of their inputs."""
_EVERY = {**RULES, **TEXT_RULES}
_INT64 = 7
"""The code of INT64 in ONNX; it represents any size."""
_MOST = 2**31
"""A size below this for three rows fits into INT64 for any number of rows."""
MOST_BYTES = 2**31
"""The largest total size of all values for three rows, in bytes."""
SIZES_AT = {"Expand": 1, "Reshape": 1, "Resize": 3, "Slice": 2}
"""By operator: the input with sizes, one of which may be the batch size."""

SUBNORMAL_TELLING = {"Log", "Mod", "Pow"}
"""Operators of the C library, which computes with subnormal floats. Others take them for zero, or
pass them on, by their place in a vector of the processor."""
FILLING = {
    "Concat", "Pad", "ScatterElements", "ScatterND", "Shape", "Size",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "TfIdfVectorizer",
}  # fmt: skip
"""Operators that set their whole output, also if they take a tensor without numbers.

Other operators may leave it as they find it in the memory, such as products over no columns.
"""


def row_mixing(
    content: bytes,
    sizes: Sequence[Arrays],
    axes: BatchAxes = ROWS_FIRST,
    weights: Weights | None = None,
) -> list[str | None]:
    """Return the first operator that mixes rows, or may mix them, for each size.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        sizes: for each size, at least one row of every input, with the rows first. Sizes after the
            first whose values would need too much memory are not computed.
        axes: the axes of the batch in the graph.
        weights: the content of the file beside the ONNX file, if it has one.

    Returns:
        For each size, a clause such as "ReduceMax (node_max) reduces over the rows"; None if no
        operator mixes rows.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        observer = BranchObserver(content, weights)
    except UnreadableGraphError as error:
        return [_unreadable(error)] * len(sizes)
    reasons: dict[int, str | None] = {}
    computed = [(0, 0)]  # values in a row, and bytes of all values of the graph
    for index in [
        0,
        *sorted(range(1, len(sizes)), key=lambda position: _row_size(sizes[position])),
    ]:
        numbers = _row_size(sizes[index])
        smaller, size = max(observed for observed in computed if observed[0] <= numbers)
        if smaller and size * (numbers / smaller) ** 2 > MOST_BYTES:  # as attention
            reasons[index] = "its values at this size take too much memory to be followed"
            continue
        try:
            graph = observer.observe(sizes[index], axes)
        except UnreadableGraphError as error:
            reasons[index] = _unreadable(error)
            continue
        computed.append((numbers, graph.size))
        reasons[index] = mixing(graph, axes)
    return [reasons[index] for index in range(len(sizes))]


def _row_size(rows: Arrays) -> int:
    return sum(math.prod(array.shape[1:]) for array in rows.values())


def _unreadable(error: UnreadableGraphError) -> str:
    return f"its graph cannot be followed ({error})"


def mixing(graph: ObservedGraph, axes: BatchAxes = ROWS_FIRST) -> str | None:
    """Return the first operator of a graph that mixes rows, and how; None if none does."""
    follower = Follower(graph, axes)
    for node in graph.nodes:
        try:
            follower.follow(node)
        except MixesError as error:
            return f"{node.kind} ({node.name}) {error}"
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return f"{node.kind} ({node.name}) cannot be followed"
    for name in graph.decided:
        if not follower.holds(name, None):
            return f"a branch is taken by {name}, which depends on the rows"
    for name in graph.outputs:
        if name in follower.fillings:
            return f"the output {name} is filled up to the longest row of the batch"
        if not follower.holds(name, axes.outputs.get(name, 0)):
            return f"the output {name} does not hold one row for each row"
    return None


class Follower:
    """Follows the batch axis from node to node."""

    def __init__(self, graph: ObservedGraph, axes: BatchAxes) -> None:
        self._values = graph.values
        self._opset = graph.opset
        self.rows: dict[str, Rows] = {
            name: Rows(axis)
            for name in graph.inputs
            if (axis := axes.inputs.get(name, 0)) is not None
        }
        self._given: set[str] = set(axes.shared)
        """The inputs that the rows share, and the values that are computed from them alone."""
        self._sized: set[str] = set()
        """The values without rows that depend on the number of rows."""
        self._sizes: set[str] = set()
        """The subset of these values that are sizes, or multiples of sizes."""
        self.fillings: dict[str, bytes] = {}
        """The values whose rows are filled up to the longest of the batch, and with what."""
        self._places: dict[str, Places] = {}
        """The values without rows that are the places of each row's numbers."""
        self._spread: set[str] = set()
        """The values that are computed from such places and constants, each number for itself."""
        self._numbered: set[str] = set()
        """The indices with rows whose first number is the number of their row."""
        self._zeros = DoubtfulZeros(
            graph.values, lambda name: name in self.rows or name in self._given
        )
        self._has_subnormals = any(value.subnormal for value in graph.values.values()) or any(
            self._may_make_subnormals(node) for node in graph.nodes
        )
        self._later = {name for node in graph.nodes for name in node.outputs if name}
        """The outputs of the nodes that are not followed yet."""

    def holds(self, name: str, axis: int | None) -> bool:
        """Return whether an output has its rows on this axis, or no rows if it is None."""
        if axis is None:
            return name not in self.rows and name not in self._sized
        return self.rows.get(name) == Rows(axis)

    def follow(self, node: Node) -> None:
        """Find the batch axis in the outputs of a node.

        Raises:
            MixesError: the node mixes rows, or may mix them.
        """
        inputs = {*node.inputs, *(node.inner or ())}
        if inputs & self._later:
            raise MixesError("is listed before the node that computes its input")
        self._later.difference_update(node.outputs)
        with_rows = [name for name in inputs if name in self.rows]
        self._require_numbers(node)
        if "." in node.kind and node.kind not in _EVERY:
            raise MixesError("is not known to compute each row for itself")
        is_listed = "." in node.kind or (with_rows and node.kind in _EVERY)
        if is_listed and (unknown := unknown_attribute(node)) is not None:
            raise MixesError(f"is not known with this {unknown}")
        if not with_rows or node.kind in ("Shape", "Size"):
            self._follow_sizes(node, inputs)
            return
        if node.inner is not None:
            self._follow_distances(node)
            return
        axis = numbered_axis(node, self._values, self._places, self.rows)
        if axis is not None:
            self._found(node.outputs[0], (1, 1))
            self._numbered.add(node.outputs[0])
            self._sized.add(node.outputs[0])  # no other operator may take it
            return
        places = self._places.get(node.inputs[1]) if node.kind == "Gather" else None
        picks = node.kind in ("GatherND", "ScatterND") and node.inputs[1] in self._numbered
        for index, name in enumerate(node.inputs):
            if index == 1 and (picks or places is not None):
                continue
            if index == SIZES_AT.get(node.kind):
                if name in self.rows:
                    raise MixesError("takes a size from a row")
                if name in self._sized - self._sizes:
                    raise MixesError("takes a size that is computed from the number of rows")
            elif name in self._sized:
                raise MixesError("computes with the number of rows")
        tells = node.kind in SUBNORMAL_TELLING and self._value(node.inputs[0]).dtype.kind == "f"
        if tells and self._has_subnormals:  # those of requests are zeros already
            raise MixesError("takes a number below the normal numbers for zero, or not")
        rule = _EVERY.get(node.kind)
        if rule is None:
            raise MixesError("is not known to compute each row for itself")
        filling = filling_of(node, self.fillings)
        call = Call(node, self._opset, self._values, self.rows, self._sized, self._sizes)
        if picks:
            structure = picked_in_rows(call)
        else:
            structure = (
                rule(call) if places is None else picked(call.rows(0), call.shape(0), places)
            )
        for name in filter(None, node.outputs):
            self.rows[name] = self._found(name, structure)
        if filling is not None:
            self.fillings[node.outputs[0]] = filling
        self._zeros.follow(node)

    def _follow_distances(self, node: Node) -> None:
        """Follow a Scan that compares each row with the rows of a matrix without rows."""
        scan = node.kind == "Scan" and self._opset >= 9 and len(node.inputs) == 2
        if not (scan and node.body is not None and is_distances(node.body)):
            raise MixesError("computes what depends on its values, and is not followed")
        rows, others = node.inputs
        matrices = all(len(self._value(name).shapes[-1]) == 2 for name in node.inputs)
        is_apart = others not in self.rows and others not in self._sized
        attributes = node.attributes == {"num_scan_inputs": 1}
        if not (matrices and is_apart and attributes) or self.rows.get(rows) != Rows(0):
            raise MixesError("compares rows with each other")
        for name in filter(None, node.outputs):
            self.rows[name] = self._found(name, (1, 1))
        self._zeros.follow(node)

    def pass_over(self, node: Node) -> None:
        """Leave a node to another follower; nodes after it may take its outputs."""
        if {*node.inputs, *(node.inner or ())} & self._later:
            raise MixesError("is listed before the node that computes its input")
        self._later.difference_update(node.outputs)

    def _may_make_subnormals(self, node: Node) -> bool:
        """Return whether a node may give subnormal numbers; results of arithmetic are zero.

        The remainder of the C library is subnormal, and so may be a number that is copied from an
        attribute or read from text.
        """
        if node.kind in ("Cast", "CastLike"):
            taken = self._values.get(node.inputs[0])
            return taken is not None and taken.dtype.kind not in "biuf"
        is_remainder = node.kind == "Mod" and bool(node.attributes.get("fmod"))
        return is_remainder or any(map(is_subnormal, attribute_numbers(node)))

    def _require_numbers(self, node: Node) -> None:
        """Check that a node does not make numbers of a tensor that holds none."""
        outputs = [self._values[name].shapes[-1] for name in node.outputs if name in self._values]
        if node.kind in FILLING or node.inner is not None or all(0 in shape for shape in outputs):
            return
        for name in node.inputs:
            shape = self._values[name].shapes[-1] if name in self._values else ()
            if 0 in shape and (name in self.rows or len(shape) > 1):  # else a list of sizes
                raise MixesError("computes with a tensor that holds no numbers")

    def _follow_sizes(self, node: Node, inputs: set[str]) -> None:
        """Follow a node that takes no rows, or only their shape."""
        if node.kind == "Dropout" and len(node.inputs) > 2:
            raise MixesError("may draw random numbers")
        asks = node.kind in ("Shape", "Size")
        if asks and node.inputs[0] in self.fillings:
            raise MixesError("takes the size of rows that are filled up to the longest")
        is_given = bool(self._given & inputs) and not asks
        if is_given:
            self._given.update(filter(None, node.outputs))
        sized = self._sized & inputs
        is_known = not (sized and is_given)  # with another value, the result may be another size
        counting = self._places.keys() | self._spread
        if node.kind in ELEMENTWISE and sized and sized <= counting:
            self._spread.add(node.outputs[0])
        for name in filter(None, node.outputs):
            value = self._value(name)
            if asks and sized <= self._sizes | counting:
                if not value.same:
                    self._sized.add(name)
                    if not sized or sized <= counting:
                        self._sizes.add(name)
            elif not sized or (is_known and self._is_settled(node, sized)):
                if not value.same:
                    self._sized.add(name)
            elif is_known and self._keeps_sizes(node, sized):
                if not value.same:
                    self._sized.add(name)
                    self._sizes.add(name)
            elif (rows := self._repeated(node, value)) is not None:
                self.rows[name] = rows
            else:
                self._sized.add(name)
        if found := places_of(node, self._values, self._places, self._sized, self._sizes):
            self._places[node.outputs[0]] = found

    def _keeps_sizes(self, node: Node, sized: Set[str]) -> bool:
        """Return whether the outputs of a node are sizes or multiples of sizes, for any batch."""
        if not sized <= self._sizes:
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
        """Return whether a size, and every multiple of it, is divided without a remainder."""
        values = [value.arrays for value in (self._value(size), self._value(by))]
        numbers, divisors = (None if arrays is None else arrays[0] for arrays in values)
        if numbers is None or divisors is None or not np.all(divisors):
            return False
        return not np.any(numbers % divisors)

    def _is_settled(self, node: Node, sized: Set[str]) -> bool:
        """Return whether a node compares sizes, which are not negative, with negative numbers."""
        if node.kind != "Equal" or len(sized) != 1 or not sized <= self._sizes:
            return False
        (size,) = sized
        other = node.inputs[0] if node.inputs[1] == size else node.inputs[1]
        sizes, others = self._value(size).arrays, self._value(other).arrays
        if sizes is None or others is None:
            return False
        return bool(np.all((sizes[0] == sizes[-1]) | ((others[0] < 0) & (sizes[0] >= 0))))

    def _repeated(self, node: Node, value: Value) -> Rows | None:
        """Return the batch axis of a constant that is repeated for each row; else None."""
        if node.kind not in ("ConstantOfShape", "Expand", "Tile"):
            return None
        *constant, shape = node.inputs
        if shape not in self._sizes or self._sized & {*constant}:
            return None
        axis = batch_axis(value.shapes)
        if axis is None or axis not in value.level:
            return None
        return Rows(axis, 1, value.shapes[-1][axis] // MORE)

    def _found(self, name: str, structure: tuple[int, int]) -> Rows:
        """Return the batch axis of a value whose rows have this order."""
        value = self._value(name)
        axis, (outer, inner) = batch_axis(value.shapes), structure
        if axis is None or value.shapes[-1][axis] != outer * MORE * inner:
            raise MixesError(f"gives {list(value.shapes[-1])} for {MORE} rows")
        return Rows(axis, outer, inner)

    def _value(self, name: str) -> Value:
        if name not in self._values:
            raise MixesError("returns a value that is no tensor")
        return self._values[name]
