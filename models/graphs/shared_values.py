"""Whether the proof that rows are independent holds for all values of an input that rows share.

A graph may decide by such a value: a branch, a size, an index. The proof then holds for the values
with which it was done.
"""

from collections.abc import Collection

from models.graphs.graph import UnreadableGraphError, inner_graphs, parse, taken_names

ANY_VALUE = {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Cos", "Div", "Equal", "Erf", "Exp",
    "Floor", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin",
    "Sqrt", "Sub", "Tanh", "Where", "Xor",
}  # fmt: skip
"""Operators that compute each number by itself, whatever the numbers are."""
RESHAPED = {"Expand", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move the numbers of their first input."""


def values_matter(content: bytes, shared: Collection[str]) -> bool:
    """Return whether an operator may decide by a value of a shared input how it computes rows.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        shared: the shared inputs.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        nodes = parse(content).graph.node
    except UnreadableGraphError:
        return True
    depends = set(shared)
    for node in nodes:
        inner = set(taken_names(inner_graphs(node)))
        places = [place for place, name in enumerate(node.input) if name in depends]
        if inner & depends:
            return True
        if not places or node.op_type in ("Shape", "Size"):
            continue
        if node.op_type not in ANY_VALUE and not (node.op_type in RESHAPED and places == [0]):
            return True
        depends.update(filter(None, node.output))
    return False
