"""The nodes of an ONNX graph in order, and each of its values for batches of a few sizes.

A graph states few of its shapes. Every value is therefore made an output and computed for three
batch sizes: the shapes show what the graph does with the rows.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import AddError
from models.kinds.batch_axes import ROWS_FIRST, BatchAxes
from models.runtimes.bfloat16 import run_of
from models.runtimes.onnx_library import Weights, load_onnxruntime, take_weights
from models.runtimes.runtime import Arrays
from models.runtimes.subnormals import FlushToZero, without_subnormals

if TYPE_CHECKING:
    import onnx

COUNTS = (1, 2, 3)
"""The batch sizes, in rows."""
MORE = COUNTS[-1]
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike"}  # fmt: skip
UNFILLED = {"Concat", "Conv", "ConvInteger", "GRU", "LSTM", "MatMul", "MatMulInteger",
            "QLinearConv", "QLinearMatMul", "RNN"}  # fmt: skip
"""Operators that may leave their output as they find it in the memory, if an input is empty."""
OWN_DOMAINS = ("", "ai.onnx")
RUNTIME_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms", "org.pytorch")
"""ONNX Runtime may use its own operator in place of a function in a domain that begins so."""
SMALL = 1_000
"""Values with at most this many numbers are kept."""

Shape = tuple[int, ...]


class UnreadableGraphError(Exception):
    """A graph that cannot be analyzed, or not computed with every value as an output."""


@dataclass(frozen=True)
class Value:
    """One value of a graph for each batch size in `COUNTS`."""

    shapes: tuple[Shape, ...]
    dtype: np.dtype[Any]
    same: bool
    """Whether the value was the same for all batch sizes."""
    arrays: tuple[NDArray[Any], ...] | None
    """The value for each batch size, if it is small."""
    level: frozenset[int] = frozenset()
    """The axes along which all numbers are equal, for `MORE` rows."""
    subnormal: bool = False
    """Whether the value has numbers that count as zero in most operators."""
    bounds: tuple[int, int] | None = None
    """The least and the largest number of INT64, if the value was the same for all batch sizes."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        kind: the name of the operator, with its domain in front if that is not ONNX's own.
        name: the name of the node, or else of its first output.
        inputs: the names of the input values, "" for an omitted input.
        outputs: the names of the output values, "" for an unused output.
        attributes: as Python values; tensors as arrays.
        inner: the values that the graphs inside the node may use.
        body: the graph inside the node, if there is one alone.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    inner: frozenset[str] | None
    body: "onnx.GraphProto | None" = None


@dataclass(frozen=True)
class ObservedGraph:
    """A graph and its computed values."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    opset: int
    """The opset of ONNX's own operators."""
    size: int = 0
    """The size of all values without the constants for `MORE` rows, in bytes."""
    decided: frozenset[str] = frozenset()
    """The conditions of the branches whose nodes are in their place."""


def load(content: bytes) -> "onnx.ModelProto":
    """Return the parsed file.

    Raises:
        AddError: the package `onnx` is not installed.
    """
    model: onnx.ModelProto = _onnx().load_model_from_string(content)
    _state_defaults(model)
    return model


def parse_file(content: bytes) -> "onnx.ModelProto":
    """Return the parsed file, unchanged.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: the bytes are no ONNX file.
    """
    library = _onnx()
    try:
        model: onnx.ModelProto = library.load_model_from_string(content)
    except Exception as error:
        raise UnreadableGraphError("it is no ONNX file") from error
    return model


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise AddError(
            f"reading the graph needs the package onnx ({error}): install it with pip install onnx"
        ) from error
    return onnx


def _state_defaults(model: "onnx.ModelProto") -> None:
    """Write the default attributes of functions into their calls: `onnx.inliner` drops them."""
    defaults = {
        (function.domain, function.name, function.overload): function.attribute_proto
        for function in model.functions
    }
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in all_nodes(body)):
        stated = {attribute.name for attribute in node.attribute}
        missing = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(attribute for attribute in missing if attribute.name not in stated)


def _require_attributes(model: "onnx.ModelProto") -> None:
    """Check that each attribute that a function refers to is stated in each call.

    `onnx.inliner` drops other references. ONNX Runtime then takes the default of the operator, or
    that of the function that is called.
    """
    referred: dict[tuple[str, str, str], set[str]] = {}
    for function in model.functions:
        attributes = (
            attribute for node in all_nodes(function.node) for attribute in node.attribute
        )
        names = {attribute.ref_attr_name for attribute in attributes} - {""}
        referred[function.domain, function.name, function.overload] = names
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    for node in (node for body in bodies for node in all_nodes(body)):
        stated = {attribute.name for attribute in node.attribute}
        if missing := referred.get((node.domain, node.op_type, node.overload), set()) - stated:
            raise UnreadableGraphError(f"it calls {node.op_type} without {min(missing)}")


def all_nodes(nodes: Iterable["onnx.NodeProto"]) -> Iterator["onnx.NodeProto"]:
    """Yield the nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from all_nodes(graph.node)


def tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """Yield the constants of the graph and of the graphs inside its nodes."""
    yield from model.graph.initializer
    for node in all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
        for graph in inner_graphs(node):
            yield from graph.initializer


def is_beside(tensor: "onnx.TensorProto") -> bool:
    """Return whether the numbers of a constant are in the file beside the graph."""
    import onnx

    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def constant_array(tensor: "onnx.TensorProto", weights: Weights | None = None) -> NDArray[Any]:
    """Return the numbers of a constant, or its texts as bytes, since they may not be UTF-8.

    Args:
        tensor: the constant.
        weights: the content of the file beside the graph, of which a part is viewed.
    """
    import onnx

    if tensor.data_type == onnx.TensorProto.BFLOAT16 and not is_beside(tensor):
        return onnx.numpy_helper.to_array(tensor).astype(np.float32)
    if is_beside(tensor):
        places = {entry.key: int(entry.value) for entry in tensor.external_data
                  if entry.key in ("offset", "length")}  # fmt: skip
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        count = places["length"] // dtype.itemsize
        shape = tuple(tensor.dims)
        found = np.frombuffer(weights or b"", dtype, count, places["offset"]).reshape(shape)
        return found if dtype.kind in "fiu" else found.astype(np.float32)  # of BF16

    if tensor.data_type == onnx.TensorProto.STRING:
        return np.array([*tensor.string_data], object).reshape(tuple(tensor.dims))
    return onnx.numpy_helper.to_array(tensor)


def is_text(value: "onnx.ValueInfoProto") -> bool:
    """Return whether an input or output of a graph holds text."""
    import onnx

    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.STRING)


def is_quantized(model: "onnx.ModelProto") -> bool:
    """Return whether the graph rounds numbers to integers.

    ONNX Runtime replaces operators between such roundings by operators on integers. These may give
    the next integer.
    """
    return any(node.op_type == "QuantizeLinear" for node in all_nodes(model.graph.node))


def parse(content: bytes) -> "onnx.ModelProto":
    """Return the parsed file, with its functions inlined.

    Raises:
        AddError: the package `onnx` is not installed.
        UnreadableGraphError: a function in it has the name of an operator, or refers to an
            attribute that a call does not state.
    """
    import onnx.inliner

    model = load(content)
    for function in model.functions:
        if function.domain.startswith(RUNTIME_DOMAINS) or not function.domain:
            raise UnreadableGraphError(f"it defines {function.name}, which is an operator already")
    _require_attributes(model)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


class Observer:
    """Computes every value of a graph for rows of several sizes.

    Args:
        model: the file, as `parse` returns it.
        decided: the conditions of the branches whose nodes are in their place.
        weights: the content of the file beside the graph, if it has one.

    Raises:
        UnreadableGraphError: the graph cannot be computed in this way, or is ambiguous.
    """

    def __init__(
        self,
        model: "onnx.ModelProto",
        decided: Iterable[str] = (),
        weights: Weights | None = None,
    ) -> None:
        self.model = model
        self._decided = frozenset(decided)
        with readable():
            _require_one_meaning(model)
            self._stated = _stated_shapes(model.graph)
            self._constants = {
                tensor.name: _value([constant_array(tensor, weights)] * len(COUNTS))
                for tensor in model.graph.initializer
            }
            self._inputs = tuple(
                value.name for value in model.graph.input if value.name not in self._constants
            )
            self._outputs = tuple(value.name for value in model.graph.output)
            self._nodes = tuple(_node(node) for node in model.graph.node)
            own_versions = (
                opset.version for opset in model.opset_import if opset.domain in OWN_DOMAINS
            )
            self._opset = next(own_versions, 1)
            self._names = [name for node in self._nodes for name in node.outputs if name]
            self._run = run_of(open_session(model, self._names, weights))

    def require_followed(self) -> None:
        """Check that the graphs inside the nodes are known to compute the same each time.

        Raises:
            UnreadableGraphError: they are not.
        """
        with readable():
            _require_determined(self.model.graph)
            _require_unstated(self.model.graph)

    def observe(self, rows: Arrays, axes: BatchAxes = ROWS_FIRST) -> ObservedGraph:
        """Compute every value for the first rows, repeated if there are too few.

        Of rows of text, the first is repeated: with other texts, a value that is filled up to the
        longest row would have another size in each batch.

        Args:
            rows: inputs with the rows first.
            axes: the axes of the batch in the graph.

        Raises:
            UnreadableGraphError: the graph cannot compute these rows.
        """
        if any(array.dtype == object for array in rows.values()):
            rows = {name: array[:1] for name, array in rows.items()}
        batches = [
            axes.inputs_of_network(
                {
                    name: without_subnormals(np.resize(array, (count, *array.shape[1:])))
                    for name, array in rows.items()
                }
            )
            for count in COUNTS
        ]
        with readable(), FlushToZero():
            computed = [self._run(self._names, batch) for batch in batches]
        for outputs, batch in zip(computed, batches, strict=True):
            _require_shapes(self._stated, dict(zip(self._names, outputs, strict=True)) | batch)
        arrays_by_name = dict(zip(self._names, zip(*computed, strict=True), strict=True))
        arrays_by_name |= {name: tuple(batch[name] for batch in batches) for name in rows}
        values = {
            name: _value(arrays)
            for name, arrays in arrays_by_name.items()
            if all(isinstance(array, np.ndarray) for array in arrays)
        }
        size = sum(math.prod(value.shapes[-1]) * value.dtype.itemsize for value in values.values())
        values |= self._constants
        return ObservedGraph(
            self._inputs, self._outputs, self._nodes, values, self._opset, size, self._decided
        )


@contextmanager
def readable() -> Iterator[None]:
    """Raise `UnreadableGraphError` for every error in the block."""
    try:
        yield
    except (AddError, UnreadableGraphError):
        raise
    except UnicodeDecodeError as error:
        raise UnreadableGraphError("it holds text that is no UTF-8") from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnreadableGraphError(reason or type(error).__name__) from error


def _require_one_meaning(model: "onnx.ModelProto") -> None:
    """Check that the file has the same meaning for ONNX Runtime and for this module."""
    versions_by_domain: dict[str, set[int]] = {}
    for opset in model.opset_import:
        domain = "" if opset.domain in OWN_DOMAINS else opset.domain
        versions_by_domain.setdefault(domain, set()).add(opset.version)
    if any(len(versions) > 1 for versions in versions_by_domain.values()):
        raise UnreadableGraphError("it states two versions of its operators")
    if "" not in versions_by_domain and any(n.domain in OWN_DOMAINS for n in model.graph.node):
        raise UnreadableGraphError("it states no version of ONNX's own operators")
    if model.functions:  # others are inlined
        raise UnreadableGraphError("a function in it has another version of the operators")
    if model.graph.sparse_initializer:
        raise UnreadableGraphError("it has sparse constants")
    names = [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node for name in node.output if name]
    if len(names) > len({*names}):  # ONNX Runtime takes one of two constants
        raise UnreadableGraphError("two of its values have one name")


def _stated_shapes(graph: "onnx.GraphProto") -> list[tuple[str, list[int | str]]]:
    """Return the shapes that the file states; ONNX Runtime relies on them when it optimizes."""
    return [
        (value.name, [_stated_size(size) for size in value.type.tensor_type.shape.dim])
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
    ]


def _require_unstated(graph: "onnx.GraphProto") -> None:
    """Check that no inner graph states shapes, which cannot be checked."""
    for node in graph.node:
        for inner in inner_graphs(node):
            if any(
                _stated_size(size) != ""
                for value in (*inner.value_info, *inner.output)
                for size in value.type.tensor_type.shape.dim
            ):
                raise UnreadableGraphError("a graph inside it states shapes")
            _require_unstated(inner)


def _stated_size(size: "onnx.TensorShapeProto.Dimension") -> int | str:
    """Return a number, a name, or "" for any size; some exporters write -1 for it."""
    return size.dim_value if size.HasField("dim_value") and size.dim_value >= 0 else size.dim_param


def _require_shapes(stated: Sequence[tuple[str, list[int | str]]], values: Arrays) -> None:
    """Check the stated shapes, and that dimensions with the same name have the same size."""
    sizes: dict[str, int] = {}
    for name, dimensions in stated:
        array = values.get(name)
        if not isinstance(array, np.ndarray):
            continue
        agree = array.ndim == len(dimensions) and all(
            stated_size == ""
            or size
            == (
                stated_size if isinstance(stated_size, int) else sizes.setdefault(stated_size, size)
            )
            for stated_size, size in zip(dimensions, array.shape, strict=True)
        )
        if not agree:
            raise UnreadableGraphError(
                f"it states {dimensions} for {name}, which is {list(array.shape)}"
            )


def _require_determined(graph: "onnx.GraphProto", *, is_inner: bool = False) -> None:
    """Check that no node draws random numbers, and that inner graphs have no unknown nodes."""
    for node in graph.node:
        draws = node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
        if draws and (is_inner or node.op_type in RANDOM):
            name = next(filter(None, node.output), "")
            raise UnreadableGraphError(f"{node.op_type} ({name}) draws random numbers")
        if is_inner and node.domain not in OWN_DOMAINS:
            raise UnreadableGraphError(f"{node.op_type} is inside a node, and not ONNX's own")
        if is_inner and node.op_type in UNFILLED:
            raise UnreadableGraphError(
                f"{node.op_type} is inside a node, with tensors of any shape"
            )
        for inner in inner_graphs(node):
            _require_determined(inner, is_inner=True)


def _node(node: "onnx.NodeProto") -> Node:
    import onnx

    is_own = node.domain in OWN_DOMAINS
    graphs = list(inner_graphs(node))
    attributes = {
        attribute.name: onnx.helper.get_attribute_value(attribute)
        for attribute in node.attribute
        if attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    }
    return Node(
        kind=node.op_type if is_own else f"{node.domain}.{node.op_type}",
        name=node.name or next(filter(None, node.output), ""),
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        inner=frozenset(taken_names(graphs)) if graphs else None,
        body=graphs[0] if len(graphs) == 1 else None,
    )


def inner_graphs(node: "onnx.NodeProto") -> Iterable["onnx.GraphProto"]:
    """Return the graphs in the attributes of a node: loop bodies and branches."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def taken_names(graphs: Iterable["onnx.GraphProto"]) -> Iterable[str]:
    """Return all names that the nodes of these graphs use."""
    for graph in graphs:
        yield from (value.name for value in graph.output)
        for node in graph.node:
            yield from node.input
            yield from taken_names(inner_graphs(node))


def open_session(
    model: "onnx.ModelProto", names: Sequence[str], weights: Weights | None = None
) -> Any:
    """Return a session that computes the unoptimized graph and returns these values too."""
    import onnx

    onnxruntime = load_onnxruntime()
    count, stated = len(model.graph.output), {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in stated
    )
    content = model.SerializeToString()
    del model.graph.output[count:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    take_weights(options, weights)
    options.add_session_config_entry("session.set_denormal_as_zero", "1")  # as `OnnxRuntime`
    with FlushToZero():
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _value(arrays: Sequence[NDArray[Any]]) -> Value:
    first, last = arrays[0], arrays[-1]
    same = all(array is first or _equal(array, first) for array in arrays)
    varies = first.shape != last.shape
    level = frozenset(axis for axis in range(last.ndim) if varies and _is_level(last, axis))
    small = tuple(arrays) if last.size <= SMALL else None
    shapes = tuple(array.shape for array in arrays)
    bounds = None
    if same and first.dtype == np.int64 and first.size:
        bounds = int(first.min()), int(first.max())
    subnormal = any(map(is_subnormal, arrays[:1] if same else arrays))
    return Value(shapes, last.dtype, same, small, level, subnormal, bounds)


def attribute_numbers(node: Node) -> Iterator[NDArray[Any]]:
    """Yield the floating-point numbers in the attributes of a node."""
    import onnx

    for value in node.attributes.values():
        if isinstance(value, onnx.TensorProto):
            yield constant_array(value)
        elif isinstance(value, float | list) and np.asarray(value).dtype.kind == "f":
            yield np.asarray(value, np.float32)


def is_subnormal(array: NDArray[Any]) -> bool:
    """Return whether there is a subnormal number of FP32 or FP64; others are computed as FP32."""
    if array.dtype not in (np.float32, np.float64):
        return False
    size = np.abs(array)
    return bool(np.any((size > 0) & (size < np.finfo(array.dtype).tiny)))


def _is_level(array: NDArray[Any], axis: int) -> bool:
    """Return whether all slices along an axis are equal."""
    moved = np.moveaxis(array, axis, 0)
    first, second = moved[:1], moved[1:2]
    if not _equal(second, first[: len(second)]):  # so for most arrays, in a fraction of the time
        return False
    return _equal(moved, np.broadcast_to(first, moved.shape))


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.shape == second.shape and np.array_equal(
        first, second, equal_nan=first.dtype.kind in "fc"
    )
