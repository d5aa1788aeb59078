"""The files of a network for its runtimes: ONNX, TorchScript, and a program of torch.export."""

import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import load_model_from_string
from torch import Tensor, nn

from models.package.card import RuntimeName
from models.runtimes.runtime import OnnxRuntime
from models.runtimes.torch_runtimes import ProgramRuntime, TorchRuntime, TorchScriptRuntime
from training.served import Served


def export_files(served: Served, rows: Tensor) -> dict[RuntimeName, bytes]:
    """Return the files of a module by their runtimes.

    A module whose code TorchScript does not support has a program of torch.export in its place.

    Args:
        served: the module and its tensors.
        rows: two or more rows of the data set.
    """
    files: dict[RuntimeName, bytes] = {"onnx": onnx(served, rows)}
    try:
        files["torchscript"] = torchscript(served.module)
    except RuntimeError:
        files["pt2"] = program(served, rows)
    return files


def open_file(
    name: RuntimeName, content: bytes, outputs: Sequence[str]
) -> OnnxRuntime | TorchRuntime:
    """Open a file with its runtime on the CPU."""
    if name == "onnx":
        return OnnxRuntime(content)
    kind = TorchScriptRuntime if name == "torchscript" else ProgramRuntime
    return kind(content, outputs=outputs)


def torchscript(graph: nn.Module) -> bytes:
    """Return the graph as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(graph), stream)
    return stream.getvalue()


def program(served: Served, rows: Tensor) -> bytes:
    """Return the module as a file of torch.export, with the free dimensions of its inputs.

    Args:
        served: the module and its tensors.
        rows: two or more rows of the data set.
    """
    exported = torch.export.export(
        served.module, served.arguments(rows), dynamic_shapes=_dynamic_shapes(served), strict=False
    )
    exported.example_inputs = None  # the rows are not ours to pass on
    stream = io.BytesIO()
    torch.export.save(exported, stream)
    return stream.getvalue()


def _dynamic_shapes(served: Served) -> dict[str, dict[int, Any]]:
    """Return the free dimensions of the inputs; the first is the batch."""
    batch = torch.export.Dim("batch")
    return {
        spec.name: {
            axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
            for axis, size in enumerate(spec.shape)
            if size == -1
        }
        for spec in served.inputs
    }


def onnx(served: Served, rows: Tensor) -> bytes:
    """Return the module as a single ONNX file, with the free dimensions of its inputs.

    Args:
        served: the module and its tensors.
        rows: two or more rows of the data set.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            served.module,
            served.arguments(rows),
            path,
            input_names=[spec.name for spec in served.inputs],
            output_names=[spec.name for spec in served.outputs],
            dynamic_shapes=_dynamic_shapes(served),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return _without_metadata(path.read_bytes())


def _without_metadata(content: bytes) -> bytes:
    """Remove the exporter's metadata: stack traces, which contain paths of this machine."""
    model = load_model_from_string(content)
    messages = (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions)
    for message in messages:
        del message.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    stripped: bytes = model.SerializeToString()
    return stripped
