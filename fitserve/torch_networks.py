"""What the doors for networks of torch share: samples by name, and flat results."""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.exported import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn


Axes = Mapping[str, int | None]
"""The axis of the batch of an input, by name: 0 if it is not named, None if the rows share it."""


def tensors_of(
    network: "nn.Module",
    sample: Any,
    arguments: inspect.Signature | None = None,
    axes: Axes = MappingProxyType({}),
) -> "dict[str, Tensor]":
    """Return a sample as tensors on the network's device, two rows at least, by argument.

    Numbers of numpy in double precision get the precision of the network.
    """
    import torch

    parameter = next(iter(network.parameters()), None)
    floating = torch.float32 if parameter is None else parameter.dtype
    device = "cpu" if parameter is None else parameter.device
    tensors = {}
    for name, rows in named(arguments or inspect.signature(network.forward), sample).items():
        tensor = _tensor(name, rows)
        if not isinstance(rows, torch.Tensor) and tensor.dtype == torch.float64:
            tensor = tensor.to(floating if floating.is_floating_point else tensor.dtype)
        axis = axes.get(name, 0)
        if axis is None:
            tensors[name] = tensor.to(device)
            continue
        if tensor.ndim <= axis or not tensor.shape[axis]:
            place = f"axis {axis}, as batch_axis says" if axis else "the first dimension"
            raise ExportError(
                f"the sample {name} is {list(tensor.shape)}: give rows, with the batch as {place}"
            )
        if tensor.shape[axis] == 1:  # one row would fix the batch size
            tensor = torch.cat([tensor, tensor], dim=axis)
        tensors[name] = tensor.to(device)
    if unknown := set(axes).difference(tensors):
        raise ExportError(f"batch_axis names {min(unknown)}: the inputs are {', '.join(tensors)}")
    counts = {
        name: tensor.shape[axis]
        for name, tensor in tensors.items()
        if (axis := axes.get(name, 0)) is not None
    }
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ExportError(
            f"the sample has rows in different numbers ({shown}): give as many of each"
        )
    return tensors


def with_one_more_row(rows: "Mapping[str, Tensor]", axes: Axes) -> "dict[str, Tensor]":
    """Return a sample with its first row once more."""
    import torch

    return {
        name: tensor
        if (axis := axes.get(name, 0)) is None
        else torch.cat([tensor, tensor.narrow(axis, 0, 1)], dim=axis)
        for name, tensor in rows.items()
    }


def _tensor(name: str, rows: Any) -> "Tensor":
    """Return rows as a dense tensor.

    Raises:
        ExportError: they are no numbers.
    """
    import torch

    if isinstance(rows, torch.Tensor):
        if rows.layout != torch.strided or rows.is_quantized:
            raise ExportError(f"the sample {name} is sparse or quantized: give a dense tensor")
        return rows.detach()
    try:
        return torch.from_numpy(np.asarray(rows, order="C"))
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"the sample {name}, a {type(rows).__name__}, is no array of numbers: give a tensor or "
            "an array of numbers, with the batch as the first dimension"
        ) from error


def named(arguments: inspect.Signature, sample: Any) -> dict[str, Any]:
    """Return a sample by the arguments of a network, in their order.

    Raises:
        ExportError: the sample does not fit the arguments.
    """
    parameters = arguments.parameters
    unnamed = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [name for name, parameter in parameters.items() if parameter.kind not in unnamed]
    known = f"the arguments of forward are {', '.join(names) or 'none'}"
    for name, parameter in parameters.items():
        if parameter.kind in unnamed:
            known = (
                f"forward takes {unnamed[parameter.kind]}{name}, which names no inputs: give a "
                "module whose forward names each input"
            )
            break
    if isinstance(sample, Mapping):
        if unknown := [name for name in sample if name not in names]:
            raise ExportError(f"the sample names {', '.join(map(repr, unknown))}: {known}")
        found = {name: sample[name] for name in names if name in sample}
    else:
        rows = sample if isinstance(sample, tuple) else (sample,)
        if len(rows) > len(names):
            raise ExportError(f"the sample has {len(rows)} inputs: {known}")
        found = dict(zip(names, rows, strict=False))
    missing = [
        name
        for name in names
        if name not in found and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise ExportError(
            f"the sample lacks {', '.join(missing)}: give it as a mapping of every argument of "
            "forward to rows, as sample={'" + missing[0] + "': …}"
        )
    return found


def positional_count(arguments: inspect.Signature, names: Sequence[str]) -> int:
    """Return how many of these arguments are given by position, as in network(rows).

    Hooks before `forward` see the arguments that are given by position alone.
    """
    count = 0
    for name, parameter in arguments.parameters.items():
        by_keyword = parameter.kind not in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if by_keyword or count == len(names) or name != names[count]:
            break
        count += 1
    return count


def flat_module(network: "nn.Module", names: Sequence[str], *, positional: int = 0) -> "nn.Module":
    """Return a module with these arguments, whose result is a tensor or a tuple of tensors.

    The exporters take the names of the inputs from the signature of `forward`.

    Args:
        network: the module.
        names: of its arguments.
        positional: how many of them it is given by position.
    """
    from torch import nn

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.names: tuple[str, ...] = ()

        def forward(self, *rows: Any, **named_rows: Any) -> Any:
            given = dict(zip(names, rows, strict=False)) | named_rows
            first = [given.pop(name) for name in names[:positional]]
            outputs = flattened(self.network(*first, **given))
            self.names = tuple(outputs)
            tensors = tuple(outputs.values())
            return tensors if len(tensors) > 1 else tensors[0]

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    Flat.forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    module = Flat()
    module.training = False  # eval() would reach into programs, which refuse it
    return module


def flattened(result: Any, name: str = "output") -> "dict[str, Tensor]":
    """Return the tensors in the result of a network, by name.

    A mapping, a named tuple and a dataclass name their values; other values are numbered.

    Raises:
        ExportError: the result holds something other than tensors, or none.
    """
    import torch

    if isinstance(result, torch.Tensor):
        return {name: result}
    if isinstance(result, Mapping):
        parts = {str(key): value for key, value in result.items()}
    elif hasattr(result, "_asdict"):
        parts = result._asdict()
    elif isinstance(result, (tuple, list)):
        parts = {f"{name}_{number}": value for number, value in enumerate(result)}
    elif hasattr(result, "__dataclass_fields__"):
        parts = {field: getattr(result, field) for field in result.__dataclass_fields__}
    else:
        raise ExportError(
            f"the network returns a {type(result).__name__}: return tensors, or a tuple or dict of "
            "tensors"
        )
    tensors: dict[str, Tensor] = {}
    for key, value in parts.items():
        found = {} if value is None else flattened(value, key or name)
        if twice := [key for key in found if key in tensors]:
            raise ExportError(
                f"the network returns two outputs with the name {twice[0]}: name them differently"
            )
        tensors |= found
    if not tensors:
        raise ExportError("the network returns no tensor: return the outputs that are asked for")
    return tensors


def schema_of(module: Any) -> Any:
    """Return the schema of a compiled module: the names and the defaults of its arguments."""
    return module.forward.schema
