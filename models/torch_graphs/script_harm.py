"""What a request to a file of torch may do to others: change what they read, or end the process.

The rows of a batch are followed through the branches that they take (`script_mixing.py`). A request
whose rows have another size may take another branch. So the whole graph is searched.
"""

from collections.abc import Iterator
from typing import Any

from models.runtimes.torch_runtimes import ProgramRuntime, TorchRuntime
from models.torch_graphs.program_changes import changed_values

DIVISIONS = ("aten::div", "aten::div_", "aten::divide", "aten::divide_")
_UNKNOWN = object()
"""An argument that is no constant."""


def harm(module: TorchRuntime) -> str | None:
    """Return how a request may harm others, whatever their batches; None if it cannot.

    Args:
        module: TorchScript, or a program of torch.export.

    Returns:
        A clause such as "it may change its attribute total, which later requests would see".
    """
    if changed := next(_changed(module), None):
        return f"it may change {changed}, which later requests would see"
    if any(_may_trap(*call) for call in _divisions(module)):
        return (
            "it may divide integers by -1 and round towards zero, which ends the process for the "
            "least integer: divide floating-point numbers"
        )
    return None


def _changed(module: TorchRuntime) -> Iterator[str]:
    """Yield what a module may change that its next computation reads."""
    import torch

    if isinstance(module, ProgramRuntime):
        yield from changed_values(module.program)
        return
    graph = module.module.graph.copy()
    torch._C._jit_pass_inline(graph)
    aliases = graph.alias_db()
    for kind in ("prim::SetAttr", "prim::GetAttr", "prim::Constant"):
        for node in graph.findAllNodes(kind, recurse=True):
            if kind == "prim::SetAttr" or aliases.has_writers(node.output()):
                yield (
                    "a constant" if kind == "prim::Constant" else f"its attribute {node.s('name')}"
                )


def _may_trap(divisor: Any, rounding: Any) -> bool:
    """Return whether a division may divide the least integer by -1 and round towards zero.

    Torch guards its other integer divisions.
    """
    is_safe = isinstance(divisor, int | float) and divisor != -1
    return rounding not in (None, "floor") and not is_safe


def _divisions(module: TorchRuntime) -> Iterator[tuple[Any, Any]]:
    """Yield the divisor and the rounding of each division; 1 for one of floating-point numbers."""
    if isinstance(module, ProgramRuntime):
        for node in module.program.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.name in DIVISIONS:
                is_float = node.meta["val"].dtype.is_floating_point
                yield 1 if is_float else node.args[1], node.kwargs.get("rounding_mode")
        return
    for kind in DIVISIONS:
        for node in module.module.graph.findAllNodes(kind, recurse=True):
            if "rounding_mode" in node.schema():
                yield (
                    _constant(node.namedInput("other")),
                    _constant(node.namedInput("rounding_mode")),
                )


def _constant(value: Any) -> Any:
    node = value.node()
    return node.output().toIValue() if node.kind() == "prim::Constant" else _UNKNOWN
