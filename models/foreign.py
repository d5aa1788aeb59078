"""Files that were not exported here: opened where they can be served, refused where they cannot."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.card import NUMPY_DTYPES, Datatype, ModelCard
from models.files import FileError, open_file, read_all
from models.runtimes import (
    DeclaredTensor,
    OnnxRuntime,
    TorchScriptRuntime,
    brief,
)

MAX_ONNX_BYTES = 2**31
"""No ONNX file is larger: it is one message of protocol buffers."""


class AddError(Exception):
    """What no package can be made of: one sentence that says what to change."""


@dataclass(frozen=True)
class ForeignGraph:
    """An ONNX file of any origin, whose inputs and outputs are tensors of numbers."""

    file: str
    network: OnnxRuntime
    fixed_batch: int | None
    """How many rows it computes at a time; None for any number."""


def read_file(path: Path, largest: int = sys.maxsize) -> bytes:
    """The content of a file of at most `largest` bytes.

    Raises:
        AddError: it cannot be read, is no regular file, or is too large.
    """
    try:
        with open_file(path) as stream:
            return read_all(stream, largest)
    except FileError as error:
        raise AddError(f"{path}: {error}") from error


def open_graph(file: str, content: bytes) -> ForeignGraph:
    """Open an ONNX file.

    Args:
        file: its name, for errors.
        content: its bytes.

    Raises:
        AddError: it cannot be loaded, or takes or gives what is not served.
    """
    try:
        network = OnnxRuntime(content)
    except ImportError:
        raise
    except Exception as error:
        if "External data" in str(error):
            raise AddError(
                f"{file}: its weights are in another file: put them into this one, with "
                f"onnx.save(onnx.load({file!r}), 'whole.onnx'), or with external_data=False in "
                "torch.onnx.export"
            ) from error
        raise AddError(
            f"{file}: ONNX Runtime cannot load it ({brief(error)}): "
            "export it anew, with ONNX's own operators alone"
        ) from error
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
    return ForeignGraph(file, network, _fixed_batch(file, network.inputs))


def open_module(file: str, content: bytes, card: ModelCard) -> TorchScriptRuntime:
    """Open a TorchScript file. Loading it runs the code in it.

    Raises:
        AddError: it cannot be loaded, or does not take the inputs of the card.
    """
    try:
        module = TorchScriptRuntime(content, outputs=[spec.name for spec in card.outputs])
    except ImportError:
        raise
    except Exception as error:
        raise AddError(
            f"{file}: torch cannot load it ({brief(error)}): save it with torch.jit.save"
        ) from error
    mismatch = module.mismatch(card)
    if mismatch:
        raise AddError(
            f"{file}: {mismatch}, as the ONNX graph does: "
            "export that with the module's arguments as input_names"
        )
    return module


def datatype_of(file: str, kind: str, tensor: DeclaredTensor) -> Datatype:
    """The datatype of a tensor that can be served.

    Raises:
        AddError: it is something else than numbers, or has no name that can be shown.
    """
    if not (tensor.name and tensor.name.isprintable()):
        raise AddError(f"{file}: the {kind} {tensor.name!r} needs a name of printable characters")
    if tensor.datatype:
        return tensor.datatype
    if tensor.type == "tensor(string)" and kind == "output":
        advice = "fit it on classes that are whole numbers, and name them with --label"
    elif tensor.type == "tensor(string)":
        advice = "turn text into numbers before the graph, and export what follows"
    elif tensor.type.startswith("optional"):
        advice = "export it with inputs that are always given"
    elif tensor.type.startswith("tensor"):
        advice = f"export it with one of {', '.join(NUMPY_DTYPES)}"
    else:
        advice = "export tensors alone (in skl2onnx with options={'zipmap': False})"
    raise AddError(
        f"{file}: the {kind} {tensor.name} is {tensor.type}, which is not served: {advice}"
    )


def _fixed_batch(file: str, inputs: Sequence[DeclaredTensor]) -> int | None:
    """The number of rows that the graph states for its inputs; None where it leaves it free."""
    stated = {tensor.name: tensor.shape[0] for tensor in inputs if tensor.shape}
    sizes = {size if isinstance(size, int) else None for size in stated.values()}
    if len(sizes) > 1:
        found = ", ".join(f"{size or 'any'} of {name}" for name, size in stated.items())
        raise AddError(
            f"{file}: the first dimensions of its inputs are {found}: "
            "export it with the batch as the first dimension of every input"
        )
    return sizes.pop() if sizes else None
