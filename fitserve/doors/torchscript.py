"""The door for TorchScript: a `ScriptModule`, or its file `.pt`."""

import inspect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.doors import is_of
from fitserve.explain import explanation
from fitserve.exported import GIVE_ROWS, Exported, ExportError
from fitserve.own_answers import further_records, record_of
from fitserve.torch_files import NO_TORCH_FILE, traced_onnx
from fitserve.torch_networks import flat_module, schema_of, tensors_of

if TYPE_CHECKING:
    from torch.jit import ScriptModule

SHOWN = "TorchScript module"


def takes(network: object) -> bool:
    """Return whether the network is compiled TorchScript."""
    return is_of(network, "torch", "ScriptModule")


def read(file: Path) -> Any:
    """Return the module in a file of `torch.jit.save`. Loading runs the code in the file."""
    import torch

    try:
        return torch.jit.load(file, map_location="cpu")
    except Exception as error:
        raise ExportError(
            f"{file.name}: torch cannot load it ({explanation(error)}): save it with torch.jit.save"
        ) from error


def export(network: "ScriptModule", samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the module as files. torch writes ONNX of TorchScript with its older exporter.

    Args:
        network: the module.
        samples: as for a module of torch.
        labels: the classes.

    Raises:
        ExportError: there is no sample, or the module fails on it or has no form in ONNX.
    """
    import torch

    if not samples:
        raise ExportError(f"TorchScript states no shapes: {GIVE_ROWS}")
    module = network.eval()
    rows = [tensors_of(module, sample, signature(module)) for sample in samples]
    flat = flat_module(module, list(rows[0]))
    records = [record_of(flat, one) for one in rows]
    further = further_records(flat, rows, records, {})
    onnx, weights = traced_onnx(module, rows, list(records[0].answers))
    stream = io.BytesIO()
    if not weights:
        torch.jit.save(module, stream)
    origin = f"{module.original_name} as TorchScript, torch {torch.__version__.partition('+')[0]}"
    return Exported(
        onnx,
        records,
        origin,
        torchscript=stream.getvalue() or None,
        further=further,
        labels=labels,
        notes=[NO_TORCH_FILE] if weights else [],
        weights=weights,
    )


def signature(module: "ScriptModule") -> inspect.Signature:
    """Return the arguments of the module."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                kind,
                default=argument.default_value
                if argument.has_default_value()
                else inspect.Parameter.empty,
            )
            for argument in schema_of(module).arguments[1:]
        ]
    )
