"""Graphs as exporters of other libraries write them, put into a form that is served.

- ZipMap, which skl2onnx and onnxmltools put behind probabilities, makes a list of dictionaries of
  them. It is taken out: the output is the tensor in front of it, and its keys are the labels.
- A free batch with a fixed first dimension of an output, as LightGBM's `[1]` of the label, is a
  mistake of the exporter: the dimension is cleared.
- StringNormalizer, as skl2onnx writes it, needs the locale en_US.UTF-8, which few images have: it
  gets C.UTF-8, which changes the case of the same characters.
"""

from typing import TYPE_CHECKING

from models.graphs.graph import UnreadableGraphError, all_nodes, parse_file

if TYPE_CHECKING:
    import onnx


LOCALE = "C.UTF-8"


def repaired(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return an ONNX file without what is not served, and the labels that it names.

    Args:
        content: the bytes. Bytes that are no ONNX file are returned as they are.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        model = parse_file(content)
    except UnreadableGraphError:  # the file is refused, with the reason, when it is opened
        return content, ()
    from onnx import helper

    labels: tuple[str, ...] = ()
    changed = _free_outputs(model.graph)
    for node in [node for node in model.graph.node if _is_zipmap(node)]:
        labels = _keys(node) or labels
        _take_out(model.graph, node)
        changed = True
    for node in all_nodes(model.graph.node):
        if node.op_type == "StringNormalizer" and not _has(node, "locale"):
            node.attribute.append(helper.make_attribute("locale", LOCALE))
            changed = True
    return (model.SerializeToString() if changed else content), labels


def _is_zipmap(node: "onnx.NodeProto") -> bool:
    return node.op_type == "ZipMap" and node.domain == "ai.onnx.ml"


def _has(node: "onnx.NodeProto", name: str) -> bool:
    return any(attribute.name == name for attribute in node.attribute)


def _keys(node: "onnx.NodeProto") -> tuple[str, ...]:
    keys: list[object] = []
    for attribute in node.attribute:
        keys += attribute.ints if attribute.ints else attribute.strings
    return tuple(
        key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
        for key in keys
    )


def _take_out(graph: "onnx.GraphProto", zipmap: "onnx.NodeProto") -> None:
    """Make the tensor in front of ZipMap the output, under the output's name."""
    from onnx import TensorProto, helper

    probabilities, output = zipmap.input[0], zipmap.output[0]
    graph.node.remove(zipmap)
    graph.node.append(helper.make_node("Identity", [probabilities], [output]))
    stated = next((value for value in graph.output if value.name == output), None)
    if stated is not None:
        columns = len(_keys(zipmap)) or None
        tensor = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, columns])
        stated.CopyFrom(tensor)


def _free_outputs(graph: "onnx.GraphProto") -> bool:
    """Clear the fixed first dimension of outputs of a free batch; return whether there was one."""
    constants = {constant.name for constant in graph.initializer}
    batches = [
        dimension
        for value in graph.input
        if value.name not in constants
        for dimension in value.type.tensor_type.shape.dim[:1]
    ]
    if not batches or any(dimension.HasField("dim_value") for dimension in batches):
        return False
    fixed = [
        dimension
        for value in graph.output
        for dimension in value.type.tensor_type.shape.dim[:1]
        if dimension.HasField("dim_value")
    ]
    for dimension in fixed:
        dimension.Clear()
    return bool(fixed)
