"""Graphs that compute in BF16, as ONNX Runtime computes them on a CPU: in FP32.

On a CPU, ONNX Runtime casts, moves and joins BF16, and computes nothing with it. The inputs, the
weights and the results of casts to BF16 are therefore cast to FP32, and the outputs back. Numbers
are not rounded between the operators, as those of FP16 are not on a CPU. The inputs, outputs and
weights of the file stay BF16.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from models.graphs.graph import UnreadableGraphError, inner_graphs, parse_file
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import OnnxRuntime

if TYPE_CHECKING:
    import onnx

NOTE = (
    "The graph is of BF16 and is computed in FP32 between its inputs and outputs, since ONNX "
    "Runtime computes nothing in BF16 on a CPU."
)
_BITS = "/bfloat16"
_WIDE = "/single"


def computable(content: bytes, weights: Weights | None = None) -> tuple[bytes, bool]:
    """Return a graph that ONNX Runtime computes, and whether that is another than the given one.

    Args:
        content: the ONNX file. A file without BF16, or that is loaded as it is, is not changed.
        weights: the content of the file beside it, if it has one.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        model = parse_file(content)
    except UnreadableGraphError:  # the file is refused, with the reason, when it is opened
        return content, False
    if model.functions or not _has_bfloat16(model.graph) or _loads(content, weights):
        return content, False
    _widen(model.graph)
    changed: bytes = model.SerializeToString()
    return changed, True


def _loads(content: bytes, weights: Weights | None) -> bool:
    """Return whether ONNX Runtime has all operators of a graph; True after another error."""
    try:
        OnnxRuntime(content, weights=weights)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - it is reported when the file is opened
        # Some operators have no BF16 in ONNX either, and torch exports them.
        return not any(reason in str(error) for reason in ("NOT_IMPLEMENTED", "tensor(bfloat16)"))
    return True


def _has_bfloat16(graph: "onnx.GraphProto") -> bool:
    import onnx

    kind = onnx.TensorProto.BFLOAT16
    values = (*graph.input, *graph.output, *graph.value_info)
    return any(value.type.tensor_type.elem_type == kind for value in values) or any(
        tensor.data_type == kind for tensor in graph.initializer
    )


def _widen(graph: "onnx.GraphProto") -> None:
    """Cast the inputs and the weights of a graph to FP32, and its outputs back to BF16."""
    import onnx

    kind = onnx.TensorProto.BFLOAT16
    constants = [tensor.name for tensor in graph.initializer if tensor.data_type == kind]
    inputs = [
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type == kind and value.name not in constants
    ]
    outputs = [value.name for value in graph.output if value.type.tensor_type.elem_type == kind]
    names = {name: f"{name}{_WIDE}" for name in (*inputs, *constants, *outputs)}
    _rename(graph.node, names)
    before = [_cast(name, names[name], onnx.TensorProto.FLOAT) for name in (*inputs, *constants)]
    after = [_cast(names[name], name, kind) for name in outputs if name not in inputs]
    nodes = [*before, *_widened(graph.node), *after]
    del graph.node[:]
    graph.node.extend(nodes)
    _forget_types(graph)


def _widened(nodes: "Iterable[onnx.NodeProto]") -> "list[onnx.NodeProto]":
    """Return nodes that compute in FP32: casts to BF16 round, and are followed by one back."""
    import onnx

    found = []
    for node in nodes:
        result = onnx.NodeProto()
        result.CopyFrom(node)
        for attribute in result.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
        for graph in inner_graphs(result):
            for tensor in graph.initializer:
                _widen_tensor(tensor)
            inner = _widened(graph.node)
            del graph.node[:]
            graph.node.extend(inner)
            _forget_types(graph, inner=True)
        found.append(result)
        if _is_rounding(node):
            rounded = f"{node.output[0]}{_BITS}"
            found.append(_cast(rounded, node.output[0], onnx.TensorProto.FLOAT))
            result.output[0] = rounded
    return found


def _is_rounding(node: "onnx.NodeProto") -> bool:
    """Return whether a node casts to BF16."""
    import onnx

    return node.op_type == "Cast" and any(
        attribute.name == "to" and attribute.i == onnx.TensorProto.BFLOAT16
        for attribute in node.attribute
    )


def _widen_tensor(tensor: "onnx.TensorProto") -> None:
    """Make the numbers of a constant FP32, if they are BF16."""
    import onnx

    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _cast(taken: str, given: str, kind: int) -> "onnx.NodeProto":
    import onnx

    return onnx.helper.make_node("Cast", [taken], [given], name=f"cast {given}", to=kind)


def _rename(nodes: "Iterable[onnx.NodeProto]", names: Mapping[str, str]) -> None:
    """Rename the values that nodes take and give, also in the graphs inside them."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for graph in inner_graphs(node):
            _rename(graph.node, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)


def _forget_types(graph: "onnx.GraphProto", *, inner: bool = False) -> None:
    """Clear what a graph states of its values between the nodes; of an inner graph, all BF16."""
    import onnx

    del graph.value_info[:]
    for value in (*graph.input, *graph.output) if inner else ():
        if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
