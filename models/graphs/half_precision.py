"""Detection of ONNX graphs that compute in half precision."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.graphs.graph import UnreadableGraphError, inner_graphs, parse
from models.runtimes.differences import BFLOAT16, HALF_PRECISION

if TYPE_CHECKING:
    import onnx


def half_tolerance(content: bytes) -> float:
    """Return the relative tolerance of the half precision in which a graph computes; else 0.

    Converters often leave the inputs and outputs FP32.

    Args:
        content: the ONNX file.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        model = parse(content)
    except UnreadableGraphError:
        return 0.0
    import onnx

    types = set(_types(model.graph))
    if onnx.TensorProto.BFLOAT16 in types:
        return BFLOAT16
    return HALF_PRECISION if onnx.TensorProto.FLOAT16 in types else 0.0


def _types(graph: "onnx.GraphProto") -> Iterator[int]:
    """Yield the types of inputs, outputs and constants, and the target types of casts."""
    yield from (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output))
    yield from (tensor.data_type for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t.data_type
            elif node.op_type == "Cast" and attribute.name == "to":
                yield attribute.i
        for inner in inner_graphs(node):
            yield from _types(inner)
