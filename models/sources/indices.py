"""Inputs of a graph that are indices into a table, such as the tokens of an embedding.

ONNX counts a negative index from the table's end, so a stray -1 is computed as the last token. An
index beyond the end fails only at run time.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from models.graphs.graph import UnreadableGraphError, is_text, parse
from models.sources.ranges import InputRange

if TYPE_CHECKING:
    import onnx

MOVING = {
    "Cast", "Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""Operators whose output holds the numbers of their inputs."""


def index_ranges(content: bytes) -> list[InputRange]:
    """Return the range of each input that indexes a constant table: 0 to the last index.

    Args:
        content: the ONNX file.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        graph = parse(content).graph
    except UnreadableGraphError:
        return []
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = (node for node in graph.node if node.op_type == "Constant")
    for node in constants:  # some exporters write tables as nodes
        tables.update(
            (node.output[0], tuple(attribute.t.dims))
            for attribute in node.attribute
            if attribute.t.dims
        )
    inputs = {
        value.name: {value.name}
        for value in graph.input
        if value.name not in tables and not is_text(value)
    }
    sizes: dict[str, int] = {}
    for name, size in _looked_up(graph.node, tables, inputs):
        sizes[name] = min(size, sizes.get(name, size))
    return [InputRange(name, 0.0, float(size - 1)) for name, size in sizes.items()]


def _looked_up(
    nodes: Iterable["onnx.NodeProto"],
    tables: Mapping[str, tuple[int, ...]],
    inputs: dict[str, set[str]],
) -> Iterable[tuple[str, int]]:
    """Yield each input that indexes a table, with the table's size.

    Args:
        nodes: the operators of the graph, in order.
        tables: the shapes of the constants by name.
        inputs: by value name, the inputs whose numbers the value holds. It is extended.
    """
    for node in nodes:
        if node.op_type in MOVING:
            inputs[node.output[0]] = set().union(*(inputs.get(name, set()) for name in node.input))
        elif node.op_type == "Gather" and node.input[0] in tables:
            axis = next(
                (attribute.i for attribute in node.attribute if attribute.name == "axis"), 0
            )
            for name in inputs.get(node.input[1], set()):
                yield name, tables[node.input[0]][axis]
        elif node.op_type == "GatherND" and node.input[0] in tables:
            for name in inputs.get(node.input[1], set()):  # of any axis, so the largest size
                yield name, max(tables[node.input[0]], default=1)
