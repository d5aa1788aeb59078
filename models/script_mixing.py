"""A search of a TorchScript module's code for operators that mix the rows of a batch.

A module states no shapes, so the batch axis cannot be followed as in an ONNX graph
(`row_mixing.py`). The module must compute the same as such a graph on every tried row. The search
covers operators whose mixing the tried rows may not show: numbers taken out of a tensor, reductions
over a whole tensor or its first axis, and one scale for the whole batch. `observed_mixing` then
runs the module on batches of two sizes, and finds reductions over an axis that grows with the
batch, wherever it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.runtimes import Arrays, Runtime

NUMBERS = {
    "aten::Bool", "aten::Float", "aten::FloatImplicit", "aten::Int", "aten::IntImplicit",
    "aten::ScalarImplicit", "aten::allclose", "aten::equal", "aten::is_nonzero", "aten::item",
    "aten::tolist",
}  # fmt: skip
"""Operators that convert a tensor to a Python number, on which a branch may depend."""
RANDOM = {
    "aten::bernoulli", "aten::exponential", "aten::log_normal", "aten::multinomial",
    "aten::normal", "aten::rand", "aten::rand_like", "aten::randint", "aten::randint_like",
    "aten::randn", "aten::randn_like", "aten::random", "aten::randperm", "aten::uniform",
}  # fmt: skip
COUNTED = {
    "aten::_unique", "aten::_unique2", "aten::argwhere", "aten::bincount", "aten::masked_scatter",
    "aten::masked_select", "aten::nonzero", "aten::nonzero_numpy", "aten::unique_dim",
}  # fmt: skip
"""Operators whose output has a size, or an order, that depends on the numbers of all rows."""
DYNAMIC = {
    "aten::choose_qparams_optimized", "aten::quantize_per_tensor_dynamic",
    "aten::quantized_gru", "aten::quantized_lstm", "quantized::linear_dynamic",
    "quantized::linear_dynamic_fp16", "quantized::linear_relu_dynamic",
    "quantized::make_quantized_cell_params_dynamic",
}  # fmt: skip
REDUCING = {
    "aten::all", "aten::amax", "aten::amin", "aten::aminmax", "aten::any", "aten::argmax",
    "aten::argmin", "aten::argsort", "aten::cdist", "aten::count_nonzero", "aten::cummax",
    "aten::cummin", "aten::cumprod", "aten::cumsum", "aten::dist", "aten::dot", "aten::flip",
    "aten::frobenius_norm", "aten::isin", "aten::kthvalue", "aten::linalg_norm",
    "aten::linalg_vector_norm", "aten::log_softmax", "aten::logcumsumexp", "aten::logsumexp",
    "aten::max", "aten::mean", "aten::median", "aten::min", "aten::mode", "aten::msort",
    "aten::nanmean", "aten::nansum", "aten::norm", "aten::nuclear_norm", "aten::prod",
    "aten::quantile", "aten::roll", "aten::softmax", "aten::sort", "aten::special_logsumexp",
    "aten::std", "aten::std_mean", "aten::sum", "aten::topk", "aten::trace",
    "aten::unique_consecutive", "aten::unique_dim", "aten::var", "aten::var_mean",
}  # fmt: skip
PRODUCTS = {
    "aten::addmm": "mat1", "aten::baddbmm": "batch1", "aten::bmm": "self", "aten::matmul": "self",
    "aten::mm": "self", "aten::mv": "self",
}  # fmt: skip
"""Products of matrices, and the argument whose last axis they sum over."""
OBSERVED = (3, 5)
"""Numbers of rows of two runs: an axis that counts the rows has another size in each."""
PICKING = {
    "aten::cat", "aten::index_add", "aten::index_select", "aten::narrow", "aten::scatter_add",
    "aten::select", "aten::slice",
}  # fmt: skip
PERMUTING = {
    "aten::T", "aten::movedim", "aten::numpy_T", "aten::permute", "aten::swapaxes", "aten::t",
    "aten::transpose", "aten::unbind",
}  # fmt: skip
"""Operators that may move the batch from the first axis."""
NORMALIZING = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::feature_dropout": 2}
"""The index of the argument that selects the behaviour of training."""


def script_mixing(graph: Any) -> str | None:
    """Return the first operator of a frozen module's graph that mixes rows, and how.

    Args:
        graph: a `torch.Graph`.

    Returns:
        A clause such as "aten::max reduces the whole batch"; None if no operator mixes rows.
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
    if kind.removesuffix("_") in COUNTED or (kind == "aten::where" and len(inputs) == 1):
        return "counts numbers of the whole batch"
    if kind == "aten::index" and _picks_rows(inputs):
        return "picks some of the rows"
    if kind in NUMBERS and not _is_size(inputs[0]):
        return "takes a number out of the batch"
    if kind in NORMALIZING and inputs[NORMALIZING[kind]].toIValue() is not False:
        return "works as in training"
    if kind in REDUCING | PICKING:
        return _over(node, inputs, rows_first)
    return None


def _picks_rows(inputs: Sequence[Any]) -> bool:
    """Return whether `tensor[first, ...]` indexes the first axis of a tensor that is computed."""
    tensor, indices = inputs
    if tensor.node().kind() == "prim::Constant":  # a table, in which each row looks up its own
        return False
    first = next(indices.node().inputs(), None)
    return first is None or first.type().kind() != "NoneType"


def _over(node: Any, inputs: Sequence[Any], rows_first: bool) -> str | None:
    """Return how an operator that works along some axes mixes rows; None if it does not."""
    named = dict(zip(_arguments(node), inputs, strict=False))
    axes = named.get("dim", named.get("dims"))
    if axes is None or axes.type().kind() == "NoneType":
        elementwise = "other" in named  # for example, the maximum of two tensors
        return "reduces the whole batch" if node.kind() in REDUCING and not elementwise else None
    given = axes.toIValue()
    places = given if isinstance(given, list) else [given]
    if not places:
        return "reduces the whole batch"
    if node.kind() == "aten::slice" and _is_whole(named):
        return None
    return "works along the first axis" if rows_first and 0 in places else None


def observed_mixing(module: Runtime, rows: Arrays) -> str | None:
    """Return the first reduction over the rows in a run of a TorchScript module, and how.

    Args:
        module: computes the rows.
        rows: at least `OBSERVED[-1]` rows of every input.
    """
    few, many = (
        _reductions(module, {name: array[:count] for name, array in rows.items()})
        for count in OBSERVED
    )
    if [name for name, _, _ in few] != [name for name, _, _ in many]:
        return "its operators depend on the number of rows"
    for (name, before, axes), (_, after, _) in zip(few, many, strict=True):
        rank = len(before)
        if len(after) != rank or any(before[axis % rank] != after[axis % rank] for axis in axes):
            return f"{name} reduces over the rows"
    return None


def _reductions(module: Runtime, rows: Arrays) -> list[tuple[str, tuple[int, ...], list[int]]]:
    """Return the name, the shape and the axes of each reduction in a run of the module."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[tuple[str, tuple[int, ...], list[int]]] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self,
            operator: Any,
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            name = operator.name().partition(".")[0]
            names = [argument.name for argument in operator._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            axes = given.get("dim", given.get("dims")) if name in REDUCING else None
            if name in PRODUCTS:
                axes = -1
            if axes is not None and (tensor := given[PRODUCTS.get(name, "self")]).ndim:
                listed = axes if isinstance(axes, list | tuple) else [axes]
                found.append((name, tuple(tensor.shape), list(listed)))
            return operator(*args, **(kwargs or {}))

    recorder: Any = Recorder  # its constructor is untyped
    with recorder():
        module(rows)
    return found


def _is_whole(named: Mapping[str, Any]) -> bool:
    """Return whether a slice covers the whole axis."""
    start, end, step = (named[name].toIValue() for name in ("start", "end", "step"))
    return start in (0, None) and (end is None or end >= 2**31 - 1) and step == 1


def _arguments(node: Any) -> list[str]:
    import torch

    schema = node.schema()
    if not schema or schema == "(no schema)":
        return []
    return [argument.name for argument in torch._C.parse_schema(schema).arguments]


def _is_size(value: Any) -> bool:
    """Return whether a tensor holds a number that depends only on shapes and constants."""
    node = value.node()
    if node.kind() in ("prim::NumToTensor", "prim::Constant"):
        return True
    computed = node.kind().removesuffix("_") in (
        "aten::add", "aten::div", "aten::floor_divide", "aten::mul", "aten::sub", "aten::to",
    )  # fmt: skip
    return computed and all(
        _is_size(one) for one in node.inputs() if one.type().kind() == "TensorType"
    )
