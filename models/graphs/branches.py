"""A graph without the branches that it takes for some rows: their nodes stand in their place.

A condition that is the same for every number of rows, such as a comparison of a sampling rate,
always takes the same branch. Its nodes are then followed as the others. That the condition does not
depend on the rows is checked with the rest of the graph (`row_mixing`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from models.graphs.graph import (
    ObservedGraph,
    Observer,
    UnreadableGraphError,
    all_nodes,
    inner_graphs,
    parse,
    readable,
)
from models.kinds.batch_axes import ROWS_FIRST, BatchAxes
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import Arrays

if TYPE_CHECKING:
    import onnx

MOST_DEPTH = 8
"""Branches inside branches beyond this depth are not followed."""

Choices = tuple[tuple[int, bool], ...]
"""The conditions of branches, by the place of the node in the graph."""


class BranchObserver:
    """Observes a graph with the nodes of the branches that it takes in their place.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        weights: the content of the file beside it, if it has one.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: the graph cannot be computed in this way, or is ambiguous.
    """

    def __init__(self, content: bytes, weights: Weights | None = None) -> None:
        with readable():
            self._model = parse(content)
        self._weights = weights
        first = Observer(self._model, weights=weights)
        if not any(node.op_type == "If" for node in self._model.graph.node):
            first.require_followed()
        self._observers: dict[tuple[Choices, ...], Observer] = {(): first}

    def observe(self, rows: Arrays, axes: BatchAxes = ROWS_FIRST) -> ObservedGraph:
        """Compute every value, as `Observer.observe` says.

        Raises:
            UnreadableGraphError: the graph cannot compute these rows, or a graph that is left
                inside it cannot be followed.
        """
        taken: tuple[Choices, ...] = ()
        observer = self._observers[taken]
        graph = observer.observe(rows, axes)
        while len(taken) < MOST_DEPTH and (choices := _choices(graph)):
            taken = (*taken, choices)
            if taken not in self._observers:
                conditions = [graph.nodes[place].inputs[0] for place, _ in choices]
                with readable():
                    model = _inlined(observer.model, dict(choices), len(taken))
                decided = {*graph.decided, *conditions}
                self._observers[taken] = Observer(model, decided, self._weights)
            observer = self._observers[taken]
            graph = observer.observe(rows, axes)
        observer.require_followed()
        return graph


def _choices(graph: ObservedGraph) -> Choices:
    """Return the conditions of the branches whose condition is the same for all numbers of rows."""
    found = []
    for place, node in enumerate(graph.nodes):
        value = graph.values.get(node.inputs[0]) if node.kind == "If" else None
        if value is not None and value.same and value.arrays and value.arrays[0].size == 1:
            found.append((place, bool(np.ravel(value.arrays[0])[0])))
    return tuple(found)


def _inlined(
    model: "onnx.ModelProto", choices: Mapping[int, bool], depth: int
) -> "onnx.ModelProto":
    """Return the model with the nodes of the chosen branches in place of these nodes.

    Raises:
        UnreadableGraphError: a branch has sparse constants, or a name is taken.
    """
    import onnx

    inlined = onnx.ModelProto()
    inlined.CopyFrom(model)
    graph = inlined.graph
    taken = {tensor.name for tensor in graph.initializer}
    taken.update(name for node in all_nodes(graph.node) for name in (*node.input, *node.output))
    del graph.node[:]
    for place, node in enumerate(model.graph.node):
        if place not in choices:
            graph.node.add().CopyFrom(node)
            continue
        wanted = "then_branch" if choices[place] else "else_branch"
        (branch,) = (each.g for each in node.attribute if each.name == wanted)
        if branch.sparse_initializer:
            raise UnreadableGraphError("it has sparse constants")
        own = {tensor.name for tensor in branch.initializer}
        own |= {name for inner in branch.node for name in inner.output if name}
        names = {name: f"{name}/{depth}.{place}" for name in own}
        if taken.intersection(names.values()):
            raise UnreadableGraphError("a value in it has the name of another one in a branch")
        for tensor in branch.initializer:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = names[tensor.name]
        for value in (*branch.value_info, *branch.output):
            if value.name in names:
                graph.value_info.add().CopyFrom(value)
                graph.value_info[-1].name = names[value.name]
        for inner in branch.node:
            graph.node.add().CopyFrom(inner)
            _rename(graph.node[-1], names)
        for given, output in zip(branch.output, node.output, strict=False):
            if output:
                result = names.get(given.name, given.name)
                graph.node.append(onnx.helper.make_node("Identity", [result], [output]))
    return inlined


def _rename(node: "onnx.NodeProto", names: Mapping[str, str]) -> None:
    """Rename the values that a node takes and gives, also in the graphs inside it."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in inner_graphs(node):
        for inner in graph.node:
            _rename(inner, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)
