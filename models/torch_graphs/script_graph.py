"""The nodes of a TorchScript graph, computed one by one for batches of a few sizes.

A TorchScript graph states no shapes. It is therefore interpreted: each node is computed for the
batch sizes in `COUNTS`, and a rule (`script_rules.py`) follows the batch axis through the node.
Branches and loops are followed where they are taken; a rule never lets them depend on the rows or
on the number of rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.graphs.graph import COUNTS, Shape
from models.graphs.row_rules import MixesError, Rows


@dataclass(frozen=True)
class Tracked:
    """One value for each batch size: a tensor, or a number, text, device or None.

    Attributes:
        values: the value for each batch size.
        rows: the place of the rows; None for values without rows.
        counted: whether the value depends on the number of rows, without rows of its own.
        multiple: whether a counted value is a positive multiple of the number of rows.
        is_new: whether a tensor shares no memory with a weight or an input, and none with other
            rows.
        either_zero: whether the sign of a zero in it depends on its place in the batch.
    """

    values: tuple[Any, ...]
    rows: Rows | None = None
    counted: bool = False
    multiple: bool = False
    is_new: bool = False
    either_zero: bool = False

    @property
    def is_tensor(self) -> bool:
        """Whether the values are tensors."""
        import torch

        return isinstance(self.values[0], torch.Tensor)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of a tensor."""
        return tuple(tuple(value.shape) for value in self.values)


Item = Tracked | list["Item"]
"""A value, or the elements of a list or tuple."""


@dataclass(frozen=True)
class ScriptNode:
    """A call of an operator.

    Attributes:
        kind: the name of the operator, such as `aten::add`.
        arguments: by their names in the operator's schema.
        keywords: the arguments that the operator takes by name only.
        operator: computes the node.
        known: all values that the graph has computed before the node.
    """

    kind: str
    arguments: Mapping[str, Item]
    keywords: frozenset[str]
    operator: Callable[..., Any]
    known: Callable[[], Iterator[Tracked]]

    @property
    def tracked(self) -> list[Tracked]:
        """All values that the node takes."""
        return [value for item in self.arguments.values() for value in flattened(item)]

    def compute(self) -> tuple[Any, ...]:
        """Return the result for each batch size."""
        return tuple(self._compute(batch) for batch in range(len(COUNTS)))

    def _compute(self, batch: int) -> Any:
        positional = {name: _at(item, batch) for name, item in self.arguments.items()}
        by_keyword = {name: positional.pop(name) for name in self.keywords}
        return self.operator(*positional.values(), **by_keyword)


Follow = Callable[[ScriptNode], Item]
"""Returns the tracked result of a node, or raises `MixesError`."""


def flattened(item: Item) -> Iterator[Tracked]:
    """Yield the values of an item."""
    if isinstance(item, Tracked):
        yield item
    else:
        for element in item:
            yield from flattened(element)


def listed(item: Item) -> list[Item]:
    """Return the elements of a list."""
    if isinstance(item, Tracked):
        raise MixesError("takes another value where a list is expected")
    return item


def single(item: Item) -> Tracked:
    """Return a value that is no list."""
    if not isinstance(item, Tracked):
        raise MixesError("takes a list where another value is expected")
    return item


def constant(value: Any) -> Item:
    """Return a value that is the same for each batch size."""
    if isinstance(value, list | tuple):
        return [constant(element) for element in value]
    return Tracked((value,) * len(COUNTS))


class Interpreter:
    """Computes a TorchScript graph, and follows each of its nodes.

    Args:
        module: a frozen `torch.jit.ScriptModule`.
        follow: called for each operator that is not a part of the language.
    """

    def __init__(self, module: Any, follow: Follow) -> None:
        import torch

        self._module = module
        self._graph = module.graph.copy()
        torch._C._jit_pass_inline(self._graph)
        self._follow = follow
        self._known: dict[str, Item] = {}

    def run(self, inputs: Mapping[str, Sequence[Any]]) -> Iterator[Tracked]:
        """Yield the outputs for inputs with these tensors for each batch size.

        Raises:
            MixesError: a node mixes rows, or may mix them.
        """
        module, *arguments = self._graph.inputs()
        self._known[module.debugName()] = constant(self._module)
        for argument, tensors in zip(arguments, inputs.values(), strict=True):
            self._known[argument.debugName()] = Tracked(tuple(tensors), Rows(0))
        self._run(self._graph.nodes())
        for output in self._graph.outputs():
            yield from flattened(self._of(output))

    def _run(self, nodes: Iterator[Any]) -> None:
        for node in nodes:
            kind = node.kind()
            if kind == "prim::If":
                self._branch(node)
            elif kind == "prim::Loop":
                self._loop(node)
            elif kind in _LANGUAGE:
                self._bind(
                    node, _LANGUAGE[kind](node, [self._of(value) for value in node.inputs()])
                )
            else:
                item = self._called(node)
                several = listed(item) if node.outputsSize() > 1 else [item]
                self._bind(node, several if node.outputsSize() else [])

    def _all(self) -> Iterator[Tracked]:
        for item in self._known.values():
            yield from flattened(item)

    def _of(self, value: Any) -> Item:
        return self._known[value.debugName()]

    def _bind(self, node: Any, items: Sequence[Item]) -> None:
        for output, item in zip(node.outputs(), items, strict=True):
            self._known[output.debugName()] = item

    def _copy(self, source: Iterator[Any], target: Iterator[Any]) -> None:
        items = [self._of(value) for value in source]
        for value, item in zip(target, items, strict=True):
            self._known[value.debugName()] = item

    def _decided(self, node: Any, value: Any) -> Any:
        """Return a value that decides what is computed."""
        item = self._of(value)
        if not isinstance(item, Tracked) or item.rows is not None or item.counted:
            raise MixesError(f"{node.kind()} depends on the number of rows")
        return item.values[0]

    def _branch(self, node: Any) -> None:
        block, else_block = node.blocks()
        if not self._decided(node, next(node.inputs())):
            block = else_block
        self._run(block.nodes())
        self._copy(block.outputs(), node.outputs())

    def _loop(self, node: Any) -> None:
        most, condition, *carried = node.inputs()
        (block,) = node.blocks()
        count, goes_on = self._decided(node, most), self._decided(node, condition)
        index, *inner = block.inputs()
        goes, *outer = block.outputs()
        self._copy(iter(carried), iter(inner))
        iteration = 0
        while iteration < count and goes_on:
            self._known[index.debugName()] = constant(iteration)
            self._run(block.nodes())
            goes_on = self._decided(node, goes)
            self._copy(iter(outer), iter(inner))
            iteration += 1
        self._copy(iter(inner), node.outputs())

    def _called(self, node: Any) -> Item:
        import torch

        kind, schema = node.kind(), node.schema()
        if not schema or schema == "(no schema)":
            raise MixesError(f"{kind} is not known to compute each row for itself")
        parsed = torch._C.parse_schema(schema)
        items = [self._of(value) for value in node.inputs()]
        names = [argument.name for argument in parsed.arguments]
        names += [str(position) for position in range(len(names), len(items))]  # of `aten::format`
        arguments = dict(zip(names, items, strict=True))
        keywords = frozenset(argument.name for argument in parsed.arguments if argument.kwarg_only)
        namespace, _, name = kind.partition("::")
        if (operator := _PYTHON.get(kind)) is None:
            packet = getattr(getattr(torch.ops, namespace), name)
            operator = getattr(packet, parsed.overload_name or "default")
        try:
            return self._follow(ScriptNode(kind, arguments, keywords, operator, self._all))
        except MixesError as error:
            raise MixesError(f"{kind} {error}") from error


def _at(item: Item, batch: int) -> Any:
    """Return the value of an item for one batch size."""
    return (
        item.values[batch]
        if isinstance(item, Tracked)
        else [_at(element, batch) for element in item]
    )


def _constant(node: Any, _: Sequence[Item]) -> Sequence[Item]:
    return [constant(node.output().toIValue())]


def _unpacked(_: Any, items: Sequence[Item]) -> Sequence[Item]:
    (item,) = items
    return listed(item)


def _attribute(node: Any, items: Sequence[Item]) -> Sequence[Item]:
    """Return a weight, which is constant: nodes set no attribute, and change new values only."""
    import torch

    (item,) = items
    value = getattr(single(item).values[0], node.s("name"))
    if isinstance(value, list | dict | torch._C.ScriptList | torch._C.ScriptDict):
        # What never changes has become a constant in the frozen module.
        raise MixesError("prim::GetAttr reads a list that a request may have changed")
    return [constant(value)]


def _element(_: Any, items: Sequence[Item]) -> Sequence[Item]:
    elements, position = items
    index = single(position)
    if index.rows is not None or index.counted:
        raise MixesError("prim::TupleIndex depends on the number of rows")
    return [listed(elements)[index.values[0]]]


def _format(text: str, *values: Any) -> str:
    return text.format(*map(_text, values))


def _text(value: Any) -> str:
    if isinstance(value, float):
        raise MixesError("writes a number, which TorchScript does in another way than Python")
    return str(value)


def _fails(_: Any, items: Sequence[Item]) -> Sequence[Item]:
    raise MixesError("prim::RaiseException is reached")


_PYTHON: Mapping[str, Callable[..., Any]] = {
    "aten::__is__": lambda first, second: first is second,
    "aten::__isnot__": lambda first, second: first is not second,
    "aten::format": _format,
    "aten::str": _text,
    "aten::warn": lambda *_: None,
}
"""Operators that torch does not compute outside of a graph."""
_LANGUAGE: Mapping[str, Callable[[Any, Sequence[Item]], Sequence[Item]]] = {
    "prim::Constant": _constant,
    "prim::GetAttr": _attribute,
    "prim::ListConstruct": lambda _, items: [list(items)],
    "prim::ListUnpack": _unpacked,
    "prim::RaiseException": _fails,
    "prim::TupleConstruct": lambda _, items: [list(items)],
    "prim::TupleIndex": _element,
    "prim::TupleUnpack": _unpacked,
    "prim::Uninitialized": lambda *_: [constant(None)],
    "prim::unchecked_cast": lambda _, items: items,
}
"""The nodes that only hold values."""
