"""The door for `torch.nn.Module`: ONNX by the dynamo exporter, TorchScript or torch.export."""

import inspect
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fitserve.doors import is_of
from fitserve.explain import explanation, is_fixed_size, suggested_maxima
from fitserve.exported import GIVE_ROWS, Exported, ExportError
from fitserve.own_answers import further_records, record_of
from fitserve.torch_files import (
    NO_TORCH_FILE,
    OnnxFiles,
    dynamic_shapes,
    onnx_of,
    program_file,
    traced_onnx,
)
from fitserve.torch_networks import (
    Axes,
    flat_module,
    positional_count,
    schema_of,
    tensors_of,
    with_one_more_row,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = "torch.nn.Module"


def takes(network: object) -> bool:
    """Return whether the network is a module of torch, and no compiled TorchScript."""
    others = is_of(network, "torch", "ScriptModule") or is_of(network, "keras", "Model")
    return is_of(network, "torch", "Module") and not others  # Keras models on torch are modules


def read(file: Path) -> Any:
    """Refuse a file: a file holds a network's weights, and not the network."""
    raise ExportError(
        f"{file.name}: it holds weights, and not the network: give the network as FILE.py:make, a "
        "function or class in your code, and this file with --weights"
    )


def export(
    network: "nn.Module",
    samples: Sequence[Any],
    labels: Sequence[str],
    axes: Axes = MappingProxyType({}),
) -> Exported:
    """Return the module as files. It is exported in eval mode, and left as it was.

    Args:
        network: the module, on any device.
        samples: each a mapping of the arguments of `forward` to rows; or the rows, if it has one
            argument; or a tuple of rows in the order of the arguments. Dimensions whose sizes
            differ between two samples are free.
        labels: the classes.
        axes: the axis of the batch of each input.

    Raises:
        ExportError: the module fails on a sample, or cannot be exported.
    """
    import torch

    if not samples:
        raise ExportError(f"there is no sample: {GIVE_ROWS}")
    network = _unwrapped(network)
    _require_exportable(network)
    with evaluating(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        rows = [tensors_of(network, sample, axes=axes) for sample in samples]
        positional = positional_count(inspect.signature(network.forward), list(rows[0]))
        flat = flat_module(network, list(rows[0]), positional=positional)
        records = [record_of(flat, one) for one in rows]
        further = further_records(flat, rows, records, axes)
        (onnx, weights), program = _onnx(flat, rows, list(records[0].answers), axes)
        script: bytes | str = NO_TORCH_FILE
        if weights:
            program = None
        else:
            script = _torchscript(network, flat, rows[0], traced=program is None)
    return Exported(
        onnx,
        records,
        f"{type(network).__name__} of torch {torch.__version__.partition('+')[0]}",
        torchscript=None if isinstance(script, str) else script,
        program=program_file(program) if program and isinstance(script, str) else None,
        further=further,
        labels=labels,
        notes=[script] if program is None and isinstance(script, str) else [],
        weights=weights,
    )


def _unwrapped(network: "nn.Module") -> "nn.Module":
    """Return the module in a wrapper of torch.compile or DataParallel, which names no arguments."""
    if is_of(network, "torch", "OptimizedModule"):
        return _unwrapped(network._orig_mod)  # type: ignore[arg-type]
    if is_of(network, "torch", "DataParallel", "DistributedDataParallel"):
        return _unwrapped(network.module)  # type: ignore[arg-type]
    return network


def _require_exportable(network: "nn.Module") -> None:
    """Check for kinds of modules whose failures torch explains in terms of its own code.

    Raises:
        ExportError: a parameter has no size yet, or the module is quantized.
    """
    from torch.nn.parameter import is_lazy

    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise ExportError(
                f"the parameter {name} has no size before the first call: call the network on "
                "rows, as it is trained, and then save it"
            )
    for module in network.modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized"):
            raise ExportError(
                f"the network holds a quantized {type(module).__name__} of torch, which has no "
                "form in ONNX: give the network as it was before torch quantized it"
            )


@contextmanager
def evaluating(network: "nn.Module") -> Iterator[None]:
    """Set all modules to eval mode, and back to their own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _onnx(
    flat: "nn.Module",
    rows: "Sequence[Mapping[str, Tensor]]",
    outputs: Sequence[str],
    axes: Axes,
) -> tuple[OnnxFiles, Any]:
    """Return the module as ONNX and as a program of torch.export, or traced and None.

    torch.export fixes the length of a recurrent layer, which the older exporter leaves free. What
    is traced is compared with the network's own answers for every sample, as every export is.

    Raises:
        ExportError: torch cannot follow the code.
    """
    try:
        program = _program(flat, rows, axes)
    except FixedSizeError as error:
        if len(rows) == 1:
            raise ExportError(str(error)) from error
        return traced_onnx(flat, rows, outputs, axes), None
    return onnx_of(program, list(rows[0]), outputs), program


class FixedSizeError(ExportError):
    """torch.export fixes a size that the samples leave free."""


def _program(flat: "nn.Module", rows: "Sequence[Mapping[str, Tensor]]", axes: Axes) -> Any:
    """Return the module as an ExportedProgram with a free batch.

    Raises:
        ExportError: torch.export cannot follow the code.
    """
    import torch

    def program(largest: Mapping[str, int]) -> Any:
        shapes = tuple(dynamic_shapes(rows, axes, largest).values())
        return torch.export.export(
            flat, tuple(rows[0].values()), dynamic_shapes=shapes, strict=False
        )

    try:
        try:
            return program({})
        except torch._dynamo.exc.UserError as error:
            if not (largest := suggested_maxima(error)):
                raise
            return program(largest)  # of a table of positions, as in Transformers
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - it is raised below, with the user's line
        failure = error
    text = f"the network cannot be exported: {explanation(failure)}"
    if is_fixed_size(failure):
        _require_any_batch(flat, rows[0], axes)
        raise FixedSizeError(text) from failure
    raise ExportError(text) from failure


def _require_any_batch(flat: "nn.Module", rows: "Mapping[str, Tensor]", axes: Axes) -> None:
    """Run the module with one row more: it fails at the line that fixes the number of rows.

    Raises:
        ExportError: it fails.
    """
    import torch

    more = with_one_more_row(rows, axes)
    count = next(
        tensor.shape[axis]
        for name, tensor in more.items()
        if (axis := axes.get(name, 0)) is not None
    )
    try:
        with torch.inference_mode():
            flat(**more)
    except Exception as error:
        raise ExportError(
            f"the network fails on {count} rows and computes {count - 1}: {explanation(error)}"
        ) from error


def _torchscript(
    network: "nn.Module", flat: "nn.Module", rows: "Mapping[str, Tensor]", *, traced: bool
) -> bytes | str:
    """Return the module as TorchScript: scripted, else `traced`. A text says why it is neither."""
    import torch

    for make in (_scripted, _traced) if traced else (_scripted,):
        try:
            stream = io.BytesIO()
            torch.jit.save(make(network, flat, rows), stream)
            return stream.getvalue()
        except Exception as error:  # noqa: BLE001 - TorchScript is a second file, which may be missing
            reason = explanation(error)
    return f"There is no TorchScript file: {reason}."


def _scripted(network: "nn.Module", flat: "nn.Module", rows: "Mapping[str, Tensor]") -> Any:
    import torch

    script = torch.jit.script(network)
    arguments = [argument.name for argument in schema_of(script).arguments[1:]]
    if arguments != list(rows):
        raise ExportError(f"the arguments are {', '.join(arguments)}")
    with torch.inference_mode():
        result = script(*(tensor.clone() for tensor in rows.values()))
    flat_tuple = isinstance(result, tuple) and all(isinstance(one, torch.Tensor) for one in result)
    if not (isinstance(result, torch.Tensor) or flat_tuple):
        raise ExportError("the result is no tensor or tuple of tensors")
    return script


def _traced(network: "nn.Module", flat: "nn.Module", rows: "Mapping[str, Tensor]") -> Any:
    import torch

    with torch.inference_mode():
        arguments = tuple(tensor.clone() for tensor in rows.values())
        return torch.jit.trace(flat, arguments, check_trace=False)
