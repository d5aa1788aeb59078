"""Operators that end the process of ONNX Runtime, or return uninitialized memory.

Seen in ONNX Runtime 1.31. `divisions.py` finds divisions that end the process.
"""

from typing import TYPE_CHECKING, Any

from models.graphs.graph import all_nodes

if TYPE_CHECKING:
    import onnx


def crash(model: "onnx.ModelProto") -> str | None:
    """Return the first node that is not safe to compute, and why.

    Args:
        model: the ONNX file.

    Returns:
        A clause such as "STFT (frames) computes its frames, and ..."; None if all nodes are safe.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in all_nodes(body)):
        if node.op_type == "Constant":
            constants.update(node.output)
        if found := _unsafe(node, constants):
            return f"{node.op_type} ({node.name or next(filter(None, node.output), '')}) {found}"
    return None


def _unsafe(node: "onnx.NodeProto", constants: set[str]) -> str | None:
    import onnx

    attributes: dict[str, Any] = {
        attribute.name: attribute.i if attribute.type == onnx.AttributeProto.INT else attribute.s
        for attribute in node.attribute
    }
    sizes = [name for name in (node.input[1:2], node.input[3:4]) if name and name[0]]
    if node.op_type == "STFT" and not all(name[0] in constants for name in sizes):
        return "computes its frames, and ONNX Runtime ends with one of no length: make it constant"
    if node.op_type == "QLinearAveragePool" and attributes.get("channels_last"):
        return (
            "has its channels last, and ONNX Runtime ends where its output is empty: quantize the "
            "network with the channels first"
        )
    if node.op_type == "BatchNormalization" and "" in node.output[1:]:
        return "has outputs without a name, with which ONNX Runtime ends: leave them out"
    if node.op_type == "RoiAlign" and not attributes.get("sampling_ratio"):
        return (
            "has as many samples as a box is large, and ONNX Runtime ends with a very large box: "
            "export it with a sampling_ratio, such as 2"
        )
    if attributes.get("post_transform") in (b"PROBIT", 4):
        return (
            "gives PROBIT, of which ONNX Runtime leaves numbers as it finds them in memory: export "
            "it with another post_transform"
        )
    return None
