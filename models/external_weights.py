"""The weights that an ONNX file keeps in other files next to it, read into the file itself.

torch.onnx.export writes such files by default. A package's ONNX file contains its weights, so that
its digest covers them.
"""

from pathlib import Path

from models.graph import UnreadableGraphError, parse_file, tensors
from models.importing import MAX_ONNX_BYTES, AddError
from models.runtimes import one_line


def with_weights(file: Path, content: bytes) -> bytes:
    """Return the content of an ONNX file with the weights of its other files.

    Args:
        file: the ONNX file; the other files are in its folder.
        content: its bytes. Bytes that are no ONNX file are returned as they are.

    Raises:
        AddError: a file of weights is missing, or all weights together are too large.
    """
    if b"location" not in content:  # the key under which a tensor names its file
        return content
    try:
        model = parse_file(content)
    except UnreadableGraphError:  # the file is refused, with the reason, when it is opened
        return content
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    if not any(map(uses_external_data, tensors(model))):
        return content
    try:
        load_external_data_for_model(model, str(file.parent))
    except Exception as error:
        raise AddError(
            f"{file}: its weights are in another file, which cannot be read ({one_line(error)}): "
            "put that file next to this one, under the name that the export gave it"
        ) from error
    if model.ByteSize() >= MAX_ONNX_BYTES:
        raise AddError(
            f"{file}: it has {model.ByteSize():,} bytes with its weights, and an ONNX file holds "
            f"{MAX_ONNX_BYTES:,} at most: export it in half precision"
        )
    whole: bytes = model.SerializeToString()
    return whole
