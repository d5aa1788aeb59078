"""The rule of each TorchScript operator: whether it keeps the rows of a batch apart.

An operator without a rule here is unknown, and so is an in-place operator on a value that is not
new: it might change a weight, which other requests share.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.graphs.graph import Shape
from models.graphs.row_rules import ENDLESS, MixesError, Rows, Structure, reshaped
from models.torch_graphs.script_graph import ScriptNode, Tracked, flattened, listed, single

ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "addcdiv", "addcmul", "alias", "asin", "asinh", "atan", "atanh",
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "celu", "clamp", "clamp_max",
    "clamp_min", "clone", "contiguous", "cos", "detach", "elu", "eq", "erf", "erfc", "exp", "exp2",
    "expand", "expand_as", "expm1", "floor", "frac", "full_like", "ge", "gelu", "gt", "hardshrink",
    "hardsigmoid", "hardswish", "hardtanh", "isfinite", "isinf", "isnan", "le", "leaky_relu",
    "lerp", "log", "log10", "log1p", "log2", "log_sigmoid", "logical_and", "logical_not",
    "logical_or", "logical_xor", "logit", "lt", "masked_fill", "maximum", "minimum", "mish", "mul",
    "nan_to_num", "ne", "neg", "ones_like", "reciprocal", "relu", "relu6", "round", "rsqrt", "rsub",
    "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softshrink", "sqrt", "square", "sub",
    "tan", "tanh", "threshold", "to", "trunc", "type_as", "xlogy", "zeros_like",
}  # fmt: skip
VECTORS = {"cosh", "div", "floor_divide", "fmod", "pow", "remainder", "sinh"}
"""Elementwise operators that give other numbers in a vector of the processor than at its end.

Rounding apart, these are remainders and quotients of very large numbers, powers of numbers below
the normal ones, and results close to the largest FP64 or BF16.
"""
_EXACT_POWERS = (0.5, 1, 2, 3)
"""Exponents with which FP64 and BF16 below the normal numbers give one result, as zero does."""
SCALED = {"add", "rsub", "sub"}
"""Elementwise operators with a factor `alpha`.

In half precision, a vector of the processor rounds the sum, and its end rounds the product first,
which may overflow.
"""
SIGN_TELLING = {
    "addcdiv": "tensor2", "div": "other", "pow": "self", "reciprocal": "self", "rsqrt": "self",
}  # fmt: skip
"""By operator: the argument of which 0 and -0 have unlike results."""
SIGN_CHOOSING = {"clamp", "clamp_max", "clamp_min", "log_sigmoid", "max", "maximum", "min",
                 "minimum", "softshrink"}  # fmt: skip
"""Operators that give 0 or -0 by the place in a vector of the processor, unless a limit decides."""
ALWAYS_SIGN_CHOOSING = {"amax", "amin", "gelu"}
"""Operators that do so whatever their arguments are."""
PRODUCTS = {
    "_convolution", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "convolution", "einsum", "linear", "matmul", "mm", "mv",
}  # fmt: skip
"""Operators that give 0 for one row and -0 for several, where each product of the sum is -0."""
UNSIGNED = {
    "abs", "cos", "exp", "exp2", "full_like", "linalg_vector_norm", "norm", "ones_like", "sigmoid",
    "softmax", "std", "var", "zeros_like",
}  # fmt: skip
"""Operators of which 0 and -0 have the same result, or results of the same sign."""
ALONG = {
    "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "chunk", "count_nonzero",
    "cumprod", "cumsum", "flip", "glu", "linalg_vector_norm", "log_softmax", "logsumexp", "mean",
    "narrow", "norm", "prod", "repeat_interleave", "roll", "select", "softmax", "sort", "split",
    "split_with_sizes", "std", "sum", "topk", "unbind", "unfold", "var",
}  # fmt: skip
"""Operators that compute along the axes that an argument lists."""
MOVING = {"movedim", "numpy_T", "permute", "swapaxes", "swapdims", "t", "transpose"}
RESHAPING = {"flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"}
IMAGES = {
    "_convolution": 0, "adaptive_avg_pool1d": 3, "adaptive_avg_pool2d": 4, "adaptive_avg_pool3d": 5,
    "adaptive_max_pool1d": 3, "adaptive_max_pool2d": 4, "adaptive_max_pool3d": 5, "avg_pool1d": 3,
    "avg_pool2d": 4, "avg_pool3d": 5, "channel_shuffle": 4, "conv1d": 3, "conv2d": 4, "conv3d": 5,
    "conv_transpose1d": 3, "conv_transpose2d": 4, "conv_transpose3d": 5, "convolution": 0,
    "group_norm": 0, "instance_norm": 0, "max_pool1d": 3, "max_pool2d": 4, "max_pool3d": 5,
    "pixel_shuffle": 4, "pixel_unshuffle": 4, "prelu": 0, "upsample_bicubic2d": 4,
    "upsample_bilinear2d": 4, "upsample_linear1d": 3, "upsample_nearest1d": 3,
    "upsample_nearest2d": 4, "upsample_nearest3d": 5, "upsample_trilinear3d": 5,
}  # fmt: skip
"""Operators on a batch of images, with the rank of a batch; 0 for that of the weights or any."""
FACTORIES = {
    "arange", "full", "linspace", "new_full", "new_ones", "new_zeros", "ones", "scalar_tensor",
    "tensor", "zeros",
}  # fmt: skip
"""Operators that make a tensor of numbers; of the tensor `self` they take the type alone."""
SIZES_AT: Mapping[str, str] = {
    "expand": "size", "reshape": "shape", "slice": "end", "view": "size",
}  # fmt: skip
"""By operator: the argument that may hold the number of rows, or multiples of it."""


class Call:
    """A node with rows among its arguments, and the shapes of its result."""

    def __init__(self, node: ScriptNode, results: Sequence[Any]) -> None:
        self.node = node
        self.results = results

    def tensor(self, name: str) -> Tracked | None:
        """Return an argument that is a tensor; None if it is omitted or another value."""
        item = self.node.arguments.get(name)
        return item if isinstance(item, Tracked) and item.is_tensor else None

    def rows(self, name: str) -> Rows | None:
        """Return the place of the rows in an argument; None if it has no rows."""
        tensor = self.tensor(name)
        return None if tensor is None else tensor.rows

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor for `MORE` rows."""
        tensor = self.tensor(name)
        if tensor is None:
            raise MixesError(f"has no tensor {name}")
        return tensor.shapes[-1]

    def value(self, *names: str) -> Any:
        """Return the first of these arguments that the operator has."""
        item = next(self.node.arguments[name] for name in names if name in self.node.arguments)
        if isinstance(item, Tracked):
            return item.values[0]
        return [value.values[0] for value in flattened(item)]

    def has(self, name: str) -> bool:
        """Return whether the operator has such an argument."""
        return name in self.node.arguments

    def alone(self, name: str = "self") -> Rows:
        """Return the place of the rows in this argument, which must be the only one with rows."""
        rows = self.rows(name)
        if rows is None or sum(value.rows is not None for value in self.node.tracked) != 1:
            raise MixesError("takes rows where they are not expected")
        return rows

    def axes(self, name: str, numbers: Any) -> set[int]:
        """Return the axes of a tensor, counted from the front; all if none are given."""
        rank = len(self.shape(name))
        listed_axes = numbers if isinstance(numbers, list) else [numbers]
        return {axis % rank for axis in (range(rank) if numbers in (None, []) else listed_axes)}

    def shapes(self) -> Sequence[Shape]:
        """Return the shape of the only result for each batch size."""
        return [tuple(result.shape) for result in self.results]


Rule = Callable[[Call], Structure]


def _elementwise(call: Call) -> Structure:
    places = {
        (value.rows.axis - len(value.shapes[-1]), *value.rows[1:])
        for value in call.node.tracked
        if value.rows is not None
    }
    if len(places) != 1:
        raise MixesError("combines each row with others")
    ((_, outer, inner),) = places
    return outer, inner


def _scaled(call: Call) -> Structure:
    short = call.results[0].is_floating_point() and call.results[0].element_size() < 4
    if short and call.has("alpha") and call.value("alpha") != 1:
        raise MixesError("rounds a product by its place in the batch")
    return _elementwise(call)


def _vector(call: Call) -> Structure:
    import torch

    name = call.node.kind.partition("::")[2].removesuffix("_")
    floats = call.results[0].is_floating_point()
    if name == "div":
        differs = call.has("rounding_mode") and call.value("rounding_mode") is not None
    elif name in ("cosh", "sinh"):
        differs = call.results[0].dtype not in (torch.float16, torch.float32)
    else:
        differs = name != "pow" or call.tensor("exponent") is not None
        if not differs and call.results[0].dtype in (torch.bfloat16, torch.float64):
            differs = call.value("exponent") not in _EXACT_POWERS
    if floats and differs:
        raise MixesError("computes extreme numbers in another way by their place in the batch")
    return _elementwise(call)


def _converted(call: Call) -> Structure:
    """Torch converts to UINT32 by vectors, and the remaining values in another way."""
    import torch

    given = [call.tensor(name) for name in ("self", "src")]
    floats = any(one and one.values[0].is_floating_point() for one in given)
    if floats and call.results[0].dtype == torch.uint32:
        raise MixesError("rounds numbers that are no UINT32 by their place in the batch")
    return _elementwise(call)


def _where(call: Call) -> Structure:
    if not call.has("other"):
        raise MixesError("counts numbers of the whole batch")
    return _elementwise(call)


def _extreme(call: Call) -> Structure:
    return _elementwise(call) if call.has("other") else _along(call)


def _spread(call: Call) -> Structure:
    """Torch computes the variance of a whole tensor with larger rounding errors than others."""
    if call.results[0].numel() == 1:
        raise MixesError("computes one number in another way than several")
    return _along(call)


def _along(call: Call) -> Structure:
    rows = call.alone()
    names = [name for name in ("dim", "dims", "dimension") if call.has(name)]
    if not names:
        raise MixesError("works on the whole batch")
    if rows.axis in call.axes("self", call.value(*names)):
        raise MixesError("works along the rows")
    return rows[1:]


def _moved(call: Call) -> Structure:
    return call.alone()[1:]


def _reshape(call: Call) -> Structure:
    if call.has("dtype"):
        raise MixesError("reads the bits of a number, which tell 0 from -0")
    return reshaped(call.alone(), call.shape("self"), call.shapes())


def _images(call: Call) -> Structure:
    name = "input" if call.has("input") else "self"
    rows, rank = call.alone(name), len(call.shape(name))
    weight = call.tensor("weight")
    kind = call.node.kind.partition("::")[2].removesuffix("_")
    expected = IMAGES[kind] or (len(weight.shapes[-1]) if "conv" in kind and weight else rank)
    if rows.axis != 0 or rank < 2 or rank != expected:
        raise MixesError("uses the axis of the rows for another purpose")
    if kind == "instance_norm" and call.tensor("running_mean") is not None:
        raise MixesError("may change its weights")
    if "conv" in kind and weight and not weight.values[0].isfinite().all():
        # An algorithm that multiplies the padding gives NaN. The number of rows decides on it.
        raise MixesError("has a weight that is infinite or NaN")
    return rows[1:]


def _batch_norm(call: Call) -> Structure:
    rows = call.alone("input")
    if call.value("training") is not False:
        raise MixesError("computes in training mode")
    if rows.axis != 0 or len(call.shape("input")) < 2:
        raise MixesError("uses the axis of the rows for another purpose")
    return rows[1:]


def _dropout(call: Call) -> Structure:
    if call.value("train") is not False:
        raise MixesError("computes in training mode")
    return call.alone("input")[1:]


def _layer_norm(call: Call) -> Structure:
    rows, rank = call.alone("input"), len(call.shape("input"))
    if rows.axis >= rank - len(call.value("normalized_shape")):
        raise MixesError("normalizes over the rows")
    return rows[1:]


def _linear(call: Call) -> Structure:
    rows = call.alone("input")
    if rows.axis == len(call.shape("input")) - 1:
        raise MixesError("sums over the rows")
    return rows[1:]


def _product(first: str, second: str, added: str = "") -> Rule:
    def rule(call: Call) -> Structure:
        places = set()
        for name in (first, second):
            rows, rank = call.rows(name), len(call.shape(name))
            if rows is None:
                continue
            if rows.axis == (rank - 1 if name == first else max(rank - 2, 0)):
                raise MixesError("sums over the rows")
            places.add((rows.axis - rank, *rows[1:]))
        if added and (rows := call.rows(added)) is not None:
            places.add((rows.axis - len(call.shape(added)), *rows[1:]))
        if len(places) != 1:
            raise MixesError("combines each row with others")
        ((_, outer, inner),) = places
        return outer, inner

    return rule


def _attention(call: Call) -> Structure:
    if call.value("dropout_p"):
        raise MixesError("draws random numbers")
    rank = len(call.shape("query"))
    places, names = set(), ("query", "key", "value", "attn_mask")
    for name in names:
        rows = call.rows(name)
        if rows is not None:
            places.add((rows.axis - len(call.shape(name)), *rows[1:]))
        elif name != "attn_mask":
            raise MixesError("combines each row with others")
    (place, outer, inner), *others = places
    if others or not -rank <= place < -2:
        raise MixesError("combines each row with others")
    for tensor in filter(None, map(call.tensor, names)):
        if len({value.stride(-1) == 1 for value in tensor.values}) > 1:
            # torch chooses its algorithm by the strides; they treat NaN and infinity differently.
            raise MixesError("may take another algorithm for one row than for several")
    return outer, inner


def _multi_head_attention(call: Call) -> Structure:
    names = ("query", "key", "value")
    places = {call.rows(name) for name in names}
    ranks = {len(call.shape(name)) for name in names}
    others = [value for value in call.node.tracked if value.rows is not None]
    rows = call.rows("query")
    if rows is None or rows.axis != 0 or len(places) > 1 or ranks != {3} or len(others) != 3:
        raise MixesError("uses the axis of the rows for another purpose")
    return rows[1:]


def _encoder_layer(call: Call) -> Structure:
    rows = call.alone("src")
    if rows.axis != 0 or len(call.shape("src")) != 3:
        raise MixesError("uses the axis of the rows for another purpose")
    return rows[1:]


def _recurrent(call: Call) -> Structure:
    if call.value("train") is not False and call.value("dropout"):
        raise MixesError("computes in training mode")
    states = list(flattened(call.node.arguments["hx"]))
    with_rows = [value for value in call.node.tracked if value.rows]
    if (
        call.rows("input") != Rows(0 if call.value("batch_first") else 1)
        or len(call.shape("input")) != 3
        or any(state.rows not in (None, Rows(1)) for state in states)
        or len(with_rows) != 1 + len([state for state in states if state.rows])
    ):
        raise MixesError("takes rows for steps in time")
    return 1, 1


def _embedding(call: Call) -> Structure:
    return call.alone("indices")[1:]


def _index(call: Call) -> Structure:
    """Check that columns are selected from each row alone, or from a constant for each row."""
    indices = call.node.arguments["indices"]
    import torch

    tensors = [single(item) if single(item).is_tensor else None for item in listed(indices)]
    if any(tensor and tensor.values[0].dtype in (torch.bool, torch.uint8) for tensor in tensors):
        raise MixesError("counts numbers of the whole batch")
    places = {
        (tensor.rows.axis - len(tensor.shapes[-1]), *tensor.rows[1:])
        for tensor in tensors
        if tensor and tensor.rows
    }
    data = call.rows("self")
    if data is None and len(places) == 1:
        ((_, outer, inner),) = places
        return outer, inner
    if data is None or places or (data.axis < len(tensors) and tensors[data.axis] is not None):
        raise MixesError("picks some of the rows")
    return data[1:]


def _index_select(call: Call) -> Structure:
    data, index = call.rows("self"), call.rows("index")
    if data is not None and data.axis in call.axes("self", call.value("dim")):
        raise MixesError("picks some of the rows")
    if data is not None and index is not None:
        raise MixesError("combines each row with others")
    return (data or index or Rows(0))[1:]


def _gather(call: Call) -> Structure:
    data, places = call.rows("self"), [call.tensor("index"), call.tensor("src")]
    if data is None or any(tensor and tensor.rows != data for tensor in places):
        raise MixesError("picks some of the rows")
    if data.axis in call.axes("self", call.value("dim")):
        raise MixesError("picks from other rows")
    return data[1:]


def _one_hot(call: Call) -> Structure:
    if call.value("num_classes") < 1:
        raise MixesError("counts the classes of the whole batch")
    return call.alone()[1:]


def _joined(call: Call) -> Structure:
    tensors = call.node.arguments["tensors"]
    places = {tensor.rows for tensor in flattened(tensors)}
    (rows, *others), dim = places, call.value("dim")
    if rows is None or others:
        raise MixesError("puts rows beside others")
    rank = len(next(flattened(tensors)).shapes[-1])
    is_new = call.node.kind == "aten::stack"
    if not is_new and rows.axis == dim % rank:
        raise MixesError("puts rows behind each other")
    return rows[1:]


def _slice(call: Call) -> Structure:
    rows, dim = call.alone(), call.value("dim")
    (axis,) = call.axes("self", dim)
    end = single(call.node.arguments["end"])
    if axis != rows.axis:
        if end.counted:
            raise MixesError("takes as many numbers of a row as there are rows")
        return rows[1:]
    start, step, last = call.value("start"), call.value("step"), end.values[0]
    tensor = single(call.node.arguments["self"])
    is_size = end.multiple and end.values == tuple(shape[axis] for shape in tensor.shapes)
    is_endless = not end.counted and (last is None or last >= ENDLESS)
    if start not in (0, None) or step not in (1, None) or not (is_size or is_endless):
        raise MixesError("picks some of the rows")
    return rows[1:]


def _pad(call: Call) -> Structure:
    rows, rank = call.alone(), len(call.shape("self"))
    widths = call.value("pad", "padding")
    padded = {rank - 1 - position // 2 for position, width in enumerate(widths) if width}
    if rows.axis in padded:
        raise MixesError("puts other rows before or behind the rows")
    return rows[1:]


def _repeat(call: Call) -> Structure:
    rows, rank = call.alone(), len(call.shape("self"))
    repeats = call.value("repeats", "dims")
    axis = rows.axis - rank
    if -axis <= len(repeats) and repeats[axis] != 1:
        raise MixesError("repeats the rows")
    return rows[1:]


def _triangle(call: Call) -> Structure:
    rows = call.alone()
    if rows.axis >= len(call.shape("self")) - 2:
        raise MixesError("uses the axis of the rows for another purpose")
    return rows[1:]


def _einsum(call: Call) -> Structure:
    equation = call.value("equation").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        raise MixesError("is not known to compute each row for itself")
    tensors = flattened(call.node.arguments["tensors"])
    letters = {
        (term[tensor.rows.axis], *tensor.rows[1:])
        for term, tensor in zip(terms.split(","), tensors, strict=True)
        if tensor.rows
    }
    if len(letters) != 1 or (place := letters.pop())[0] not in result:
        raise MixesError("sums over the rows")
    return place[1], place[2]


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(SCALED, _scaled),
    **dict.fromkeys(VECTORS, _vector),
    **dict.fromkeys(ALONG, _along),
    **dict.fromkeys(MOVING, _moved),
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(IMAGES, _images),
    **dict.fromkeys(["max", "min"], _extreme),
    **dict.fromkeys(["cat", "concat", "stack"], _joined),
    **dict.fromkeys(["constant_pad_nd", "pad"], _pad),
    **dict.fromkeys([f"{mode}_pad{rank}d" for mode in ("reflection", "replication")
                     for rank in (1, 2, 3)], _pad),
    **dict.fromkeys(["dropout", "feature_dropout"], _dropout),
    **dict.fromkeys(["gather", "scatter"], _gather),
    **dict.fromkeys(["gru", "lstm", "rnn_relu", "rnn_tanh"], _recurrent),
    **dict.fromkeys(["layer_norm", "rms_norm"], _layer_norm),
    **dict.fromkeys(["repeat", "tile"], _repeat),
    **dict.fromkeys(["std", "var"], _spread),
    **dict.fromkeys(["tril", "triu"], _triangle),
    "_native_multi_head_attention": _multi_head_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "addmm": _product("mat1", "mat2", "self"),
    "baddbmm": _product("batch1", "batch2", "self"),
    "batch_norm": _batch_norm,
    "bmm": _product("self", "mat2"),
    **dict.fromkeys(["copy", "to", "type_as"], _converted),
    "einsum": _einsum,
    "embedding": _embedding,
    "index": _index,
    "fill": _elementwise,
    "index_select": _index_select,
    "linear": _linear,
    "matmul": _product("self", "other"),
    "mm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "one_hot": _one_hot,
    "scaled_dot_product_attention": _attention,
    "slice": _slice,
    "where": _where,
    "zero": _elementwise,
}  # fmt: skip
"""By the name of the operator in `aten`."""
