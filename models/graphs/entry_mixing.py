"""Whether each entry of a divided output is computed from its own row alone (`split_rows`).

The rows are followed to the operators that select entries of them: NonMaxSuppression, which works
on each row by itself, and NonZero. From there, the entries are followed to the outputs, with the
places of their rows: a column of the selected entries. A place may pick the row's own values, and
may be the index of the outputs. Any other use of a place, of the number of entries, or of the
entries together, is reported.
"""

import numpy as np

from models.graphs.branches import BranchObserver
from models.graphs.entry_rules import PLACE, SELECTING, Entries, Size, count_sizes, rule_of
from models.graphs.graph import Node, ObservedGraph, UnreadableGraphError
from models.graphs.row_attributes import unknown_attribute
from models.graphs.row_mixing import Follower
from models.graphs.row_rules import MixesError, Rows
from models.kinds.batch_axes import BatchAxes
from models.kinds.split_rows import SplitSpec
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays


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
        self.entries: dict[str, Entries] = {}
        self.counts: dict[str, tuple[Size, ...]] = {}

    def follow(self, node: Node) -> None:
        """Find the rows or the entries in the outputs of a node.

        Raises:
            MixesError: the node mixes them, or may mix them.
        """
        taken = {*node.inputs, *(node.inner or ())}
        selects = node.kind in SELECTING and node.inputs[0] in self._rows.rows
        if not selects and not taken & (self.entries.keys() | self.counts.keys()):
            self._rows.follow(node)
            return
        if not selects and (unknown := unknown_attribute(node)) is not None:
            raise MixesError(f"is not known with this {unknown}")
        self._rows.pass_over(node)
        if (sizes := count_sizes(self, node)) is not None:
            self.counts[node.outputs[0]] = sizes
            return
        rule = SELECTING[node.kind] if selects else rule_of(node.kind)
        if rule is None or node.inner is not None:
            raise MixesError("is not known to compute each entry for itself")
        found = rule(self, node)
        self.entries.update((name, found[at]) for at, name in enumerate(node.outputs) if name)

    def wrong_output(self, graph: ObservedGraph, axes: BatchAxes, split: SplitSpec) -> str | None:
        """Return which output is not as `split` and the axes say, and why; None if all are."""
        for name in graph.decided:
            if not self.is_constant(name):
                return f"a branch is taken by {name}, which depends on the rows"
        sources = {self.entries[name].source for name in split.outputs if name in self.entries}
        for name in graph.outputs:
            if name not in split.outputs:
                is_known = name not in self.entries and name not in self.counts
                if not (is_known and self._rows.holds(name, axes.outputs.get(name, 0))):
                    return f"the output {name} does not hold one row for each row"
                continue
            found = self.entries.get(name)
            if found is None or found.axis != 0 or len(sources) > 1:
                return f"the output {name} is not followed as the entries of the index"
            wanted = {split.column or 0} if name == split.index else set()
            places = {at for at, one in enumerate(found.columns) if one and one.scale}
            if places != wanted or any(found.columns[at] != PLACE for at in places):
                return (
                    f"the output {name} has the places of rows in the columns {sorted(places)}, "
                    f"and the index is in {sorted(wanted)}"
                )
        return None

    # What is known of the values, for `entry_rules`.

    def rows(self, name: str) -> Rows | None:
        """Return the place of the rows in a value; None if it has none."""
        return self._rows.rows.get(name)

    def is_constant(self, name: str) -> bool:
        """Return whether a value depends neither on rows nor on entries, nor on their number."""
        if name in self.entries or name in self.counts:
            return False
        return not name or self._rows.holds(name, None)

    def constant(self, name: str) -> list[int]:
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

    def is_int64(self, name: str) -> bool:
        """Return whether a value holds INT64."""
        return self._values[name].dtype == np.int64
