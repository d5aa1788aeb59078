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

MOVING = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""They give the numbers that they take first."""


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
    inputs = {one.name: one.name for one in graph.input if one.name not in tables}
    sizes: dict[str, int] = {}
    for name, size in _looked_up(graph.node, tables, inputs):
        sizes[name] = min(size, sizes.get(name, size))
    return [InputRange(name, 0.0, float(size - 1)) for name, size in sizes.items()]


def _looked_up(
    nodes: Iterable["onnx.NodeProto"],
    tables: Mapping[str, tuple[int, ...]],
    inputs: dict[str, str],
) -> Iterable[tuple[str, int]]:
    """An input, and the size of a table that it is looked up in; `inputs` by the value's name."""
    for node in nodes:
        if node.op_type in MOVING and node.input[0] in inputs:
            inputs[node.output[0]] = inputs[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in inputs and node.input[0] in tables:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            yield inputs[node.input[1]], tables[node.input[0]][axis]
