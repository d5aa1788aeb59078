"""The rule of each operator: whether it keeps the rows of a batch apart.

A rule checks a node that takes rows. It returns the order of the rows along the batch axis of the
outputs, or raises `MixesError` if the node mixes rows or may mix them.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from models.graphs.graph import COUNTS, MORE, Node, Shape, Value

ELEMENTWISE = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Expand",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Reciprocal", "RegexFullMatch", "Relu", "Round",
    "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "StringConcat",
    "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
    "ai.onnx.ml.Binarizer", "ai.onnx.ml.CategoryMapper", "ai.onnx.ml.LabelEncoder",
    "com.microsoft.BiasGelu",
    "com.microsoft.FastGelu", "com.microsoft.Gelu",
    "com.microsoft.QLinearLeakyRelu", "com.microsoft.QLinearMul", "com.microsoft.QLinearSigmoid",
    "com.microsoft.QuickGelu", "com.microsoft.DequantizeLinear",
}  # fmt: skip
FIRST_AXIS = {
    "AffineGrid", "Attention", "AveragePool", "BatchNormalization", "Col2Im", "Conv",
    "ConvInteger", "ConvTranspose", "DeformConv", "DepthToSpace", "GlobalAveragePool",
    "GlobalMaxPool", "GridSample", "GroupNormalization", "InstanceNormalization",
    "LRN", "MaxPool", "QLinearConv", "SpaceToDepth",
    "ai.onnx.ml.FeatureVectorizer", "ai.onnx.ml.Imputer", "ai.onnx.ml.LinearClassifier",
    "ai.onnx.ml.Normalizer", "ai.onnx.ml.OneHotEncoder",
    "ai.onnx.ml.SVMClassifier", "ai.onnx.ml.SVMRegressor", "ai.onnx.ml.Scaler",
    "ai.onnx.ml.TreeEnsemble", "ai.onnx.ml.TreeEnsembleClassifier",
    "ai.onnx.ml.TreeEnsembleRegressor", "com.microsoft.FusedConv",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.QLinearGlobalAveragePool",
}  # fmt: skip
"""Operators whose inputs and outputs have the batch as the first axis."""
RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
ENDLESS = 2**31 - 1
"""A slice with this end, or a larger one, contains all rows."""


class Rows(NamedTuple):
    """The place of the rows in a value: an axis of the size `outer` x rows x `inner`."""

    axis: int
    outer: int = 1
    inner: int = 1


class MixesError(Exception):
    """A node mixes rows, or may mix them. The message is the predicate of a sentence."""


def batch_axis(shapes: Sequence[Shape]) -> int | None:
    """Return the only axis whose size is proportional to the number of rows; None otherwise.

    Args:
        shapes: the shape of a value for each batch size.
    """
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        return None
    axes = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) > 1]
    if len(axes) != 1:
        return None
    (axis,) = axes
    linear = all(
        shape[axis] == first[axis] * count for shape, count in zip(shapes, COUNTS, strict=True)
    )
    return axis if linear else None


class Call:
    """A node and the known properties of its inputs."""

    def __init__(
        self,
        node: Node,
        opset: int,
        values: Mapping[str, Value],
        rows: Mapping[str, Rows],
        sized: Set[str],
        sizes: Set[str],
    ) -> None:
        self.node = node
        self.opset = opset
        self._values = values
        self._rows = rows
        self._sized = sized
        self._sizes = sizes

    def rows(self, index: int) -> Rows | None:
        """Return the place of the rows in an input; None if it has no rows or is omitted."""
        return self._rows.get(self._name(index))

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of an input for `MORE` rows."""
        return self._values[self.node.inputs[index]].shapes[-1]

    def dtype(self, index: int) -> np.dtype[Any]:
        """Return the type of an input."""
        return self._values[self.node.inputs[index]].dtype

    def output(self) -> Value:
        """Return the first output."""
        return self._values[self.node.outputs[0]]

    def has(self, index: int) -> bool:
        """Return whether an input is present."""
        return bool(self._name(index))

    def numbers(self, index: int, attribute: str = "") -> list[int] | None:
        """Return the whole numbers of an input or attribute; None if they are unknown."""
        if attribute in self.node.attributes:
            return [int(number) for number in np.ravel(self.node.attributes[attribute])]
        name = self._name(index)
        if not name or name in self._rows or name in self._sized:
            return None
        return self._kept(name, -1)

    def are_sizes(self, index: int, position: int, axis: int) -> bool:
        """Return whether number `position` of an input is the size of input 0 along an axis."""
        name = self._name(index)
        return name in self._sizes and all(
            (numbers := self._kept(name, batch)) is not None and numbers[position] == shape[axis]
            for batch, shape in enumerate(self._values[self.node.inputs[0]].shapes)
        )

    def is_constant(self, index: int, position: int) -> bool:
        """Return whether number `position` of an input is independent of the number of rows."""
        name = self._name(index)
        if name not in self._sized:
            return True
        batches = [self._kept(name, batch) for batch in range(len(COUNTS))]
        return (
            name in self._sizes
            and len({None if numbers is None else numbers[position] for numbers in batches}) == 1
        )

    def _kept(self, name: str, batch: int) -> list[int] | None:
        value = self._values.get(name)
        if value is None or value.arrays is None:
            return None
        return [int(number) for number in np.ravel(value.arrays[batch])]

    def ratios(self, index: int) -> list[float] | None:
        """Return the numbers of an input or of the attribute `scales`; None if they are unknown."""
        if "scales" in self.node.attributes:
            return [float(scale) for scale in self.node.attributes["scales"]]
        name = self._name(index)
        value = self._values.get(name)
        if value is None or name in self._sized or name in self._rows:
            return None
        arrays = value.arrays
        return (
            [float(scale) for scale in np.ravel(arrays[-1])] if arrays and arrays[-1].size else None
        )

    def number(self, attribute: str, otherwise: int) -> int:
        """Return an attribute that is a whole number."""
        return int(self.node.attributes.get(attribute, otherwise))

    def alone(self, index: int = 0) -> Rows:
        """Return the place of the rows in this input, which must be the only input with rows."""
        others = [
            other for other in range(len(self.node.inputs)) if other != index and self.rows(other)
        ]
        if others or (rows := self.rows(index)) is None:
            raise MixesError("takes rows where they are not expected")
        return rows

    def axes(self, listed: list[int] | None, index: int = 0) -> set[int]:
        """Return axes of an input, counted from the front."""
        rank = len(self.shape(index))
        return {axis % rank for axis in (range(rank) if listed is None else listed)}

    def _name(self, index: int) -> str:
        return self.node.inputs[index] if index < len(self.node.inputs) else ""


Structure = tuple[int, int]
Rule = Callable[[Call], Structure]
"""Returns the order of the rows along the batch axis of each output, or raises `MixesError`."""


def _elementwise(call: Call) -> Structure:
    places = {
        (rows.axis - len(call.shape(index)), rows.outer, rows.inner)
        for index in range(len(call.node.inputs))
        if (rows := call.rows(index)) is not None
    }
    if len(places) != 1:
        raise MixesError("combines each row with others")
    ((_, outer, inner),) = places
    return outer, inner


def _pow(call: Call) -> Structure:
    """ONNX Runtime computes integer powers exactly if the shapes differ, and in FP64 otherwise.

    A batch of one row with one value may have the shape of a constant exponent.
    """
    if call.output().dtype.kind in "iu":  # the type of the base
        raise MixesError("computes integers in another way for one row than for several")
    return _elementwise(call)


def _linear_regressor(call: Call) -> Structure:
    if call.node.attributes.get("post_transform", b"NONE") not in (b"NONE", 0):
        raise MixesError("rounds small numbers by their place in the batch")
    return _first_axis(call)


def _cast(call: Call) -> Structure:
    """ONNX Runtime casts to UINT32 by vectors, and the remaining values in another way.

    It also merges consecutive casts, so the type of the input is not relevant.
    """
    if call.output().dtype == np.uint32:
        raise MixesError("rounds numbers that are no UINT32 by their place in the batch")
    if call.output().dtype.kind == "O" and call.dtype(0).kind == "f":
        raise MixesError("writes a number below the normal numbers as text, or zero")
    return _elementwise(call)


def _quantize(call: Call) -> Structure:
    """Two 4-bit values share a byte, also two values of different rows."""
    if call.output().dtype not in (np.int8, np.uint8, np.int16, np.uint16):
        raise MixesError("gives numbers that are no INT8, UINT8, INT16 or UINT16")
    return _elementwise(call)


def _first_axis(call: Call) -> Structure:
    places_of_inputs = [call.rows(index) for index in range(len(call.node.inputs))]
    places = {rows for rows in places_of_inputs if rows is not None}
    if (
        len(places) != 1
        or places_of_inputs[0] is None
        or places_of_inputs[0].axis != 0
        or len(call.shape(0)) < 2
    ):
        raise MixesError("uses the axis of the rows for another purpose")
    if call.node.kind == "BatchNormalization" and len(call.node.outputs) > 1:
        raise MixesError("normalizes by the rows of the batch, as in training")
    if call.node.kind == "MaxPool" and any(call.node.outputs[1:]):
        raise MixesError("gives positions in the whole batch")
    return places_of_inputs[0][1:]


def _within(axes: Callable[[Call], set[int]], does: str) -> Rule:
    """Return the rule of an operator that computes along certain axes of its first input."""

    def rule(call: Call) -> Structure:
        rows = call.alone()
        if rows.axis in axes(call):
            raise MixesError(does)
        return rows[1:]

    return rule


def _reduced(call: Call) -> set[int]:
    listed = call.numbers(1, "axes")
    if call.has(1) and listed is None:
        raise MixesError("reduces over axes that are not known")
    if not listed and call.number("noop_with_empty_axes", 0):
        return set()
    return call.axes(listed or None)


def _extreme(call: Call) -> Structure:
    """Check that the values are integers: a NaN may be skipped, depending on its place."""
    structure = _within(_reduced, "reduces over the rows")(call)
    if call.dtype(0).kind not in "biu":
        raise MixesError("finds another number beside a NaN by its place in the batch")
    return structure


def _one_axis(otherwise: int) -> Callable[[Call], set[int]]:
    return lambda call: call.axes([call.number("axis", otherwise)])


def _from_axis(call: Call) -> set[int]:
    first = call.number("axis", -1) % len(call.shape(0))
    return set(range(first, len(call.shape(0))))


def _softmax(call: Call) -> set[int]:
    if call.opset >= 13:
        return call.axes([call.number("axis", -1)])
    return set(range(call.number("axis", 1) % len(call.shape(0)), len(call.shape(0))))


def _log_softmax(call: Call) -> Structure:
    """Its maximum in FP64 has the problem of `_extreme`."""
    if call.dtype(0) == np.float64:
        raise MixesError("finds another number beside a NaN by its place in the batch")
    return _within(_softmax, "compares the rows")(call)


def _summed(call: Call) -> set[int]:
    return call.axes(call.numbers(1))


def _last_two(call: Call) -> set[int]:
    return call.axes([-1, -2])


def _matmul(second: int) -> Rule:
    """Return the rule of a matrix product of input 0 and input `second`."""

    def rule(call: Call) -> Structure:
        places = set()
        for index in (0, second):
            rows, rank = call.rows(index), len(call.shape(index))
            if rows is None:
                continue
            if rows.axis == (rank - 1 if index == 0 else max(rank - 2, 0)):
                raise MixesError("sums over the rows")
            places.add((rows.axis - rank, *rows[1:]))
        others = set(range(len(call.node.inputs))) - {0, second}
        if len(places) != 1 or any(call.rows(index) for index in others):
            raise MixesError("combines each row with others")
        ((_, outer, inner),) = places
        return outer, inner

    return rule


def _gemm(call: Call) -> Structure:
    rows = call.rows(0)
    if rows is None or call.rows(1) is not None:
        raise MixesError("combines each row with others")
    if rows.axis == (0 if call.number("transA", 0) else 1):
        raise MixesError("sums over the rows")
    added = call.rows(2)
    if added is not None and (added.axis - len(call.shape(2)), *added[1:]) != (-2, *rows[1:]):
        raise MixesError("combines each row with others")
    return rows[1:]


def _gather(call: Call) -> Structure:
    data, indices = call.rows(0), call.rows(1)
    if data is not None and data.axis in call.axes([call.number("axis", 0)]):
        raise MixesError("picks some of the rows")
    if data is not None and indices is not None:
        raise MixesError("combines each row with others")
    rows = data or indices
    return (1, 1) if rows is None else rows[1:]


def _gather_elements(call: Call) -> Structure:
    data = call.rows(0)
    if data is None or any(call.rows(index) != data for index in range(1, len(call.node.inputs))):
        raise MixesError("picks some of the rows")
    if data.axis in call.axes([call.number("axis", 0)]):
        raise MixesError("picks from other rows")
    return data[1:]


def _gather_nd(call: Call) -> Structure:
    data, indices = call.rows(0), call.rows(1)
    if indices is None and data is not None and data.axis >= call.shape(1)[-1]:
        return data[1:]
    if indices is None or data is not None or indices.axis == len(call.shape(1)) - 1:
        raise MixesError("picks some of the rows")
    return indices[1:]


def _scatter_nd(_: Call) -> Structure:
    """Indices with the number of their row are checked elsewhere (`row_places`)."""
    raise MixesError("changes some of the rows")


def _concat(call: Call) -> Structure:
    axis = call.axes([call.number("axis", 1)])
    places = {call.rows(index) for index in range(len(call.node.inputs))}
    (first, *others) = places
    if others or first is None:
        raise MixesError("puts rows beside others")
    if first.axis in axis:
        raise MixesError("puts rows behind each other")
    shapes = [call.shape(index) for index in range(len(call.node.inputs))]
    if (
        len({tuple(np.delete(shape, [*axis])) for shape in shapes}) > 1
    ):  # ONNX Runtime takes a tensor without numbers of any shape
        raise MixesError("joins tensors of different shapes")
    return first[1:]


def _slice(call: Call) -> Structure:
    rows, rank = call.alone(), len(call.shape(0))
    starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
    axes, steps = call.numbers(3, "axes"), call.numbers(4)
    if starts is None or (call.has(3) and axes is None) or (call.has(4) and steps is None):
        raise MixesError("selects rows by numbers that are not constant")
    places = [axis % rank for axis in (range(len(starts)) if axes is None else axes)]
    for position, axis in enumerate(places):
        if axis != rows.axis:
            if not call.is_constant(2, position):
                raise MixesError("takes as many numbers of a row as there are rows")
            continue
        ends_last = call.are_sizes(2, position, axis) if ends is None else ends[position] >= ENDLESS
        if starts[position] != 0 or (steps and steps[position] != 1) or not ends_last:
            raise MixesError("picks some of the rows")
    return rows[1:]


def _pad(call: Call) -> Structure:
    rows = call.alone()
    pads, axes = call.numbers(1, "pads"), call.numbers(3)
    if pads is None or (call.has(3) and axes is None):
        raise MixesError("pads by numbers that are not constant")
    rank = len(call.shape(0))
    padded = [axis % rank for axis in (range(rank) if axes is None else axes)]
    width = {axis: (pads[i], pads[i + len(padded)]) for i, axis in enumerate(padded)}
    if width.get(rows.axis, (0, 0)) != (0, 0):
        raise MixesError("puts other rows before or behind the rows")
    return rows[1:]


def _reshape(call: Call) -> Structure:
    """Check that the number of values before each row stays the same."""
    return reshaped(call.alone(), call.shape(0), call.output().shapes)


def reshaped(rows: Rows, shape: Shape, shapes: Sequence[Shape]) -> Structure:
    """Return the order of the rows in a reshaped value.

    Args:
        rows: the place of the rows in the value.
        shape: the shape of the value for `MORE` rows.
        shapes: of the result for each batch size.
    """
    axis, new_shape = batch_axis(shapes), shapes[-1]
    before = math.prod(shape[: rows.axis]) * rows.outer
    if axis is not None and before and math.prod(new_shape[:axis]):
        outer, rest = divmod(before, math.prod(new_shape[:axis]))
        if not rest and outer and not new_shape[axis] % (outer * MORE):
            return outer, new_shape[axis] // (outer * MORE)
    raise MixesError("divides a row among several")


def _resize(call: Call) -> Structure:
    """Check that the batch axis is neither resized nor interpolated.

    For values other than images and volumes, ONNX Runtime interpolates along all axes: an infinite
    value in one row then makes values of other rows NaN.
    """
    rows, rank, attributes = call.alone(), len(call.shape(0)), call.node.attributes
    axes = [axis % rank for axis in attributes.get("axes", range(rank))]
    mode = attributes.get("mode", b"nearest")
    if mode == b"nearest":
        if attributes.get("coordinate_transformation_mode") == b"align_corners":
            raise MixesError("may round the places of rows")
    elif rows.axis != 0 or rank not in ((4, 5) if mode == b"linear" else (4,)):
        raise MixesError("interpolates between the rows")
    if rows.axis not in axes:
        return rows[1:]
    position = axes.index(rows.axis)
    has_sizes = call.has(3) and call.are_sizes(3, position, rows.axis)
    scales = call.ratios(1 if call.node.kind == "Upsample" or call.opset < 11 else 2)
    if not has_sizes and (scales is None or scales[position] != 1):
        raise MixesError("resizes the rows' axis")
    return rows[1:]


def _rotary(call: Call) -> Structure:
    """Check that the tables of positions are the same for all rows if each row has positions."""
    if call.rows(3) is not None and (call.rows(1) is not None or call.rows(2) is not None):
        raise MixesError("looks one row's places up in another's table")
    return _first_axis(call)


def _features(call: Call) -> Structure:
    """Check that columns are selected from each row alone, or from a constant for each row."""
    data, places = call.rows(0), call.rows(1)
    if (data is None) == (places is None):
        raise MixesError("combines each row with others")
    if data is not None and data.axis == len(call.shape(0)) - 1:
        raise MixesError("picks some of the rows")
    if places is not None:  # all places are along the last axis of the output
        shape = call.shape(1)
        before = math.prod(shape[: places.axis]) * places.outer
        return before, math.prod(shape[places.axis + 1 :]) * places.inner
    return (data or Rows(0))[1:]


def _quantized_gemm(call: Call) -> Structure:
    rows = call.alone()
    if rows.axis == (0 if call.number("transA", 0) else 1):
        raise MixesError("sums over the rows")
    return rows[1:]


def _tile(call: Call) -> Structure:
    rows, repeats = call.alone(), call.numbers(1)
    if repeats is None or repeats[rows.axis] != 1:
        raise MixesError("repeats the rows")
    return rows[1:]


def _recurrent(call: Call) -> Structure:
    layout = call.number("layout", 0)
    expected = {0: 1 - layout, 4: 0, 5: 1 - layout, 6: 1 - layout}
    for index in range(len(call.node.inputs)):
        rows = call.rows(index)
        if rows is not None and rows != Rows(expected.get(index, -1)):
            raise MixesError("takes rows for steps in time")
    return 1, 1


def _einsum(call: Call) -> Structure:
    equation = call.node.attributes["equation"].decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow:
        raise MixesError("is not known to compute each row for itself")
    named = [
        _named_axes(term, len(call.shape(index))) for index, term in enumerate(terms.split(","))
    ]
    places = {
        (named[index][rows.axis], *rows[1:])
        for index in range(len(named))
        if (rows := call.rows(index)) is not None
    }
    kept = _named_axes(result, len(call.output().shapes[-1]))
    if len(places) != 1 or (place := places.pop())[0] not in kept:
        raise MixesError("sums over the rows")
    return place[1], place[2]


def _named_axes(term: str, rank: int) -> list[str | int]:
    """Return the letters of a term; axes of its dots are counted from the last of these."""
    before, _, after = term.partition("...")
    return [*before, *range(rank - len(before) - len(after), 0, -1), *after]


def _dropout(call: Call) -> Structure:
    if call.has(2) and call.numbers(2) != [0]:
        raise MixesError("draws random numbers")
    return call.alone()[1:]


def _quantized_sum(_: Call) -> Structure:
    raise MixesError("rounds numbers that fill no vector of the processor in another way")


def _dynamically_quantized(_: Call) -> Structure:
    raise MixesError("scales all rows of a batch by their least and largest number")


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(FIRST_AXIS, _first_axis),
    "Pow": _pow,
    "ai.onnx.ml.LinearRegressor": _linear_regressor,
    **dict.fromkeys(["Cast", "CastLike"], _cast),
    **dict.fromkeys(["QuantizeLinear", "com.microsoft.QuantizeLinear"], _quantize),
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(
        [f"Reduce{suffix}" for suffix in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum",
                                      "SumSquare")],
        _within(_reduced, "reduces over the rows"),
    ),
    **dict.fromkeys(["ReduceMax", "ReduceMin"], _extreme),
    **dict.fromkeys(["ArgMax", "ArgMin"], _within(_one_axis(0), "compares the rows")),
    "LogSoftmax": _log_softmax,
    "Softmax": _within(_softmax, "compares the rows"),
    **dict.fromkeys(
        ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"],
        _within(_from_axis, "normalizes over the rows"),
    ),
    "LpNormalization": _within(_one_axis(-1), "normalizes over the rows"),
    "CumSum": _within(_summed, "sums over the rows"),
    "TopK": _within(_one_axis(-1), "sorts the rows"),
    "Split": _within(_one_axis(0), "parts the rows"),
    "Trilu": _within(_last_two, "uses the axis of the rows for another purpose"),
    "Det": _within(_last_two, "uses the axis of the rows for another purpose"),
    "OneHot": _within(lambda _: set(), ""),
    "Transpose": _within(lambda _: set(), ""),
    "ai.onnx.ml.ArrayFeatureExtractor": _features,
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    "RotaryEmbedding": _rotary,
    "com.microsoft.QGemm": _quantized_gemm,
    "com.microsoft.QLinearSoftmax": _within(_one_axis(-1), "compares the rows"),
    "MatMul": _matmul(1),
    "MatMulInteger": _matmul(1),
    "QLinearMatMul": _matmul(3),
    "com.microsoft.MatMulIntegerToFloat": _matmul(1),
    "com.microsoft.MatMulNBits": _matmul(1),
    "Gemm": _gemm,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "ScatterElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "com.microsoft.QLinearAdd": _quantized_sum,
    **dict.fromkeys(["GRU", "LSTM", "RNN"], _recurrent),
    "Einsum": _einsum,
    "Dropout": _dropout,
    **dict.fromkeys(
        ["DynamicQuantizeLinear", "com.microsoft.DynamicQuantizeLSTM",
         "com.microsoft.DynamicQuantizeMatMul"],
        _dynamically_quantized,
    ),
}  # fmt: skip
