"""Whether each entry of a divided output is computed from its own row alone (`split_rows`).

The rows are followed to the operators that select entries of them: NonMaxSuppression, which works
on each row by itself, and NonZero. From there, the entries are followed to the outputs, with the
places of their rows: a column of the selected entries. A place may pick the row's own values, and
may be the index of the outputs. Any other use of a place, of the number of entries, or of the
entries together, is reported.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.batch_axes import BatchAxes
from models.branches import BranchObserver
from models.graph import Node, ObservedGraph, UnreadableGraphError
from models.onnx_library import Weights
from models.row_attributes import unknown_attribute
from models.row_mixing import Follower
from models.row_rules import MixesError, Rows
from models.runtimes import Arrays
from models.split_rows import SplitSpec

ELEMENTWISE = {
    "Abs", "Add", "Ceil", "Clip", "Div", "Exp", "Floor", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Mul", "Neg", "Relu", "Round", "Sigmoid", "Sub", "Where",
}  # fmt: skip
"""Operators that compute each number by itself, whatever the sign of a zero; Div by constants."""


class Entries(NamedTuple):
    """A value of one part for each entry.

    Attributes:
        source: the node that selected the entries; values of one source have the same entries.
        axis: the axis of the entries.
        places: of a value of one or two axes, the positions along the other axis that hold the
            places of the rows; {0} of one axis.
    """

    source: str
    axis: int = 0
    places: frozenset[int] = frozenset()


def entry_mixing(
    content: bytes,
    rows: Arrays,
    axes: BatchAxes,
    split: SplitSpec,
    weights: Weights | None = None,
) -> str | None:
    """Return the first operator that mixes the entries of rows, or may mix them; None if none does.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        rows: at least one row of every input, with the rows first.
        axes: the axes of the batch in the graph.
        split: the outputs that are divided.
        weights: the content of the file beside the ONNX file, if it has one.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        graph = BranchObserver(content, weights).observe(rows, axes)
    except UnreadableGraphError as error:
        return f"its graph cannot be followed ({error})"
    follower = _EntryFollower(graph, axes)
    for node in graph.nodes:
        try:
            follower.follow(node)
        except MixesError as error:
            return f"{node.kind} ({node.name}) {error}"
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return f"{node.kind} ({node.name}) cannot be followed"
    return follower.wrong_output(graph, axes, split)


class _EntryFollower:
    """Follows the rows, and the entries that are selected of them, from node to node."""

    def __init__(self, graph: ObservedGraph, axes: BatchAxes) -> None:
        self._rows = Follower(graph, axes)
        self._values = graph.values
        self._decided = graph.decided
        self.entries: dict[str, Entries] = {}

    def follow(self, node: Node) -> None:
        """Find the rows or the entries in the outputs of a node.

        Raises:
            MixesError: the node mixes them, or may mix them.
        """
        taken = {*node.inputs, *(node.inner or ())}
        selects = node.kind in SELECTING and node.inputs[0] in self._rows.rows
        if not selects and not taken & self.entries.keys():
            self._rows.follow(node)
            return
        if (unknown := unknown_attribute(node)) is not None and node.kind not in SELECTING:
            raise MixesError(f"is not known with this {unknown}")
        rule = SELECTING.get(node.kind) if selects else _rule(node.kind)
        if rule is None or node.inner is not None:
            raise MixesError("is not known to compute each entry for itself")
        self._rows.pass_over(node)
        found = rule(self, node)
        self.entries.update((name, found[at]) for at, name in enumerate(node.outputs) if name)

    def wrong_output(self, graph: ObservedGraph, axes: BatchAxes, split: SplitSpec) -> str | None:
        """Return which output is not as `split` and the axes say, and why; None if all are."""
        for name in graph.decided:
            if name in self.entries or not self._rows.holds(name, None):
                return f"a branch is taken by {name}, which depends on the rows"
        sources = {self.entries[name].source for name in split.outputs if name in self.entries}
        for name in graph.outputs:
            if name not in split.outputs:
                if name in self.entries or not self._rows.holds(name, axes.outputs.get(name, 0)):
                    return f"the output {name} does not hold one row for each row"
                continue
            found = self.entries.get(name)
            if found is None or found.axis != 0 or len(sources) > 1:
                return f"the output {name} is not followed as the entries of the index"
            index = frozenset({split.column or 0}) if name == split.index else frozenset()
            if found.places != index:
                return (
                    f"the output {name} has the places of rows in the columns "
                    f"{sorted(found.places)}, and the index is in {sorted(index)}"
                )
        return None

    # Properties of the inputs of a node.

    def entry(self, name: str) -> Entries:
        """Return the entries in a value.

        Raises:
            MixesError: it holds none.
        """
        if name not in self.entries:
            raise MixesError("joins entries with rows or constants")
        return self.entries[name]

    def has_rows_first(self, name: str) -> bool:
        """Return whether a value has the rows on its first axis."""
        return self._rows.rows.get(name) == Rows(0)

    def is_constant(self, name: str) -> bool:
        """Return whether a value depends neither on rows nor on entries, nor on their number."""
        return not name or (name not in self.entries and self._rows.holds(name, None))

    def constant(self, name: str) -> Sequence[int]:
        """Return the numbers of a constant.

        Raises:
            MixesError: the value is no constant.
        """
        value = self._values[name] if self.is_constant(name) else None
        if value is None or value.arrays is None or not value.same:
            raise MixesError("takes a size or a place that is no constant")
        return [int(number) for number in np.ravel(value.arrays[0])]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value for the most rows."""
        return self._values[name].shapes[-1]

    def rank(self, name: str) -> int:
        """Return the number of axes of a value."""
        return len(self.shape(name))


Rule = Callable[[_EntryFollower, Node], Sequence[Entries]]


def _suppressed(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    """The entries of each class of each row, [M, (row, class, box)], row by row."""
    boxes, scores, *limits = node.inputs
    if not (follower.has_rows_first(boxes) and follower.has_rows_first(scores)):
        raise MixesError("takes boxes or scores that do not have the rows first")
    if not all(map(follower.is_constant, limits)):
        raise MixesError("takes a limit that depends on the rows")
    return [Entries(node.outputs[0], 0, frozenset({0}))]


def _nonzero(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    """The places of the numbers that are not 0, [axes, M], row by row."""
    if not follower.has_rows_first(node.inputs[0]):
        raise MixesError("takes a value that does not have the rows first")
    return [Entries(node.outputs[0], 1, frozenset({0}))]


SELECTING: Mapping[str, Rule] = {"NonMaxSuppression": _suppressed, "NonZero": _nonzero}
"""The operators that select entries of rows."""


def _cast(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    return [follower.entry(node.inputs[0])]


def _transpose(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    entries = follower.entry(node.inputs[0])
    rank = follower.rank(node.inputs[0])
    order = node.attributes.get("perm", [*reversed(range(rank))])
    return [entries._replace(axis=list(order).index(entries.axis))]


def _elementwise(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    given = [name for name in node.inputs if name]
    among = [name for name in given if name in follower.entries]
    rank = max(map(follower.rank, given))
    # Axes are counted from the last one, as operators align them.
    found = {(one.source, one.axis - follower.rank(name)) for name in among
             for one in [follower.entries[name]]}  # fmt: skip
    if len(found) > 1:
        raise MixesError("joins entries of unlike operators or axes")
    if node.kind == "Div" and node.inputs[1] in follower.entries:
        raise MixesError("divides by a number of the entries, which may be 0 or -0")
    ((source, axis),) = found
    for name in given:
        if name in follower.entries:
            if follower.entries[name].places:
                raise MixesError("computes with the place of a row")
            continue
        if not follower.is_constant(name):
            raise MixesError("joins entries with rows")
        shape = follower.shape(name)
        if len(shape) >= -axis and shape[axis] != 1:
            raise MixesError("joins entries with a constant of as many")
    return [Entries(source, rank + axis)]


def _gather(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    data, indices = node.inputs
    axis = int(node.attributes.get("axis", 0))
    axis += follower.rank(data) if axis < 0 else 0
    if data in follower.entries:
        return [_columns_of(follower, data, axis, indices)]
    picks = follower.entry(indices)
    if follower.has_rows_first(data):
        if axis != 0 or not _are_places(follower, indices):
            raise MixesError("picks among rows by something else than the entries' own rows")
    elif not follower.is_constant(data) or picks.places:
        raise MixesError("picks by the place of a row, or among values of rows")
    return [Entries(picks.source, axis + picks.axis)]


def _gather_nd(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    data, indices = node.inputs
    picks = follower.entry(indices)
    is_by_row = picks.axis == 0 and follower.rank(indices) == 2 and picks.places == {0}
    if not follower.has_rows_first(data) or not is_by_row or node.attributes.get("batch_dims", 0):
        raise MixesError("picks among rows by something else than the entries' own rows")
    return [Entries(picks.source)]


def _are_places(follower: _EntryFollower, name: str) -> bool:
    """Return whether a value holds the places of the entries' rows, and nothing else."""
    others = [size for axis, size in enumerate(follower.shape(name))
              if axis != follower.entries[name].axis]  # fmt: skip
    return follower.entries[name].places == {0} and all(size == 1 for size in others)


def _columns_of(follower: _EntryFollower, data: str, axis: int, indices: str) -> Entries:
    """Return the entries with the columns that constant indices pick."""
    entries, picked = follower.entry(data), follower.constant(indices)
    if axis == entries.axis:
        raise MixesError("picks some of the entries")
    width = follower.shape(data)[axis]
    taken = [place % width for place in picked]
    is_scalar = follower.rank(indices) == 0
    if not entries.places:
        lost = 1 if is_scalar else 1 - follower.rank(indices)
        return entries._replace(axis=entries.axis - (lost if axis < entries.axis else 0))
    if follower.rank(data) != 2 or follower.rank(indices) > 1:
        raise MixesError("moves the places of rows in a way that is not followed")
    places = frozenset(at for at, place in enumerate(taken) if place in entries.places)
    return Entries(entries.source, 0 if is_scalar else entries.axis, places)


def _slice(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    data, *names = node.inputs
    entries, shape = follower.entry(data), follower.shape(data)
    starts, ends = (follower.constant(name) for name in names[:2])
    axes = follower.constant(names[2]) if len(names) > 2 and names[2] else range(len(starts))
    steps = follower.constant(names[3]) if len(names) > 3 and names[3] else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        if axis == entries.axis:
            raise MixesError("picks some of the entries")
        if entries.places:
            kept = list(range(shape[axis]))[start:end:step]
            places = (at for at, place in enumerate(kept) if place in entries.places)
            entries = entries._replace(places=frozenset(places))
    return [entries]


def _split(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    entries = follower.entry(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % follower.rank(node.inputs[0])
    if axis == entries.axis or not all(map(follower.is_constant, node.inputs[1:])):
        raise MixesError("divides the entries")
    parts, start = [], 0
    for name in node.outputs:
        width = follower.shape(name)[axis]
        places = (place - start for place in entries.places if start <= place < start + width)
        parts.append(entries._replace(places=frozenset(places)))
        start += width
    return parts


def _concat(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    rank = follower.rank(node.inputs[0])
    axis = int(node.attributes["axis"]) % rank
    all_entries = [follower.entry(name) for name in node.inputs]
    if len({(one.source, one.axis) for one in all_entries}) > 1 or axis == all_entries[0].axis:
        raise MixesError("joins unlike entries one after another")
    places, start = set(), 0
    for name, one in zip(node.inputs, all_entries, strict=True):
        places |= {start + place for place in one.places}
        start += follower.shape(name)[axis]
    return [all_entries[0]._replace(places=frozenset(places))]


def _axes_changed(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    """Unsqueeze or Squeeze: axes of one number are added or taken away."""
    data, entries = node.inputs[0], follower.entry(node.inputs[0])
    listed = node.attributes.get("axes") or (
        follower.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    )
    if listed is None:
        raise MixesError("takes away axes that depend on the number of entries")
    adds = node.kind == "Unsqueeze"
    rank = follower.rank(data)
    larger = rank + len(listed) if adds else rank
    changed = {axis % larger for axis in listed}
    if not adds and entries.axis in changed:
        raise MixesError("takes away the axis of the entries")
    kept = [axis for axis in range(larger) if axis not in changed]
    axis = kept[entries.axis] if adds else kept.index(entries.axis)
    if entries.places and (rank + len(listed) if adds else rank) > 2:
        raise MixesError("moves the places of rows in a way that is not followed")
    return [entries._replace(axis=axis)]


def _reshape(follower: _EntryFollower, node: Node) -> Sequence[Entries]:
    """A column of entries, [M] or [M, 1], in the other form."""
    data, sizes = node.inputs
    entries, wanted = follower.entry(data), follower.constant(sizes)
    inner = follower.shape(data)[1:]
    is_column = entries.axis == 0 and all(size == 1 for size in inner)
    if not is_column or wanted not in ([-1], [-1, 1]) or node.attributes.get("allowzero"):
        raise MixesError("gives the entries another shape")
    return [entries]


def _rule(kind: str) -> Rule | None:
    """Return the rule for an operator that takes entries; None if there is none."""
    return RULES.get(kind) or (_elementwise if kind in ELEMENTWISE else None)


RULES: Mapping[str, Rule] = {
    "Cast": _cast,
    "Identity": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _axes_changed,
    "Transpose": _transpose,
    "Unsqueeze": _axes_changed,
}
