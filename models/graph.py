"""An ONNX graph as it computes: its nodes in order, and what each value in it is for some rows.

A graph states few of its shapes. So every value in it is made an output, and computed for three
numbers of rows: what a graph does with its rows can then be read off the shapes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.foreign import AddError
from models.onnx_library import load_onnxruntime
from models.runtimes import Arrays

if TYPE_CHECKING:
    import onnx

COUNTS = (1, 2, 3)
"""The numbers of rows that are computed."""
MORE = COUNTS[-1]
OWN_DOMAINS = ("", "ai.onnx")
KNOWN_DOMAINS = (*OWN_DOMAINS, "ai.onnx.ml", "com.microsoft")
SMALL = 1_000
"""A value of so many numbers at most is kept."""

Shape = tuple[int, ...]


class UnreadableGraphError(Exception):
    """A graph that cannot be computed with every value as an output."""


@dataclass(frozen=True)
class Value:
    """What one value of a graph was, for each of `COUNTS` rows."""

    shapes: tuple[Shape, ...]
    same: bool
    """Whether it was the same for all."""
    arrays: tuple[NDArray[Any], ...] | None
    """For each, where it is small."""
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
        inner_kinds: the kinds of the nodes inside them.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    inner: frozenset[str] | None
    inner_kinds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ObservedGraph:
    """A graph, and what was computed in it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    opset: int
    """The version of ONNX's own operators."""
    is_free: bool
    """Whether an input has another dimension than the rows that may have any size."""


def parse(content: bytes) -> "onnx.ModelProto":
    """The file, with the functions in it put where they are called.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: a function in it has the name of an operator.
    """
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise AddError(
            f"reading the graph needs the package onnx ({error}): install it with pip install onnx"
        ) from error
    model = onnx.load_model_from_string(content)
    for function in model.functions:
        if function.domain in KNOWN_DOMAINS:  # the runtime may compute its own of that name
            raise UnreadableGraphError(f"it defines {function.name}, which is an operator already")
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def observe(content: bytes, batches: Sequence[Arrays]) -> ObservedGraph:
    """Compute every value of a graph.

    Args:
        content: the ONNX file, which ONNX Runtime loads.
        batches: `COUNTS` rows of every input.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: the graph cannot be computed so, or may be read in two ways.
    """
    try:
        model = parse(content)
        import onnx

        _require_one_meaning(model)
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        inputs = tuple(one.name for one in model.graph.input if one.name not in constants)
        outputs = tuple(one.name for one in model.graph.output)
        nodes = tuple(_node(node) for node in model.graph.node)
        values = _computed(model, nodes, batches)
    except (AddError, UnreadableGraphError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnreadableGraphError(reason or type(error).__name__) from error
    values |= {name: _value([array] * len(COUNTS)) for name, array in constants.items()}
    opset = next((one.version for one in model.opset_import if one.domain in OWN_DOMAINS), 1)
    is_free = any(
        not dimension.HasField("dim_value") or dimension.dim_value < 0
        for one in model.graph.input
        if one.name in inputs
        for dimension in one.type.tensor_type.shape.dim[1:]
    )
    return ObservedGraph(inputs, outputs, nodes, values, opset, is_free)


def _require_one_meaning(model: "onnx.ModelProto") -> None:
    """Check that the runtime cannot read the file in another way than the one that is read here."""
    stated: dict[str, set[int]] = {}
    for one in model.opset_import:
        domain = "" if one.domain in OWN_DOMAINS else one.domain
        stated.setdefault(domain, set()).add(one.version)
    if any(len(versions) > 1 for versions in stated.values()):
        raise UnreadableGraphError("it states two versions of its operators")
    functions = {(one.domain, one.name) for one in model.functions}
    if any((node.domain, node.op_type) in functions for node in model.graph.node):
        raise UnreadableGraphError("a function in it has another version of the operators")
    if model.graph.sparse_initializer:
        raise UnreadableGraphError("it has sparse constants")


def _node(node: "onnx.NodeProto") -> Node:
    import onnx

    own = node.domain in OWN_DOMAINS
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
        inner_kinds=frozenset(_kinds(graphs)),
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


def _kinds(graphs: Iterable["onnx.GraphProto"]) -> Iterable[str]:
    for graph in graphs:
        for node in graph.node:
            yield node.op_type
            yield from _kinds(_inner_graphs(node))


def _computed(
    model: "onnx.ModelProto", nodes: Iterable[Node], batches: Sequence[Arrays]
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
    computed = [session.run(names, dict(rows)) for rows in batches]
    found = dict(zip(names, zip(*computed, strict=True), strict=True))
    found |= {name: tuple(rows[name] for rows in batches) for name in batches[0]}
    return {
        name: _value(arrays)
        for name, arrays in found.items()
        if all(isinstance(one, np.ndarray) for one in arrays)
    }


def _value(arrays: Sequence[NDArray[Any]]) -> Value:
    first, last = arrays[0], arrays[-1]
    same = all(one is first or _equal(one, first) for one in arrays)
    varies = first.shape != last.shape
    level = frozenset(
        axis for axis in range(last.ndim) if varies and _equal(last, np.roll(last, 1, axis))
    )
    kept = tuple(arrays) if last.size <= SMALL else None
    return Value(tuple(one.shape for one in arrays), same, kept, level)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
