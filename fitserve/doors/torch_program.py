"""The door for programs of torch.export: an `ExportedProgram`, or its file `.pt2`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.doors import is_of
from fitserve.explain import explanation
from fitserve.exported import Exported, ExportError
from fitserve.own_answers import further_records, record_of
from fitserve.torch_files import NO_TORCH_FILE, onnx_of, program_file
from fitserve.torch_networks import flat_module, tensors_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SHOWN = "torch.export.ExportedProgram"


def takes(network: object) -> bool:
    """Return whether the network is a program of torch.export."""
    return is_of(network, "torch", "ExportedProgram")


def read(file: Path) -> Any:
    """Return the program in a file of `torch.export.save`."""
    import torch

    try:
        return torch.export.load(file)
    except Exception as error:
        raise ExportError(
            f"{file.name}: torch cannot load it ({explanation(error)}): save it with "
            "torch.export.save, in this version of torch or an earlier one"
        ) from error


def export(network: "ExportedProgram", samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the program as files, with the free dimensions that it has.

    Args:
        network: the program.
        samples: as for a module; by default, the sample in the program.
        labels: the classes.

    Raises:
        ExportError: there is no sample, or the program fails on it or has no form in ONNX.
    """
    import torch

    module = network.module()
    if not samples:
        if network.example_inputs is None:
            raise ExportError("the program holds no sample: give rows, or --input")
        arguments, keywords = network.example_inputs
        names = inspect.signature(module.forward).parameters
        samples = [dict(zip(names, arguments, strict=False)) | dict(keywords)]
    rows = [tensors_of(module, sample) for sample in samples]
    positional = network.call_spec.in_spec.child(0).num_children
    flat = flat_module(module, list(rows[0]), positional=positional)
    records = [record_of(flat, one) for one in rows]
    further = further_records(flat, rows, records, {})
    onnx, weights = onnx_of(network, list(rows[0]), list(records[0].answers))
    origin = f"a program of torch.export, torch {torch.__version__.partition('+')[0]}"
    return Exported(
        onnx,
        records,
        origin,
        program=None if weights else program_file(network),
        further=further,
        labels=labels,
        notes=[NO_TORCH_FILE] if weights else [],
        weights=weights,
    )
