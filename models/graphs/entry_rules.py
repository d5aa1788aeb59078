"""The effect of each operator on the entries that are selected of rows (`entry_mixing`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from models.graphs.graph import Node
from models.graphs.row_rules import MixesError, Rows

ELEMENTWISE = {
    "Abs", "Add", "Ceil", "Clip", "Div", "Exp", "Floor", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Mul", "Neg", "Relu", "Round", "Sigmoid", "Sub", "Where",
}  # fmt: skip
"""Operators that compute each number by itself, whatever the sign of a zero; Div by constants."""


class Index(NamedTuple):
    """A whole number: `scale` times the place of the entry's row, and a rest from 0 to `limit` - 1.

    The place itself has the scale 1 and the limit 1; a number of scale 0 depends on no place.
    """

    scale: int
    limit: int


PLACE = Index(1, 1)
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11}
"""The codes in ONNX of the types to which every number is cast alike at any place of a batch: those
of `NUMPY_DTYPES` without UINT32 and UINT64."""
_WIDE = {1, 6, 7, 11}
"""The codes of FP32, INT32, INT64 and FP64, which have the places of all rows."""
_EXACT = {7, 11}
"""The codes of INT64 and FP64, which have the places of all numbers of all rows."""
Size = int | str
"""A size, or the source of the entries whose number it is."""


class Entries(NamedTuple):
    """A value of one part for each entry.

    Attributes:
        source: the output that selected the entries; values of one source have the same entries.
        axis: the axis of the entries.
        columns: of a value of one or two axes, what is known of each position along the other axis;
            None for any number that depends on no place. Empty if that holds for all of them.
    """

    source: str
    axis: int = 0
    columns: tuple[Index | None, ...] = ()

    @property
    def has_places(self) -> bool:
        """Whether a number depends on the place of a row."""
        return any(column is not None and column.scale for column in self.columns)


class Follower(Protocol):
    """What is known of the values of a graph; `entry_mixing` has the implementation."""

    entries: dict[str, Entries]
    counts: dict[str, tuple[Size, ...]]
    """Lists of sizes, some of which are numbers of entries."""

    def rows(self, name: str) -> Rows | None:
        """Return the place of the rows in a value; None if it has none."""
        ...

    def is_constant(self, name: str) -> bool:
        """Return whether a value depends neither on rows nor on entries, nor on their number."""
        ...

    def constant(self, name: str) -> list[int]:
        """Return the numbers of a constant; raise MixesError if the value is no constant."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value for the most rows."""
        ...

    def is_int64(self, name: str) -> bool:
        """Return whether a value holds INT64."""
        ...


Rule = Callable[[Follower, Node], Sequence[Entries]]


# Operators that select entries.


def _suppressed(follower: Follower, node: Node) -> Sequence[Entries]:
    """The entries of each class of each row, [M, (row, class, box)], row by row."""
    boxes, scores, *limits = node.inputs
    if follower.rows(boxes) != Rows(0) or follower.rows(scores) != Rows(0):
        raise MixesError("takes boxes or scores that do not have the rows first")
    if not all(map(follower.is_constant, limits)):
        raise MixesError("takes a limit that depends on the rows")
    _, classes, count = follower.shape(scores)
    return [Entries(node.outputs[0], 0, (PLACE, Index(0, classes), Index(0, count)))]


def _nonzero(follower: Follower, node: Node) -> Sequence[Entries]:
    """The places of the numbers that are not 0, [axes, M], row by row."""
    if follower.rows(node.inputs[0]) != Rows(0):
        raise MixesError("takes a value that does not have the rows first")
    others = (Index(0, size) for size in follower.shape(node.inputs[0])[1:])
    return [Entries(node.outputs[0], 1, (PLACE, *others))]


SELECTING: Mapping[str, Rule] = {"NonMaxSuppression": _suppressed, "NonZero": _nonzero}


# Operators on entries.


def entry(follower: Follower, name: str) -> Entries:
    """Return the entries in a value.

    Raises:
        MixesError: it holds none.
    """
    if name not in follower.entries:
        raise MixesError("joins entries with rows, constants or sizes")
    return follower.entries[name]


def _same(follower: Follower, node: Node) -> Sequence[Entries]:
    return [entry(follower, node.inputs[0])]


def _cast(follower: Follower, node: Node) -> Sequence[Entries]:
    entries, kind = entry(follower, node.inputs[0]), node.attributes.get("to")
    if kind not in _NUMBERS:
        raise MixesError("casts to a type that is not known to round alike at each place")
    has_others = any(one and one.scale and one != PLACE for one in entries.columns)
    if entries.has_places and kind not in (_EXACT if has_others else _WIDE):
        raise MixesError("casts the place of a row to a type of few numbers")
    return [entries]


def _transpose(follower: Follower, node: Node) -> Sequence[Entries]:
    entries, rank = entry(follower, node.inputs[0]), len(follower.shape(node.inputs[0]))
    order = list(node.attributes.get("perm", [*reversed(range(rank))]))
    return [entries._replace(axis=order.index(entries.axis))]


def _elementwise(follower: Follower, node: Node) -> Sequence[Entries]:
    given = [name for name in node.inputs if name]
    among = {name: entry(follower, name) for name in given if name in follower.entries}
    ranks = {name: len(follower.shape(name)) for name in given}
    # Axes are counted from the last one, as operators align them.
    found = {(one.source, one.axis - ranks[name]) for name, one in among.items()}
    if len(found) > 1:
        raise MixesError("joins entries of unlike operators or axes")
    if node.kind == "Div" and node.inputs[1] in among:
        raise MixesError("divides by a number of the entries, which may be 0 or -0")
    ((source, axis),) = found
    for name in given:
        if name in among:
            continue
        if not follower.is_constant(name):
            raise MixesError("joins entries with rows or sizes")
        if ranks[name] >= -axis and follower.shape(name)[axis] != 1:
            raise MixesError("joins entries with a constant of as many")
    result = Entries(source, max(ranks.values()) + axis)
    if (index := _arithmetic(follower, node)) is not None:
        return [result._replace(columns=(index,))]
    if any(one.has_places for one in among.values()):
        raise MixesError("computes with the place of a row")
    return [result]


def _arithmetic(follower: Follower, node: Node) -> Index | None:
    """Return the index that a sum of indices is, or an index times a constant; None for others."""
    if node.kind not in ("Add", "Mul") or not all(map(follower.is_int64, node.inputs)):
        return None
    indices = []
    for name in node.inputs:
        if name in follower.entries:
            columns = follower.entries[name].columns
            if len(columns) != 1 or columns[0] is None:
                return None
            indices.append(columns[0])
    if node.kind == "Add":
        if len(indices) != 2:
            return None
        first, second = indices
        return Index(first.scale + second.scale, first.limit + second.limit - 1)
    constants = [name for name in node.inputs if name not in follower.entries]
    if len(indices) != 1 or len(constants) != 1:
        return None
    (factor,) = follower.constant(constants[0])
    (index,) = indices
    return Index(index.scale * factor, (index.limit - 1) * factor + 1) if factor > 0 else None


def _gather(follower: Follower, node: Node) -> Sequence[Entries]:
    data, indices = node.inputs
    axis = int(node.attributes.get("axis", 0)) % len(follower.shape(data))
    if data in follower.entries:
        return [_picked_columns(follower, data, axis, indices)]
    picks, rows = entry(follower, indices), follower.rows(data)
    if rows is not None:
        # Rows may be flattened with the numbers of each: the index is of `inner` for each row.
        (index,) = picks.columns or (None,)
        is_own = index is not None and index.scale == rows.inner and index.limit <= rows.inner
        if axis != 0 or rows != Rows(0, 1, rows.inner) or not is_own:
            raise MixesError("picks among rows by something else than the entries' own rows")
    elif not follower.is_constant(data) or picks.has_places:
        raise MixesError("picks by the place of a row, or among values of rows")
    return [Entries(picks.source, axis + picks.axis)]


def _gather_nd(follower: Follower, node: Node) -> Sequence[Entries]:
    data, indices = node.inputs
    picks = entry(follower, indices)
    others = picks.columns[1:]
    is_own = picks.columns[:1] == (PLACE,) and not any(one and one.scale for one in others)
    is_by_row = picks.axis == 0 and len(follower.shape(indices)) == 2 and is_own
    if follower.rows(data) != Rows(0) or not is_by_row or node.attributes.get("batch_dims", 0):
        raise MixesError("picks among rows by something else than the entries' own rows")
    return [Entries(picks.source)]


def _picked_columns(follower: Follower, data: str, axis: int, indices: str) -> Entries:
    """Return the entries with the columns that constant indices pick."""
    entries, picked = entry(follower, data), follower.constant(indices)
    rank, lost = len(follower.shape(data)), 1 - len(follower.shape(indices))
    if axis == entries.axis:
        raise MixesError("picks some of the entries")
    result = entries._replace(axis=entries.axis - (lost if axis < entries.axis else 0), columns=())
    if not entries.columns:
        return result
    if rank != 2 or lost < 0:
        raise MixesError("moves the places of rows in a way that is not followed")
    return result._replace(columns=tuple(entries.columns[place] for place in picked))


def _slice(follower: Follower, node: Node) -> Sequence[Entries]:
    data, *names = node.inputs
    entries, rank = entry(follower, data), len(follower.shape(data))
    starts, ends = (follower.constant(name) for name in names[:2])
    axes = follower.constant(names[2]) if len(names) > 2 and names[2] else range(len(starts))
    steps = follower.constant(names[3]) if len(names) > 3 and names[3] else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank == entries.axis:
            raise MixesError("picks some of the entries")
        entries = entries._replace(columns=entries.columns[start:end:step])
    return [entries]


def _split(follower: Follower, node: Node) -> Sequence[Entries]:
    entries = entry(follower, node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % len(follower.shape(node.inputs[0]))
    if axis == entries.axis or not all(map(follower.is_constant, node.inputs[1:])):
        raise MixesError("divides the entries")
    parts, start = [], 0
    for name in node.outputs:
        end = start + follower.shape(name)[axis]
        parts.append(entries._replace(columns=entries.columns[start:end]))
        start = end
    return parts


def _concat(follower: Follower, node: Node) -> Sequence[Entries]:
    all_entries = [entry(follower, name) for name in node.inputs]
    shapes = [follower.shape(name) for name in node.inputs]
    axis = int(node.attributes["axis"]) % len(shapes[0])
    if len({(one.source, one.axis) for one in all_entries}) > 1 or axis == all_entries[0].axis:
        raise MixesError("joins unlike entries one after another")
    if not any(one.columns for one in all_entries):
        return [all_entries[0]]
    if len(shapes[0]) != 2:
        raise MixesError("moves the places of rows in a way that is not followed")
    columns: list[Index | None] = []
    for one, shape in zip(all_entries, shapes, strict=True):
        columns += one.columns or [None] * shape[axis]
    return [all_entries[0]._replace(columns=tuple(columns))]


def _axes_changed(follower: Follower, node: Node) -> Sequence[Entries]:
    """Unsqueeze or Squeeze: axes of one number are added or taken away."""
    entries, rank = entry(follower, node.inputs[0]), len(follower.shape(node.inputs[0]))
    listed = node.attributes.get("axes") or (
        follower.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    )
    if listed is None:
        raise MixesError("takes away axes that depend on the number of entries")
    adds = node.kind == "Unsqueeze"
    larger = rank + len(listed) if adds else rank
    changed = {axis % larger for axis in listed}
    if not adds and entries.axis in changed:
        raise MixesError("takes away the axis of the entries")
    if entries.columns and larger > 2:
        raise MixesError("moves the places of rows in a way that is not followed")
    kept = [axis for axis in range(larger) if axis not in changed]
    return [entries._replace(axis=kept[entries.axis] if adds else kept.index(entries.axis))]


def _reshape(follower: Follower, node: Node) -> Sequence[Entries]:
    """Entries in the shape that they have, or a column [M] or [M, 1] in the other form."""
    data, sizes = node.inputs
    entries, inner = entry(follower, data), follower.shape(data)[1:]
    wanted = follower.counts.get(sizes) or tuple(follower.constant(sizes))
    first, others = wanted[0], wanted[1:]
    is_same = others == inner or (all(size == 1 for size in inner) and others in ((), (1,)))
    if entries.axis != 0 or first not in (-1, entries.source) or not is_same:
        raise MixesError("gives the entries another shape")
    return [entries]


def count_sizes(follower: Follower, node: Node) -> tuple[Size, ...] | None:
    """Return the sizes that a node lists, some of which are numbers of entries; None for others."""
    if node.kind == "Shape" and not node.attributes and node.inputs[0] in follower.entries:
        entries, sizes = follower.entries[node.inputs[0]], follower.shape(node.inputs[0])
        return (*sizes[: entries.axis], entries.source, *sizes[entries.axis + 1 :])
    if node.kind == "Concat" and any(name in follower.counts for name in node.inputs):
        parts = (follower.counts.get(name) or follower.constant(name) for name in node.inputs)
        return tuple(size for part in parts for size in part)
    return None


def rule_of(kind: str) -> Rule | None:
    """Return the rule for an operator that takes entries; None if there is none."""
    return _RULES.get(kind) or (_elementwise if kind in ELEMENTWISE else None)


_RULES: Mapping[str, Rule] = {
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Identity": _same,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _axes_changed,
    "Transpose": _transpose,
    "Unsqueeze": _axes_changed,
}
