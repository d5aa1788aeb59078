"""The nodes of a program of torch.export, computed one by one for batches of a few sizes.

A program is a graph of the same operators that TorchScript calls, so the same rules follow the
batch axis through it (`script_mixing.py`). It has no loops; branches are refused.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from models.graphs.row_rules import MixesError, Rows
from models.torch_graphs.script_graph import (
    Follow,
    Item,
    ScriptNode,
    Tracked,
    constant,
    flattened,
    listed,
)

_NUMBERS: Mapping[Callable[..., Any], str] = {
    operator.add: "aten::add", operator.sub: "aten::sub", operator.mul: "aten::mul",
    operator.floordiv: "aten::floordiv", operator.neg: "aten::neg", operator.eq: "aten::eq",
    operator.ne: "aten::ne", operator.lt: "aten::lt", operator.le: "aten::le",
    operator.gt: "aten::gt", operator.ge: "aten::ge",
}  # fmt: skip
"""Python's operators on sizes, by the names that TorchScript has for them."""
_NAMES = {
    "aten::sym_size": "aten::size", "aten::lift_fresh_copy": "aten::clone",
    "aten::detach_": "aten::detach",
}  # fmt: skip
"""Operators that programs alone call, by those that TorchScript calls in their place."""
_CHECKS = {
    "aten::_assert_scalar", "aten::_assert_tensor_metadata", "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size",
}  # fmt: skip
"""Operators that fail or give nothing."""


class ProgramInterpreter:
    """Computes a program, and follows each of its nodes.

    Args:
        program: a `torch.export.ExportedProgram`.
        follow: called for each operator that is not a part of the language.
    """

    def __init__(self, program: Any, follow: Follow) -> None:
        self._program = program
        self._follow = follow
        self._known: dict[Any, Item] = {}

    def run(self, inputs: Mapping[str, Sequence[Any]]) -> Iterator[Tracked]:
        """Yield the outputs for inputs with these tensors for each batch size.

        Raises:
            MixesError: a node mixes rows, or may mix them.
        """
        signature = self._program.graph_signature
        if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
            raise MixesError("it changes a buffer or an input")
        weights = {**self._program.state_dict, **self._program.constants}
        targets = {spec.arg.name: spec.target for spec in signature.input_specs}
        for node in self._program.graph.nodes:
            if node.op == "placeholder" and node.name in inputs:
                self._known[node] = Tracked(tuple(inputs[node.name]), Rows(0))
            elif node.op == "placeholder":
                self._known[node] = constant(weights[targets[node.name]])
            elif node.op == "call_function":
                self._known[node] = self._called(node)
            elif node.op == "output":
                yield from flattened(self._item(node.args[0]))
            else:
                raise MixesError(f"{node.op} {node.name} is not known to compute each row alone")

    def _item(self, value: Any) -> Item:
        if isinstance(value, list | tuple):
            return [self._item(element) for element in value]
        known = self._known.get(value) if hasattr(value, "op") else None
        return constant(value) if known is None else known

    def _all(self) -> Iterator[Tracked]:
        for item in self._known.values():
            yield from flattened(item)

    def _called(self, node: Any) -> Item:
        if node.target is operator.getitem:
            elements, index = node.args
            element: Item = listed(self._item(elements))[index]
            return element
        if node.target in _NUMBERS:
            kind, keywords = _NUMBERS[node.target], frozenset[str]()
            arguments = {str(place): self._item(value) for place, value in enumerate(node.args)}
        else:
            kind, arguments, keywords = self._operator(node)
        if kind in _CHECKS:
            return constant(None)
        try:
            return self._follow(ScriptNode(kind, arguments, keywords, node.target, self._all))
        except MixesError as error:
            raise MixesError(f"{kind} {error}") from error

    def _operator(self, node: Any) -> tuple[str, dict[str, Item], frozenset[str]]:
        """Return the name of torch's operator, its arguments, and those it takes by name only."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            raise MixesError(f"{node.target} is not known to compute each row for itself")
        given = dict(zip((one.name for one in schema.arguments), node.args, strict=False))
        given |= node.kwargs
        arguments = {
            one.name: self._item(given.get(one.name, one.default_value)) for one in schema.arguments
        }
        keywords = frozenset(one.name for one in schema.arguments if one.kwarg_only)
        return _NAMES.get(schema.name, schema.name), arguments, keywords
