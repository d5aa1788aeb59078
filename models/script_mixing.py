"""Which operator of a TorchScript module mixes the rows of a batch, as far as its code tells.

A module states no shapes, so the batch axis cannot be followed as through an ONNX graph
(`row_mixing.py`). It comes beside such a graph, with which it must agree on every row that is
tried; what is looked for here is what rows that are tried need not show: numbers that are taken out
of a tensor, reductions over all of it or over its first axis, and one scale for the whole batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NUMBERS = {
    "aten::Bool", "aten::Float", "aten::FloatImplicit", "aten::Int", "aten::IntImplicit",
    "aten::ScalarImplicit", "aten::allclose", "aten::equal", "aten::is_nonzero", "aten::item",
    "aten::tolist",
}  # fmt: skip
"""They make a number of Python's out of a tensor: a branch may depend on it."""
RANDOM = {
    "aten::bernoulli", "aten::exponential", "aten::log_normal", "aten::multinomial",
    "aten::normal", "aten::rand", "aten::rand_like", "aten::randint", "aten::randint_like",
    "aten::randn", "aten::randn_like", "aten::random", "aten::randperm", "aten::uniform",
}  # fmt: skip
DYNAMIC = {
    "aten::choose_qparams_optimized", "aten::quantize_per_tensor_dynamic",
    "aten::quantized_gru", "aten::quantized_lstm", "quantized::linear_dynamic",
    "quantized::linear_dynamic_fp16", "quantized::linear_relu_dynamic",
    "quantized::make_quantized_cell_params_dynamic",
}  # fmt: skip
REDUCING = {
    "aten::all", "aten::amax", "aten::amin", "aten::aminmax", "aten::any", "aten::argmax",
    "aten::argmin", "aten::argsort", "aten::cummax", "aten::cummin", "aten::cumprod",
    "aten::cumsum", "aten::flip", "aten::kthvalue", "aten::linalg_norm",
    "aten::linalg_vector_norm", "aten::log_softmax", "aten::logcumsumexp", "aten::logsumexp",
    "aten::max", "aten::mean", "aten::median", "aten::min", "aten::mode", "aten::nansum",
    "aten::norm", "aten::prod", "aten::quantile", "aten::roll", "aten::softmax", "aten::sort",
    "aten::special_logsumexp", "aten::std", "aten::std_mean", "aten::sum", "aten::topk",
    "aten::unique_consecutive", "aten::unique_dim", "aten::var", "aten::var_mean",
}  # fmt: skip
PICKING = {"aten::cat", "aten::index_select", "aten::narrow", "aten::select", "aten::slice"}
PERMUTING = {
    "aten::T", "aten::movedim", "aten::numpy_T", "aten::permute", "aten::swapaxes", "aten::t",
    "aten::transpose", "aten::unbind",
}  # fmt: skip
"""Where one of these stands, the first axis need not be that of the rows."""
NORMALIZING = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}
"""Which argument says that they work as in training."""


def script_mixing(graph: Any) -> str | None:
    """Name the first operator of a frozen module's graph that mixes rows; None where none does.

    Args:
        graph: a `torch.Graph`.

    Returns:
        A clause such as "aten::max reduces the whole batch".
    """
    nodes = list(_nodes(graph))
    rows_first = not any(
        node.kind() in PERMUTING and next(node.inputs()).node().kind() != "prim::Constant"
        for node in nodes
    )
    for node in nodes:
        found = _found(node, rows_first)
        if found is not None:
            return f"{node.kind()} {found}"
    return None


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _found(node: Any, rows_first: bool) -> str | None:
    kind, inputs = node.kind(), list(node.inputs())
    if kind.removesuffix("_") in RANDOM:
        return "draws random numbers"
    if kind in DYNAMIC:
        return "scales all rows of a batch by their least and largest number"
    if kind in NUMBERS and not _is_size(inputs[0]):
        return "takes a number out of the batch"
    if kind in NORMALIZING and inputs[NORMALIZING[kind]].toIValue() is not False:
        return "works as in training"
    if kind in REDUCING | PICKING:
        return _over(node, inputs, rows_first)
    return None


def _over(node: Any, inputs: Sequence[Any], rows_first: bool) -> str | None:
    """What an operator does that works along some axes."""
    named = dict(zip(_arguments(node), inputs, strict=False))
    axes = named.get("dim", named.get("dims"))
    if axes is None or axes.type().kind() == "NoneType":
        elementwise = "other" in named  # as the larger of two tensors
        return "reduces the whole batch" if node.kind() in REDUCING and not elementwise else None
    given = axes.toIValue()
    places = given if isinstance(given, list) else [given]
    if not places:
        return "reduces the whole batch"
    if node.kind() == "aten::slice" and _is_whole(named):
        return None
    return "works along the first axis" if rows_first and 0 in places else None


def _is_whole(named: Mapping[str, Any]) -> bool:
    """Whether a slice leaves nothing out."""
    start, end, step = (named[name].toIValue() for name in ("start", "end", "step"))
    return start in (0, None) and (end is None or end >= 2**31 - 1) and step == 1


def _arguments(node: Any) -> list[str]:
    import torch

    schema = node.schema()
    if not schema or schema == "(no schema)":
        return []
    return [argument.name for argument in torch._C.parse_schema(schema).arguments]


def _is_size(value: Any) -> bool:
    """Whether a tensor holds a number that was made of shapes and constants alone."""
    node = value.node()
    if node.kind() in ("prim::NumToTensor", "prim::Constant"):
        return True
    computed = node.kind().removesuffix("_") in (
        "aten::add", "aten::div", "aten::floor_divide", "aten::mul", "aten::sub", "aten::to",
    )  # fmt: skip
    return computed and all(
        _is_size(one) for one in node.inputs() if one.type().kind() == "TensorType"
    )
