"""An ONNX graph as it computes: its nodes in order, and what each value in it is for some rows.

A graph states few of its shapes. So every value in it is made an output, and computed for two
numbers of rows: what a graph does with its rows can then be read off the shapes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.foreign import AddError
from models.onnx_library import load_onnxruntime
from models.runtimes import Arrays

if TYPE_CHECKING:
    import onnx

FEW, MORE = 2, 3
"""The numbers of rows that are computed."""
SMALL = 1_000
"""A value of so many numbers at most is kept."""

Shape = tuple[int, ...]


class UnreadableGraphError(Exception):
    """A graph that cannot be computed with every value as an output."""


@dataclass(frozen=True)
class Value:
    """What one value of a graph was, for `FEW` rows and for `MORE`."""

    shapes: tuple[Shape, Shape]
    same: bool
    """Whether both were equal."""
    arrays: tuple[NDArray[Any], NDArray[Any]] | None
    """For both, where it is small."""
    level: frozenset[int] = frozenset()
    """The axes along which all numbers are the same, for `MORE` rows."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        kind: its name; with its domain before it, where that is not ONNX's own.
        name: what the file calls it, or its first output.
        inputs: the values that it takes, "" for one that is left out.
        outputs: the values that it gives, "" for one that nobody asks for.
        attributes: as Python's values; tensors as arrays.
        inner: the values that the graphs inside it may take, where it has some.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    inner: frozenset[str] | None


@dataclass(frozen=True)
class ObservedGraph:
    """A graph, and what was computed in it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    opset: int
    """The version of ONNX's own operators."""


def parse(content: bytes) -> "onnx.ModelProto":
    """The file, with the functions in it put where they are called.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise AddError(
            f"reading the graph needs the package onnx ({error}): install it with pip install onnx"
        ) from error
    model = onnx.load_model_from_string(content)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def observe(content: bytes, few: Arrays, more: Arrays) -> ObservedGraph:
    """Compute every value of a graph.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        few: `FEW` rows of every input.
        more: `MORE` rows of every input.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: the graph cannot be computed so.
    """
    try:
        model = parse(content)
        import onnx

        constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        inputs = tuple(one.name for one in model.graph.input if one.name not in constants)
        outputs = tuple(one.name for one in model.graph.output)
        nodes = tuple(_node(node) for node in model.graph.node)
        values = _computed(model, nodes, few, more)
    except AddError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnreadableGraphError(reason or type(error).__name__) from error
    values |= {name: _value(array, array) for name, array in constants.items()}
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    return ObservedGraph(inputs, outputs, nodes, values, max(versions, default=1))


def _node(node: "onnx.NodeProto") -> Node:
    import onnx

    own = node.domain in ("", "ai.onnx")
    graphs = list(_inner_graphs(node))
    attributes = {
        one.name: onnx.helper.get_attribute_value(one)
        for one in node.attribute
        if one.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    }
    return Node(
        kind=node.op_type if own else f"{node.domain}.{node.op_type}",
        name=node.name or next(filter(None, node.output), ""),
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        inner=frozenset(_taken(graphs)) if graphs else None,
    )


def _inner_graphs(node: "onnx.NodeProto") -> Iterable["onnx.GraphProto"]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _taken(graphs: Iterable["onnx.GraphProto"]) -> Iterable[str]:
    """Every name that the nodes of these graphs take, also from each other."""
    for graph in graphs:
        yield from (one.name for one in graph.output)
        for node in graph.node:
            yield from node.input
            yield from _taken(_inner_graphs(node))


def _computed(
    model: "onnx.ModelProto", nodes: Iterable[Node], few: Arrays, more: Arrays
) -> dict[str, Value]:
    import onnx

    onnxruntime = load_onnxruntime()
    stated = {one.name for one in model.graph.output}
    names = [name for node in nodes for name in node.outputs if name]
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in stated
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    at_few, at_more = (session.run(names, dict(rows)) for rows in (few, more))
    found = dict(zip(names, zip(at_few, at_more, strict=True), strict=True))
    found |= {name: (few[name], more[name]) for name in more}
    return {
        name: _value(*both)
        for name, both in found.items()
        if all(isinstance(one, np.ndarray) for one in both)
    }


def _value(few: NDArray[Any], more: NDArray[Any]) -> Value:
    same = few is more or (few.shape == more.shape and _equal(few, more))
    level = frozenset(
        axis
        for axis in range(more.ndim)
        if few.shape != more.shape and _equal(more, np.roll(more, 1, axis))
    )
    arrays = (few, more) if more.size <= SMALL else None
    return Value((few.shape, more.shape), same, arrays, level)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
