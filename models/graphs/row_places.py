"""The places of the numbers of each row in a flattened tensor, as an exporter computes them.

torch writes a view of a tensor (`as_strided`, as in a global average pool behind a permutation) as
a Gather from the flattened tensor, at places `step` * row + offset. Each place lies in its own row
if `step` is the size of a row and the offsets are below it. The form of the computation shows this
for any number of rows; the numbers themselves would show it for the numbers of rows that are tried.
"""

from collections.abc import Mapping, Set
from typing import NamedTuple

from models.graphs.graph import COUNTS, MORE, Node, Shape, Value
from models.graphs.row_rules import (
    RESHAPING,
    Call,
    MixesError,
    Rows,
    Structure,
    batch_axis,
    reshaped,
)


class Places(NamedTuple):
    """Numbers `step` * n + offset, where n counts the rows along an axis.

    The offsets are the same for each row, and from `least` to `most`.
    """

    axis: int
    step: int = 1
    least: int = 0
    most: int = 0


def places_of(
    node: Node,
    values: Mapping[str, Value],
    known: Mapping[str, Places],
    sized: Set[str],
    sizes: Set[str],
) -> Places | None:
    """Return the places that a node without rows computes; None if it does not.

    Args:
        node: the node.
        values: the values of the graph.
        known: the places that earlier nodes compute.
        sized: the values that depend on the number of rows.
        sizes: the subset of these that are sizes, or multiples of sizes.
    """
    output = values.get(node.outputs[0])
    axis = None if output is None else batch_axis(output.shapes)
    if output is None or axis is None or output.shapes[-1][axis] != MORE:
        return None
    if node.kind == "Range":
        start, end, step = (values[name] for name in node.inputs)
        counts = end.arrays is not None and [one.item() for one in end.arrays] == [*COUNTS]
        from_zero = (start.bounds, step.bounds) == ((0, 0), (1, 1))
        return Places(axis) if counts and from_zero and node.inputs[1] in sizes else None
    if node.kind == "Expand":
        return _expanded(node, values, known, sizes, axis)
    given = [name for name in node.inputs if name in known]
    others = [name for name in node.inputs if name not in known]
    if len(given) != 1 or any(name in sized for name in others):
        return None
    places = known[given[0]]
    if node.kind in RESHAPING:
        try:
            order = reshaped(Rows(places.axis), values[given[0]].shapes[-1], output.shapes)
        except MixesError:
            return None
        return places._replace(axis=axis) if order == (1, 1) else None
    bounds = values[others[0]].bounds if len(others) == 1 else None
    if node.kind == "Mul" and bounds and bounds[0] == bounds[1] > 0:
        return Places(axis, *(number * bounds[0] for number in places[1:]))
    if node.kind == "Add" and bounds:
        return Places(axis, places.step, places.least + bounds[0], places.most + bounds[1])
    return None


def _expanded(
    node: Node, values: Mapping[str, Value], known: Mapping[str, Places], sizes: Set[str], axis: int
) -> Places | None:
    """Return places that are repeated along other axes than theirs; None if they are not."""
    name, shape = node.inputs
    places, output = known.get(name), values[node.outputs[0]]
    if places is None or shape not in sizes:
        return None
    before = len(output.shapes[-1]) - len(values[name].shapes[-1])
    return places._replace(axis=axis) if axis == places.axis + before else None


def numbered_axis(
    node: Node,
    values: Mapping[str, Value],
    known: Mapping[str, Places],
    rows: Mapping[str, Rows],
) -> int | None:
    """Return the axis of the rows in indices whose first number is the number of their row.

    torch writes `x[arange(N), n]` so: a Concat of the numbers of the rows and of indices, by which
    a GatherND or a ScatterND picks in each row. None if the node is no such Concat.

    Args:
        node: the node.
        values: the values of the graph.
        known: the places that earlier nodes compute.
        rows: the place of the rows in the values that have rows.
    """
    first, *others = node.inputs or ("",)
    places = known.get(first)
    if node.kind != "Concat" or places is None or places != Places(places.axis):
        return None
    shape = values[first].shapes[-1]
    last = len(shape) - 1
    if places.axis == last or shape[last] != 1 or node.attributes.get("axis") not in (-1, last):
        return None
    return places.axis if all(rows.get(name) == Rows(places.axis) for name in others) else None


def picked(rows: Rows | None, shape: Shape, places: Places) -> Structure:
    """Return the order of the rows in what a Gather picks at these places.

    Args:
        rows: the place of the rows in the tensor.
        shape: of the tensor, for `MORE` rows.
        places: the places along its first axis.

    Raises:
        MixesError: a place may lie in another row.
    """
    is_flat = rows is not None and (len(shape), rows.outer, rows.inner) == (1, 1, places.step)
    if is_flat and places.least >= 0 and places.most < places.step:
        return 1, 1
    raise MixesError("picks some of the rows")


def picked_in_rows(call: Call) -> Structure:
    """Check a GatherND or ScatterND by indices whose first number is the number of their row.

    ScatterND writes with several threads: of two updates of one place, either may be the last.

    Raises:
        MixesError: the first axis of the tensor is not that of the rows, the updates have none, or
            a row has several updates.
    """
    picks = call.node.kind == "GatherND" or (call.rows(2) == Rows(0) and len(call.shape(1)) == 2)
    if call.rows(0) != Rows(0) or not picks:
        raise MixesError("picks some of the rows")
    return 1, 1
