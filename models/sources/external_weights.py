"""The weights that an ONNX file keeps in other files next to it.

torch.onnx.export writes such files by default. Up to `LARGEST_INSIDE` bytes, they are read into the
ONNX file, which is simpler. More would not fit: an ONNX file is one message of protocol buffers,
of 2 GiB at most. Such weights become one file beside it, `models.package.card.WEIGHTS_FILE`, with a
digest of its own. Small constants and those of INT32 and INT64 are read in also then, since the
checks read them as sizes and indices.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import AddError
from models.graphs.graph import UnreadableGraphError, parse_file, tensors
from models.package.card import WEIGHTS_FILE
from models.runtimes.onnx_library import Weights
from models.runtimes.runtime import one_line
from models.sources.importing import MAX_ONNX_BYTES

if TYPE_CHECKING:
    import onnx

LARGEST_INSIDE = 2**30
"""Of an ONNX file with its weights, in bytes: the checks hold several copies of it."""
SMALLEST_BESIDE = 1024
"""Of a constant in the file beside, in numbers."""
KINDS_BESIDE = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8")
"""The datatypes of ONNX that constants in the file beside may have."""
_ALIGNMENT = 64
"""Of a constant in the file beside, in bytes, as of every tensor of ONNX Runtime."""


def with_weights(file: Path, content: bytes) -> tuple[bytes, Weights | None]:
    """Return the content of an ONNX file with the weights of its other files, or the weights alone.

    Args:
        file: the ONNX file; the other files are in its folder.
        content: its bytes. Bytes that are no ONNX file are returned as they are.

    Returns:
        The ONNX file, and the content of the file beside it; None if it needs none.

    Raises:
        AddError: a file of weights is missing, a link or outside of the folder, or what an ONNX
            file itself has to hold is too large.
    """
    if b"location" not in content:  # the key under which a tensor names its file
        return content, None
    try:
        model = parse_file(content)
    except UnreadableGraphError:  # the file is refused, with the reason, when it is opened
        return content, None
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    initializers = len(model.graph.initializer)  # the first tensors; others are inside nodes
    outside = [(at, one) for at, one in enumerate(tensors(model)) if uses_external_data(one)]
    if not outside:
        return content, None
    try:
        total = len(content) + sum(_byte_count(one) for _, one in outside)
        inside: list[onnx.TensorProto] = []
        movable: list[onnx.TensorProto] = []
        for at, one in outside:
            moves = total > LARGEST_INSIDE and at < initializers and _is_movable(one)
            (movable if moves else inside).append(one)
        for one in inside:
            load_external_data_for_tensor(one, str(file.parent))
        beside = _moved(movable, file.parent) if movable else None
    except Exception as error:
        raise AddError(
            f"{file}: its weights are in another file, which cannot be read ({one_line(error)}): "
            "put that file next to this one, under the name that the export gave it"
        ) from error
    if model.ByteSize() >= MAX_ONNX_BYTES:
        raise AddError(
            f"{file}: it has {model.ByteSize():,} bytes without the weights that may be in another "
            f"file, and an ONNX file holds {MAX_ONNX_BYTES:,} at most: export the weights as "
            "initializers of the graph"
        )
    whole: bytes = model.SerializeToString()
    return whole, beside


def _byte_count(tensor: "onnx.TensorProto") -> int:
    """Return the bytes of a tensor's numbers; of types of four bits, twice as many."""
    import onnx

    count: int = math.prod(tensor.dims)
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _is_movable(tensor: "onnx.TensorProto") -> bool:
    """Return whether a constant may be in the file beside."""
    import onnx

    kinds = {onnx.TensorProto.DataType.Value(kind) for kind in KINDS_BESIDE}
    return tensor.data_type in kinds and math.prod(tensor.dims) >= SMALLEST_BESIDE


def _moved(movable: "Sequence[onnx.TensorProto]", folder: Path) -> bytearray:
    """Return the numbers of constants, one after another; state the place of each in its tensor."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    weights = bytearray()
    for tensor in movable:
        read = onnx.TensorProto()
        read.CopyFrom(tensor)
        load_external_data_for_tensor(read, str(folder))
        size = len(read.raw_data)
        if size != _byte_count(tensor):
            raise ValueError(f"{tensor.name} has {size:,} bytes, its shape {_byte_count(tensor):,}")
        weights.extend(bytes(-len(weights) % _ALIGNMENT))
        del tensor.external_data[:]
        place = {"location": WEIGHTS_FILE, "offset": len(weights), "length": size}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.extend(read.raw_data)
    return weights
