"""Networks of torch as files: ONNX, by the exporter of programs or the older one, and programs."""

import io
import linecache
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.explain import explanation
from fitserve.exported import ExportError
from fitserve.torch_networks import Axes, with_one_more_row

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_INSIDE = 2**30
"""Of the weights in an ONNX file, in bytes; more are in a file of their own."""
NO_TORCH_FILE = (
    "There is no TorchScript file: of weights this large, the package would hold a second copy."
)
"""The note of a network with weights beside its ONNX file."""


class OnnxFiles(NamedTuple):
    """A network as ONNX: the file, and the files of weights beside it by name, if it has any."""

    onnx: bytes
    weights: Mapping[str, bytes]


def dynamic_shapes(
    samples: "Sequence[Mapping[str, Tensor]]",
    axes: Axes,
    largest: Mapping[str, int] | None = None,
) -> dict[str, dict[int, Any]]:
    """Return the free dimensions of each input for torch.export.

    The batch is free. Other dimensions are if their sizes differ between two samples; those with
    the same sizes in every sample share a name.

    Args:
        samples: the inputs by name.
        axes: the axis of the batch of each input.
        largest: the largest sizes of dimensions, by their names.
    """
    from torch.export import Dim

    batch = Dim("batch")
    sizes: dict[tuple[int, ...], Any] = {}
    shapes: dict[str, dict[int, Any]] = {}
    for name, tensor in samples[0].items():
        batch_axis = axes.get(name, 0)
        shapes[name] = {} if batch_axis is None else {batch_axis: batch}
        for axis in range(tensor.ndim):
            if axis == batch_axis:
                continue
            found = tuple(sample[name].shape[axis] for sample in samples)
            if len(set(found)) > 1:
                label = f"length_{len(sizes) + 1}" if sizes else "length"
                most = (largest or {}).get(label)
                shapes[name][axis] = sizes.setdefault(found, Dim(label, max=most))
    return shapes


def onnx_of(program: Any, inputs: Sequence[str], outputs: Sequence[str]) -> OnnxFiles:
    """Return a `torch.export.ExportedProgram` as ONNX.

    Args:
        program: the program.
        inputs: the names of the inputs in the graph.
        outputs: the names of the outputs in the graph.

    Raises:
        ExportError: an operator has no form in ONNX.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        try:
            torch.onnx.export(
                program,
                (),
                file,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamo=True,
                external_data=_byte_count(program) > LARGEST_INSIDE,
                verbose=False,
            )
        except ImportError as error:
            raise ExportError(
                f"{error.name} is not installed: pip install 'fitserve[export]', or {error.name}"
            ) from error
        except Exception as error:
            raise ExportError(f"the network has no form in ONNX: {explanation(error)}") from error
        return _read(file)


def _byte_count(program: Any) -> int:
    """Return the bytes of the weights and the constants of a program."""
    import torch

    values = (*program.state_dict.values(), *program.constants.values())
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _read(file: Path) -> OnnxFiles:
    """Return an ONNX file, which is alone in its folder but for its weights."""
    beside = {one.name: one.read_bytes() for one in file.parent.iterdir() if one != file}
    return OnnxFiles(file.read_bytes(), beside)


def program_file(program: Any) -> bytes:
    """Return a program as a file of torch.export, without the rows that it was exported with."""
    import torch

    stream, sample = io.BytesIO(), program.example_inputs
    program.example_inputs = None
    try:
        torch.export.save(program, stream)
    finally:
        program.example_inputs = sample
    return stream.getvalue()


def traced_onnx(
    module: Any,
    rows: "Sequence[Mapping[str, Tensor]]",
    outputs: Sequence[str],
    axes: Axes = MappingProxyType({}),
) -> OnnxFiles:
    """Return a module as ONNX by the older exporter of torch, which traces it.

    The exporter puts weights of more than 2 GiB into other files by itself.

    Args:
        module: the module, compiled or not.
        rows: one or more samples.
        outputs: the names of the outputs.
        axes: the axis of the batch of each input.

    Raises:
        ExportError: an operator has no form in ONNX.
    """
    import torch
    from torch.jit._trace import TracerWarning

    free = {
        name: {axis: dimension.__name__ for axis, dimension in found.items()}
        for name, found in dynamic_shapes(rows, axes).items()
    }
    if axes:
        free |= _output_axes(module, rows[0], outputs, axes)
    else:
        free |= {name: {0: "batch"} for name in outputs}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", TracerWarning)
        file = Path(folder, "model.onnx")
        try:
            torch.onnx.export(
                module,
                tuple(rows[0].values()),
                file,
                input_names=list(rows[0]),
                output_names=list(outputs),
                dynamic_axes=free,
                dynamo=False,
            )
        except Exception as error:
            raise ExportError(
                f"the network has no form in ONNX: {explanation(error)}; if it is TorchScript, "
                "give its Python code as FILE.py:make"
            ) from error
        _require_traceable(caught)
        return _read(file)


def _require_traceable(caught: "Sequence[warnings.WarningMessage]") -> None:
    """Check that no Python code outside of torch makes a number or a decision of a tensor.

    A trace keeps what that is for the sample. torch's own code checks its arguments in this way.

    Raises:
        ExportError: some code does.
    """
    import torch
    from torch.jit._trace import TracerWarning

    own = str(Path(torch.__file__).parent) + os.sep
    for warning in caught:
        tracer = issubclass(warning.category, TracerWarning)
        if tracer and not warning.filename.startswith(own):
            line = linecache.getline(warning.filename, warning.lineno).strip()
            raise ExportError(
                f"the network cannot be exported: at {Path(warning.filename).name}:"
                f"{warning.lineno}, `{line}`, Python takes a number or a decision from a tensor or "
                "a size, which would be that of the sample for every request: compute with tensors "
                "throughout, and leave out checks"
            )


def _output_axes(
    module: Any, rows: "Mapping[str, Tensor]", outputs: Sequence[str], axes: Axes
) -> dict[str, dict[int, str]]:
    """Return the axes of the outputs that grow with the batch."""
    import torch

    with torch.inference_mode():
        results = [module(*one.values()) for one in (rows, with_one_more_row(rows, axes))]
    found = {}
    for name, *tensors in zip(outputs, *map(_as_tuple, results), strict=True):
        sizes = enumerate(zip(*(tensor.shape for tensor in tensors), strict=True))
        found[name] = {axis: "batch" for axis, (size, more) in sizes if size != more}
    return found


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
