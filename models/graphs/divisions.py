"""Integer divisions that end the process for certain values of a request.

The smallest INT32 or INT64 divided by -1 has no result in its type, and the processor raises a
signal. In Div and Mod, ONNX Runtime 1.31 checks for a division by 0 but not for this one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.graphs.graph import constant_array, inner_graphs, is_beside, open_session
from models.runtimes.onnx_library import Weights

if TYPE_CHECKING:
    import onnx

KINDS = ("Div", "Mod")
INTEGERS = {6, 7}
"""The codes of INT32 and INT64 in ONNX."""
SMALL = 1024
"""Constants of more numbers tell no shape."""
KEEPING = {
    "Cast", "Concat", "Div", "Expand", "Gather", "Identity", "Max", "Mul", "Reshape", "Slice",
    "Squeeze", "Unsqueeze",
}  # fmt: skip
"""Operators whose outputs are not negative if their inputs are not negative."""


def dangerous_division(model: "onnx.ModelProto", weights: Weights | None = None) -> str | None:
    """Return the first integer division that may divide the smallest number by -1.

    A value of a request may be any number. A size is not negative. A value that is computed from
    sizes may be -1, and may be the smallest number only if a large constant is involved.

    Args:
        model: the ONNX file.
        weights: the content of the file beside it, if it has one; it has no INT32 and INT64.

    Returns:
        A node, such as "Div (node_div)"; None if there is no such division.
    """
    import onnx.inliner

    if model.functions:  # functions of another opset too, if they can be converted
        with suppress(Exception):
            model = onnx.inliner.inline_local_functions(model, convert_version=True)
    bodies = [function.node for function in model.functions]
    if dangerous := next((node for body in bodies for node in body if node.op_type in KINDS), None):
        return _named(dangerous)
    graph = model.graph
    requested = {value.name for value in graph.input}
    with suppress(Exception):  # ONNX Runtime loads files whose types `onnx` cannot infer
        graph = _typed(model)
    dangerous = next(_Search(model, weights).search(graph, requested), None)
    return None if dangerous is None else _named(dangerous)


def _typed(model: "onnx.ModelProto") -> "onnx.GraphProto":
    """Return the graph with the type of each value; its large constants are inputs.

    The inference of hundreds of megabytes of weights takes seconds.
    """
    import onnx

    light = type(model)(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    graph, stated = light.graph, {value.name for value in model.graph.input}
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in stated:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return onnx.shape_inference.infer_shapes(light).graph


def _named(node: "onnx.NodeProto") -> str:
    return f"{node.op_type} ({node.name or node.output[0]})"


class _Search:
    """Follows the values of requests through a graph and its inner graphs."""

    def __init__(self, model: "onnx.ModelProto", weights: Weights | None) -> None:
        self._model = model
        self._weights = weights
        self._constants: dict[str, NDArray[Any]] = {}
        self._types: dict[str, int] = {}
        self._sizes: set[str] = set()
        """Sizes, and values that are computed from sizes by `KEEPING` operators only."""
        self._sized: set[str] = set()
        """Values that are computed from sizes and constants."""
        self._large: set[str] = set()
        """Values that are computed from a large constant, or by a power."""
        self._note_all(model.graph.initializer)

    def search(self, graph: "onnx.GraphProto", requested: set[str]) -> Iterator["onnx.NodeProto"]:
        """Yield the dangerous divisions; `requested` names the values that depend on a request."""
        if graph is not self._model.graph:
            self._note_all(graph.initializer)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self._types[value.name] = value.type.tensor_type.elem_type
        for node in graph.node:
            inputs = {*node.input} - {""}
            if node.op_type == "Constant":
                self._note(_constant(node))
            if node.op_type in KINDS and self._is_dangerous(node, requested):
                yield node
            bodies = list(inner_graphs(node))
            for body in bodies:
                arguments = {value.name for value in body.input}
                yield from self.search(body, requested | arguments)
            if node.op_type in ("Shape", "Size"):
                self._sizes.update(node.output)
                self._sized.update(node.output)
                continue
            if bodies or requested & inputs:
                requested = requested | {*node.output}
            if inputs & self._sized:
                self._sized.update(node.output)
                if node.op_type in KEEPING and inputs & self._sizes:
                    others = inputs - self._sizes
                    if all(name in self._constants and self._is_natural(name) for name in others):
                        self._sizes.update(node.output)
            if inputs & self._large or node.op_type in ("BitShift", "Pow"):
                self._large.update(node.output)

    def _note_all(self, initializers: "Iterable[onnx.TensorProto]") -> None:
        for tensor in initializers:
            if not is_beside(tensor):
                self._note({tensor.name: constant_array(tensor)})
            self._types[tensor.name] = tensor.data_type

    def _note(self, constants: Mapping[str, NDArray[Any]]) -> None:
        self._constants |= constants
        for name, array in constants.items():
            if array.dtype.kind in "iu" and array.size and array.min() <= -(2**31):
                self._large.add(name)

    def _is_natural(self, name: str) -> bool:
        return not np.any(self._constants[name] < 0)

    def _is_dangerous(self, node: "onnx.NodeProto", requested: set[str]) -> bool:
        dividend, divisor = node.input
        if not requested & {dividend, divisor} and not self._sized & {dividend, divisor}:
            return False
        constant = self._constants.get(divisor)
        if divisor in self._sizes or (constant is not None and not np.any(constant == -1)):
            return False
        if dividend not in requested | self._large and not (
            dividend not in self._constants and divisor in requested
        ):
            return False
        types = {self._types.get(name) or 0 for name in (dividend, divisor, *node.output)} - {0}
        return bool((types or self._computed_types(node)) & INTEGERS)

    def _computed_types(self, node: "onnx.NodeProto") -> set[int]:
        """Return the output type that ONNX Runtime infers; integers for nodes of inner graphs."""
        if all(other.output[:1] != node.output[:1] for other in self._model.graph.node):
            return {*INTEGERS}
        model = type(self._model)()
        model.CopyFrom(self._model)
        (output,) = (
            computed for computed in open_session(model, node.output, self._weights).get_outputs()
            if computed.name == node.output[0]
        )  # fmt: skip
        return {*INTEGERS} if output.type in ("tensor(int32)", "tensor(int64)") else set()


def _constant(node: "onnx.NodeProto") -> Mapping[str, NDArray[Any]]:
    import onnx

    values = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }
    if "value" in values:
        return {node.output[0]: constant_array(values["value"])}
    numbers: Iterable[int] | int | None = values.get("value_int", values.get("value_ints"))
    return {} if numbers is None else {node.output[0]: np.asarray(numbers)}
