"""The weights, buffers and constants that the operators of a program of torch.export may change."""

from collections.abc import Iterator
from typing import Any

_STATISTICS = {
    "aten::_batch_norm_impl_index": "training", "aten::batch_norm": "training",
    "aten::instance_norm": "use_input_stats", "aten::native_batch_norm": "training",
}  # fmt: skip
"""Operators that change their statistics under this condition, which their schemas do not state."""
_PASSING = {
    "aten::alpha_dropout", "aten::dropout", "aten::feature_alpha_dropout", "aten::feature_dropout",
    "aten::type_as",
}  # fmt: skip
"""Operators that may return their argument itself, which their schemas do not state."""


def changed_values(program: Any) -> Iterator[str]:
    """Yield what a program may change that its next computation reads.

    Operators change values in place until `run_decompositions`; afterwards the signature alone
    lists the changes.

    Args:
        program: a `torch.export.ExportedProgram`.
    """
    for name in program.graph_signature.buffers_to_mutate.values():
        yield f"its attribute {name}"
    specs = program.graph_signature.input_specs
    attributes = {spec.arg.name: spec.target for spec in specs if spec.target is not None}
    for module in program.graph_module.modules():  # those of the branches, too
        is_branch = module is not program.graph_module
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for origin in (found for value in _written(node) for found in _origins(value)):
                if is_branch or origin.op == "get_attr":
                    yield "a value that a branch takes"
                elif origin.name in attributes:
                    yield f"its attribute {attributes[origin.name]}"


def _written(node: Any) -> Iterator[Any]:
    """Yield the nodes whose values a node changes."""
    condition = _STATISTICS.get(_name(node) or "")
    arguments = {argument.name: (argument, value) for argument, value in _arguments(node)}
    trains = condition is not None and arguments[condition][1] is not False
    for name, (argument, value) in arguments.items():
        alias = argument.alias_info
        if (alias is not None and alias.is_write) or (trains and name.startswith("running_")):
            yield from _nodes(value)


def _origins(node: Any) -> Iterator[Any]:
    """Yield the nodes that give the memory that a value may lie in."""
    if node.op != "call_function":
        yield node
        return
    if _name(node) is None:  # an element of a list, or the result of a branch
        shared = [node.args]
    elif _name(node) in _PASSING:
        shared = [value for _, value in _arguments(node)]
    else:
        shared = [value for argument, value in _arguments(node) if argument.alias_info is not None]
    for value in shared:
        for source in _nodes(value):
            yield from _origins(source)


def _name(node: Any) -> str | None:
    """Return the name of an operator of torch; None for Python's, and for what is no call."""
    schema = getattr(node.target, "_schema", None)
    return None if schema is None else str(schema.name)


def _arguments(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each argument in the schema of an operator of torch, and its value."""
    if _name(node) is None:
        return
    arguments = node.target._schema.arguments
    given = dict(zip((one.name for one in arguments), node.args, strict=False)) | node.kwargs
    for argument in arguments:
        yield argument, given.get(argument.name, argument.default_value)


def _nodes(value: Any) -> Iterator[Any]:
    """Yield the nodes in an argument, which may be a list."""
    if isinstance(value, list | tuple):
        for element in value:
            yield from _nodes(element)
    elif hasattr(value, "all_input_nodes"):
        yield value
