"""The search of a file of torch for an operator that mixes the rows of a batch.

As in an ONNX graph (`row_mixing.py`), the batch axis is followed from node to node, through
operators that are known to compute along other axes only (`script_rules.py`). The first other node
is reported. Programs of torch.export call the same operators as TorchScript (`program_graph.py`).
A module without such a node has no state, no random numbers, and no branch or loop that depends on
the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.graphs.graph import COUNTS, MORE
from models.graphs.row_rules import MixesError, Rows, batch_axis
from models.package.card import MODEL_FILES
from models.package.model_package import ModelPackage, PackageError
from models.runtimes.runtime import Arrays, Runtime, one_line
from models.runtimes.subnormals import FlushToZero
from models.runtimes.torch_runtimes import ProgramRuntime, TorchRuntime
from models.torch_graphs.program_graph import ProgramInterpreter
from models.torch_graphs.script_graph import (
    Interpreter,
    Item,
    ScriptNode,
    Tracked,
    constant,
    flattened,
    listed,
    single,
)
from models.torch_graphs.script_harm import harm
from models.torch_graphs.script_rules import (
    ALWAYS_SIGN_CHOOSING,
    ELEMENTWISE,
    FACTORIES,
    PRODUCTS,
    RULES,
    SIGN_CHOOSING,
    SIGN_TELLING,
    SIZES_AT,
    UNSIGNED,
    VECTORS,
    Call,
)

ASKING = {
    "aten::__is__", "aten::__isnot__", "aten::dim", "aten::is_floating_point",
    "aten::is_autocast_enabled", "aten::is_grad_enabled", "aten::len", "aten::numel", "aten::size",
    "prim::device", "prim::dtype", "prim::is_nested", "prim::layout", "prim::requires_grad",
    "prim::type",
}  # fmt: skip
"""Operators that take the shape or the type of a tensor, and none of its numbers."""
COMPARING = {"aten::eq", "aten::ge", "aten::gt", "aten::le", "aten::lt", "aten::ne"}
CONVERTING = {
    "aten::Int", "aten::IntImplicit", "aten::ScalarImplicit", "prim::NumToTensor",
}  # fmt: skip
DIVIDING = {"aten::div", "aten::floor_divide", "aten::floordiv"}
NUMBERS = COMPARING | CONVERTING | DIVIDING | {
    "aten::Bool", "aten::Float", "aten::FloatImplicit", "aten::__and__", "aten::__contains__",
    "aten::__not__", "aten::__or__", "aten::add", "aten::ceil", "aten::floor", "aten::format",
    "aten::mul", "aten::neg", "aten::pow", "aten::remainder", "aten::round", "aten::sqrt",
    "aten::str", "aten::sub", "aten::warn", "prim::abs", "prim::max", "prim::min",
}  # fmt: skip
"""Operators on Python's numbers and texts."""
REPEATING = FACTORIES | {"expand", "repeat", "tile"}
"""Operators that may give a constant once for each row."""
TRAINING = ("dropout_p", "train", "training", "use_input_stats")
"""Arguments with which an operator may draw random numbers, or change its weights."""
LARGEST = 2**31
"""A multiple of the number of rows below this for three rows is exact for any number of rows."""


def script_mixing(module: TorchRuntime, rows: Arrays) -> str | None:
    """Return the first operator of a module that mixes rows, or may mix them, and how.

    Args:
        module: TorchScript, or a program of torch.export.
        rows: at least one row of every input.

    Returns:
        A clause such as "aten::max works on the whole batch"; None if no operator mixes rows.
    """
    import torch

    inputs = {
        name: [
            module.tensor(name, np.resize(rows[name], (count, *rows[name].shape[1:])))
            for count in COUNTS
        ]
        for name in module.arguments
    }
    try:
        with FlushToZero(), torch.inference_mode():
            for output in _interpreter(module).run(inputs):
                if output.rows != Rows(0):
                    return "an output does not hold one row for each row"
    except MixesError as mixes:
        return str(mixes)
    except Exception as error:  # noqa: BLE001 - after any error, nothing is known of the module
        return f"its code cannot be followed ({one_line(error)})"
    return None


def _interpreter(module: TorchRuntime) -> Interpreter | ProgramInterpreter:
    if isinstance(module, ProgramRuntime):
        return ProgramInterpreter(module.program, _follow)
    return Interpreter(module.module, _follow)


def require_rows_apart(package: ModelPackage, runtime: Runtime) -> None:
    """Check that a file of torch computes each row of the example alone, if rows are batched.

    Raises:
        PackageError: the file may mix rows, or a request may harm others.
    """
    card = package.card
    if not isinstance(runtime, TorchRuntime):
        return
    if found := harm(runtime):
        raise PackageError(package.label, MODEL_FILES[runtime.name], f"{found}: add it again")
    if card.batching == "none" or card.fixed_batch:
        return
    rows = {name: tensor.array() for name, tensor in card.example.inputs.items()}
    if found := script_mixing(runtime, rows):
        reason = f"rows are batched, and it may mix them ({found}): add the network again"
        raise PackageError(package.label, MODEL_FILES[runtime.name], reason)


def _follow(node: ScriptNode) -> Item:
    """Return the tracked result of a node; raise `MixesError` if it mixes rows."""
    first = next(iter(node.arguments.values()), None)
    if node.kind in _LISTS and isinstance(first, list):
        return _LISTS[node.kind](*node.arguments.values())
    if node.kind in ASKING:
        return _asked(node)
    changes = node.kind.endswith("_") and not node.kind.endswith("__")
    name = node.kind.partition("::")[2]
    name = name.removesuffix("_") if changes else name
    is_known = node.kind.startswith("aten::") and name in {*RULES, *FACTORIES}
    if "out" in node.arguments or not (is_known or node.kind in NUMBERS):
        raise MixesError("is not known to compute each row for itself")
    with_rows = [
        item for item in node.arguments.values() if any(value.rows for value in flattened(item))
    ]
    if changes and not (isinstance(first, Tracked) and _may_change(node, name, first)):
        raise MixesError("changes a value that others may share")
    takes_type = name in FACTORIES and with_rows == [node.arguments.get("self")]
    if not with_rows or takes_type:
        return _without_rows(node, name)
    if not is_known:
        raise MixesError("takes a number out of the batch")
    for argument, item in node.arguments.items():
        counted = [value for value in flattened(item) if value.counted]
        if counted and argument != SIZES_AT.get(name):
            raise MixesError("computes with the number of rows")
        if not all(value.multiple for value in counted):
            raise MixesError("takes a size that is computed from the number of rows")
    tracked_inputs = node.tracked
    results = node.compute()
    outer, inner = RULES[name](Call(node, results))
    either_zero = _either_zero(node, name)
    if changes and either_zero and not node.tracked[0].either_zero:
        raise MixesError("writes 0 or -0 to a tensor that may have other names")

    def tracked(values: tuple[Any, ...]) -> Tracked:
        result = Tracked(values)
        if not result.is_tensor:
            raise MixesError("takes a number out of the batch")
        if not _is_known_type(values[0]):
            raise MixesError(f"gives numbers of {values[0].dtype}, whose operators are not known")
        axis = batch_axis(result.shapes)
        if axis is None or result.shapes[-1][axis] != outer * MORE * inner:
            raise MixesError(f"gives {list(result.shapes[-1])} for {MORE} rows")
        is_new = changes or not _share(values, tracked_inputs)
        chosen = either_zero and values[0].is_floating_point()
        return Tracked(values, Rows(axis, outer, inner), is_new=is_new, either_zero=chosen)

    return _items(results, tracked)


def _is_known_type(tensor: Any) -> bool:
    """Return whether the rules hold for the type of a tensor.

    Products of complex numbers overflow in a vector of the processor, and not at its end.
    """
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    is_real = not (tensor.is_complex() or tensor.is_floating_point() or tensor.is_quantized)
    return is_real or tensor.dtype in floats


def _either_zero(node: ScriptNode, name: str) -> bool:
    """Return whether a zero in the result is 0 or -0 by its place in the batch.

    Raises:
        MixesError: the node tells 0 from -0, where either may be given.
    """
    sign_input = node.arguments.get(SIGN_TELLING.get(name, ""))
    is_power = name == "pow" and _is_constant(node.arguments["exponent"], lambda number: number > 0)
    least = _least_normal(node)
    if isinstance(sign_input, Tracked) and sign_input.either_zero and not is_power:
        raise MixesError("tells 0 from -0, of which an operator before gives either")
    inputs = node.tracked
    if name in ("expand_as", "type_as"):  # they take the shape or the type of the other
        inputs = [single(node.arguments["self"])]
    doubtful = any(value.either_zero for value in inputs)
    if name in ALWAYS_SIGN_CHOOSING or name in PRODUCTS:
        return True
    lowest = node.arguments.get("min") if name in ("clamp", "clamp_min") else None
    if lowest is not None and _is_constant(lowest, lambda number: number >= least):
        return False
    if name in SIGN_CHOOSING:
        limits = [item for key, item in node.arguments.items() if key != "self"]
        tensors = [value for item in limits for value in flattened(item) if value.is_tensor]
        exact = all(_is_constant(tensor, lambda number: abs(number) >= least) for tensor in tensors)
        return doubtful or not exact or name == "softshrink"
    if name in ("add", "sub"):
        added, factor = node.arguments["other"], node.arguments.get("alpha", constant(1))
        is_added = _is_constant(added, lambda number: abs(number) >= least)
        if is_added and _is_constant(factor, lambda number: abs(number) >= 1):
            return False
    return doubtful and name not in UNSIGNED


def _least_normal(node: ScriptNode) -> float:
    """Return the least positive number that does not count as zero beside the tensors of a node."""
    import torch

    types = {one.values[0].dtype for one in node.tracked if one.is_tensor}
    return max((torch.finfo(one).tiny for one in types if one.is_floating_point), default=0.0)


def _is_constant(item: Item, holds: Callable[[Any], Any]) -> bool:
    """Return whether a value has no rows, and this holds for all its numbers."""
    if not isinstance(item, Tracked) or item.rows is not None or item.counted:
        return False
    value = item.values[0]
    if item.is_tensor:
        return bool(holds(value).all())
    return isinstance(value, int | float) and bool(holds(value))


def _may_change(node: ScriptNode, name: str, changed: Tracked) -> bool:
    """Return whether a node may change its first argument: no weight, no input, no view of rows.

    A view of a constant may be changed to a constant, since the constant stays one. What is a view
    of the first argument for one row, and a copy for several, would change for one row alone.
    """
    if not changed.is_new or any(_is_view_for_some(one, changed) for one in node.known()):
        return False
    if changed.rows is None:
        return not any(value.rows or value.counted for value in node.tracked)
    return name in ELEMENTWISE | VECTORS


def _share(tensors: Sequence[Any], inputs: Sequence[Tracked]) -> bool:
    """Return whether a tensor shares memory with one that its node has taken.

    A result may be a view for one batch size, and a copy for another.
    """
    return any(any(_shared(tensors, value.values)) for value in inputs if value.is_tensor)


def _is_view_for_some(value: Tracked, other: Tracked) -> bool:
    """Return whether two values share memory for some of the batch sizes only."""
    return value.is_tensor and len({*_shared(value.values, other.values)}) > 1


def _shared(tensors: Sequence[Any], others: Sequence[Any]) -> list[bool]:
    """Return for each batch size whether two tensors share memory."""
    return [
        tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        for tensor, other in zip(tensors, others, strict=True)
    ]


def _items(results: Sequence[Any], tracked: Callable[[tuple[Any, ...]], Tracked]) -> Item:
    """Return the results of a node as values, or lists of values."""
    if not isinstance(results[0], list | tuple):
        return tracked(tuple(results))
    if len({len(result) for result in results}) > 1:
        raise MixesError("gives as many results as there are rows")
    return [_items(parts, tracked) for parts in zip(*results, strict=True)]


def _asked(node: ScriptNode) -> Item:
    sized = any(value.counted for value in node.tracked)

    def tracked(values: tuple[Any, ...]) -> Tracked:
        differs = values[0] != values[-1]
        return Tracked(values, counted=sized or differs, multiple=not sized and _is_linear(values))

    return _items(node.compute(), tracked)


def _without_rows(node: ScriptNode, name: str) -> Item:
    """Return the results of a node that takes no rows: constants, unless it takes their number."""
    for argument in TRAINING:
        if any(value.values[0] for value in flattened(node.arguments.get(argument, []))):
            raise MixesError("computes in training mode")
    counted = [value for value in node.tracked if value.counted]
    is_settled = node.kind in COMPARING and _is_settled(*node.arguments.values())
    others = [
        value
        for argument, item in node.arguments.items()
        if argument not in ("size", "repeats", "dims")
        for value in flattened(item)
        if value.counted
    ]
    inputs = node.tracked
    olds = [value for value in inputs if not value.is_new or value.rows is not None]
    results = node.compute()

    def tracked(values: tuple[Any, ...]) -> Tracked:
        result = Tracked(values)
        is_new = result.is_tensor and not _share(values, olds)
        if not counted or is_settled:
            return Tracked(values, is_new=is_new)
        if name in REPEATING and all(value.multiple for value in counted) and not others:
            axis = batch_axis(result.shapes)
            if axis is not None and bool((values[-1] == values[-1].roll(1, axis)).all()):
                rows = Rows(axis, 1, result.shapes[-1][axis] // MORE)
                return Tracked(values, rows, is_new=not _share(values, inputs))
        return Tracked(values, counted=True, multiple=_keeps(node, counted, values))

    return _items(results, tracked)


def _is_linear(values: Sequence[Any]) -> bool:
    """Return whether these are the multiples of a positive whole number by `COUNTS`."""
    try:
        first, *_ = numbers = [int(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        return False
    exact = all(
        _is_wide(value) and number == value for number, value in zip(numbers, values, strict=True)
    )
    linear = numbers == [first * count for count in COUNTS]
    return exact and linear and first > 0 and numbers[-1] < LARGEST


def _is_wide(value: Any) -> bool:
    """Return whether the type of a value represents any number of rows exactly."""
    import torch

    return not isinstance(value, torch.Tensor) or value.dtype in (torch.int64, torch.float64)


def _keeps(node: ScriptNode, counted: Sequence[Tracked], values: Sequence[Any]) -> bool:
    """Return whether a node gives a multiple of the number of rows, for any number of rows."""
    if len(counted) != 1 or not counted[0].multiple or not _is_linear(values):
        return False
    if node.kind == "aten::mul" or node.kind in CONVERTING:
        return True
    if node.kind not in DIVIDING:
        return False
    dividend, divisor, *_ = node.arguments.values()
    return (
        dividend is counted[0]
        and isinstance(divisor, Tracked)
        and all(
            factor == int(factor) and int(value) % int(factor) == 0
            for value, factor in zip(counted[0].values, divisor.values, strict=True)
        )
    )


def _is_settled(first: Item, second: Item, *_: Item) -> bool:
    """Return whether a comparison has one result for any number of rows."""
    pairs = zip(flattened(first), flattened(second), strict=False)
    return all(_is_pair_settled(*pair) for pair in pairs)


def _is_pair_settled(first: Tracked, second: Tracked) -> bool:
    if first.multiple and second.multiple:
        return True
    if not first.counted and not second.counted:
        return True
    counted, constant = (first, second) if first.counted else (second, first)
    number = constant.values[0]
    is_number = not constant.counted and isinstance(number, int | float)
    return counted.multiple and is_number and number < counted.values[0]


def _sliced(items: Item, start: Item, end: Item, step: Item) -> Item:
    return listed(items)[slice(_number(start), _number(end), _number(step))]


def _appended(items: Item, item: Item) -> Item:
    listed(items).append(item)
    return items


def _replaced(items: Item, index: Item, item: Item) -> Item:
    listed(items)[_number(index)] = item
    return items


def _picked(items: Item, index: Item) -> Item:
    item: Item = listed(items)[_number(index)]
    return item


def _length(items: Item) -> Item:
    if any(value.counted and value.is_tensor for value in flattened(items)):  # or the parts of one
        raise MixesError("may count the rows")
    return Tracked((len(listed(items)),) * len(COUNTS))


def _unknown(*_: Item) -> Item:
    raise MixesError("is not known to compute each row for itself")


def _number(item: Item) -> Any:
    if not isinstance(item, Tracked) or item.counted or item.rows:
        raise MixesError("computes with the number of rows")
    return item.values[0]


_LISTS: Mapping[str, Callable[..., Item]] = {
    "aten::__getitem__": _picked,
    "aten::_set_item": _replaced,
    "aten::add": lambda items, others: [*items, *others],
    "aten::append": _appended,
    "aten::copy": lambda items: [*items],
    "aten::len": _length,
    "aten::list": lambda items: [*items],
    "aten::slice": _sliced,
    "aten::sort": _unknown,  # in place
}
"""Operators on Python's lists."""
