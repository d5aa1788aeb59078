"""Which inputs of a graph are places in a table, as the tokens of an embedding, and its size.

ONNX counts a negative place from the table's end, so a stray -1 is answered as if it were the last
token; and a place beyond the end fails only once it is computed.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from models.graph import UnreadableGraphError, parse
from models.ranges import InputRange

if TYPE_CHECKING:
    import onnx

MOVING = {
    "Cast", "Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
"""They give the numbers that they take, beside others perhaps."""


def index_ranges(content: bytes) -> list[InputRange]:
    """The range of each input that is looked up in a constant table, 0 to its last place.

    Args:
        content: the ONNX file.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        graph = parse(content).graph
    except UnreadableGraphError:
        return []
    tables = {one.name: tuple(one.dims) for one in graph.initializer}
    inputs = {one.name: {one.name} for one in graph.input if one.name not in tables}
    sizes: dict[str, int] = {}
    for name, size in _looked_up(graph.node, tables, inputs):
        sizes[name] = min(size, sizes.get(name, size))
    return [InputRange(name, 0.0, float(size - 1)) for name, size in sizes.items()]


def _looked_up(
    nodes: Iterable["onnx.NodeProto"],
    tables: Mapping[str, tuple[int, ...]],
    inputs: dict[str, set[str]],
) -> Iterable[tuple[str, int]]:
    """An input, and the size of a table that it is looked up in; `inputs` by value."""
    for node in nodes:
        if node.op_type in MOVING:
            inputs[node.output[0]] = set().union(*(inputs.get(one, set()) for one in node.input))
        elif node.op_type == "Gather" and node.input[0] in tables:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            for name in inputs.get(node.input[1], set()):
                yield name, tables[node.input[0]][axis]
