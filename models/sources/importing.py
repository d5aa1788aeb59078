"""The opening of files of other origin: files that cannot be served are refused with advice."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import AddError
from models.kinds.batch_axes import Axes, BatchAxes
from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype
from models.package.card import ModelCard, RuntimeName
from models.package.files import FileError, open_file, read_all
from models.runtimes.onnx_library import Weights
from models.runtimes.rows_first import RowsFirst
from models.runtimes.runtime import (
    DeclaredTensor,
    OnnxRuntime,
    one_line,
)
from models.runtimes.torch_runtimes import TORCH_RUNTIMES, TorchRuntime
from models.sources.file_kinds import advice

MAX_ONNX_BYTES = 2**31
"""The largest possible ONNX file, since the file is one message of protocol buffers."""


class RowsFirstGraph(RowsFirst):
    """An ONNX graph of another layout as one with the rows first."""

    def __init__(self, graph: OnnxRuntime, axes: BatchAxes) -> None:
        super().__init__(graph, axes)
        self.producer = graph.producer
        self.mismatch = graph.mismatch
        self.inputs = tuple(_rows_first(one, axes.inputs, axes) for one in graph.inputs)
        self.outputs = tuple(_rows_first(one, axes.outputs, axes) for one in graph.outputs)


def _rows_first(tensor: DeclaredTensor, named: Axes, axes: BatchAxes) -> DeclaredTensor:
    axis, shape = named[tensor.name], tensor.shape
    if axis is None:
        # A single value, or a shape that the graph does not state, which has no size.
        return tensor._replace(shape=(None if axes.has_batch else 1, *shape))
    return tensor._replace(shape=(*shape[axis : axis + 1], *shape[:axis], *shape[axis + 1 :]))


@dataclass(frozen=True)
class ForeignGraph:
    """An ONNX file of any origin, whose inputs and outputs are tensors of numbers or text.

    Attributes:
        file: the name of the file, for errors.
        network: computes the graph; its tensors have the rows first.
        fixed_batch: the only number of rows that is computed at a time; None for any number.
        axes: the axes of the batch in the graph.
        whole: why each request is one computation whose outputs are not of its rows; else "".
        batch: the size of the batch that the card states; -1 for any.
        weights: the content of the file beside the ONNX file; None if it has none.
        sized: the outputs of which every size that the graph does not state may be any.
    """

    file: str
    network: OnnxRuntime | RowsFirstGraph
    fixed_batch: int | None
    axes: BatchAxes
    whole: str = ""
    batch: int = -1
    sized: frozenset[str] = frozenset()
    weights: Weights | None = None

    def opened(self, content: bytes, **options: Any) -> OnnxRuntime | RowsFirstGraph:
        """Open the file again with other options of `OnnxRuntime`."""
        graph = OnnxRuntime(content, weights=self.weights, **options)
        return graph if self.axes.is_rows_first else RowsFirstGraph(graph, self.axes)


def read_file(path: Path, largest: int = sys.maxsize) -> bytes:
    """Return the content of a file of at most `largest` bytes.

    Raises:
        AddError: the file cannot be read, is not a regular file, or is too large.
    """
    try:
        with open_file(path) as stream:
            return read_all(stream, largest)
    except FileError as error:
        raise AddError(f"{path}: {error}") from error


def open_graph(file: str, content: bytes, weights: Weights | None = None) -> OnnxRuntime:
    """Open an ONNX file, whose inputs and outputs are tensors of numbers.

    Args:
        file: the name of the file, for errors.
        content: the bytes of the file.
        weights: the content of the file beside it, if it has one.

    Raises:
        AddError: the file cannot be loaded, or has inputs or outputs that cannot be served.
    """
    try:
        network = OnnxRuntime(content, weights=weights)
    except ImportError:
        raise
    except Exception as error:
        raise AddError(f"{file}: {_unloadable(file, content, error)}") from error
    if not network.outputs:
        raise AddError(f"{file}: it gives no output: export it with the outputs that are asked for")
    if not network.inputs:
        raise AddError(f"{file}: it takes no input: export it with the inputs that it is to answer")
    if network.defaults:
        raise AddError(
            f"{file}: its inputs {', '.join(network.defaults)} may be left out: make them "
            "constants (in torch.onnx.export with keep_initializers_as_inputs=False)"
        )
    for kind, tensors in (("input", network.inputs), ("output", network.outputs)):
        for tensor in tensors:
            datatype_of(file, kind, tensor)
            _require_size(file, kind, tensor)
        _require_names(file, kind, tensors)
    return network


def open_module(file: str, content: bytes, card: ModelCard, runtime: RuntimeName) -> TorchRuntime:
    """Open a file of torch. Loading TorchScript runs the code in the file.

    Raises:
        AddError: the file cannot be loaded, or its arguments are not the inputs of the card.
    """
    try:
        outputs = [spec.name for spec in card.outputs]
        bfloat16 = [spec.name for spec in card.inputs if spec.datatype == "BF16"]
        module = TORCH_RUNTIMES[runtime](content, outputs=outputs, bfloat16=bfloat16)
    except ImportError:
        raise
    except Exception as error:
        saver = "torch.jit.save" if runtime == "torchscript" else "torch.export.save"
        reason = (
            advice(content) or f"torch cannot load it ({one_line(error)}): save it with {saver}"
        )
        raise AddError(f"{file}: {reason}") from error
    mismatch = module.mismatch(card)
    if mismatch:
        raise AddError(
            f"{file}: {mismatch}, as the ONNX graph does: "
            "export that with the module's arguments as input_names"
        )
    return module


def datatype_of(file: str, kind: str, tensor: DeclaredTensor) -> Datatype:
    """Return the datatype of a tensor.

    Raises:
        AddError: the tensor holds neither numbers nor text, or its name is empty or not printable.
    """
    if not (tensor.name and tensor.name.isprintable()):
        raise AddError(f"{file}: the {kind} {tensor.name!r} needs a name of printable characters")
    if tensor.datatype:
        return tensor.datatype
    if tensor.type.startswith("optional"):
        advice = "export it with inputs that are always given"
    elif tensor.type.startswith("tensor"):
        advice = f"export it with one of {', '.join(NUMPY_DTYPES)}"
    elif tensor.type.startswith("seq(tensor"):
        advice = (
            "export each tensor of the sequence as an output of its own (of scikit-learn's "
            "MultiOutputClassifier, convert each of its estimators_ by itself)"
        )
    else:
        advice = (
            "export tensors alone (in skl2onnx with options={'zipmap': False}, in onnxmltools with "
            "zipmap=False)"
        )
    raise AddError(
        f"{file}: the {kind} {tensor.name} is {tensor.type}, which is not served: {advice}"
    )


def _unloadable(file: str, content: bytes, error: Exception) -> str:
    """Return why ONNX Runtime does not load the file, and what helps."""
    message = one_line(error)
    if isinstance(error, UnicodeDecodeError):
        return "it has names that are no UTF-8: export it with other names"
    if "External data" in message:
        return (
            "its weights are in another file: put them into this one, with "
            f"onnx.save(onnx.load({file!r}), 'whole.onnx'), or with external_data=False in "
            "torch.onnx.export"
        )
    if known := advice(content):
        return known
    if found := re.search(r"IR version: (\d+), max supported IR version: (\d+)", message):
        return (
            f"its IR version is {found[1]}, and ONNX Runtime reads those up to {found[2]}: lower "
            f"it with m = onnx.load({file!r}); m.ir_version = {found[2]}; onnx.save(m, {file!r})"
        )
    if found := re.search(
        r"Opset (\d+) is .*?support for domain (\S+) is till opset (\d+)", message
    ):
        return (
            f"its operators are of opset {found[1]} of {found[2]}, and ONNX Runtime reads opsets "
            f"up to {found[3]}: export it with that one (opset_version in torch.onnx.export, "
            "target_opset in skl2onnx)"
        )
    if found := re.search(r"Could not find an implementation for (\w+)\(", message):
        return (
            f"ONNX Runtime does not compute {found[1]} in the datatype that it has there: export "
            "the network in single precision (in torch, network.float())"
        )
    if found := re.search(r"construct locale with name:(\S+?):", message):
        return (
            f"its StringNormalizer needs the locale {found[1]}, which is not installed: install "
            "it, or give the operator the attribute locale='C.UTF-8'"
        )
    return (
        f"ONNX Runtime cannot load it ({message}): export it anew, with ONNX's own operators alone"
    )


def _require_size(file: str, kind: str, tensor: DeclaredTensor) -> None:
    if 0 in tensor.shape:
        raise AddError(
            f"{file}: the {kind} {tensor.name} is {list(tensor.shape)}, which holds no number: "
            "export it without"
        )


def _require_names(file: str, kind: str, tensors: Sequence[DeclaredTensor]) -> None:
    names = [tensor.name for tensor in tensors]
    if twice := [name for name in names if names.count(name) > 1]:
        raise AddError(f"{file}: it has two {kind}s {twice[0]}: export it with a name for each")
