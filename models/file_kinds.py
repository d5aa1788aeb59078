"""The detection of other file formats by content, with advice on how to convert to ONNX."""

import io
import zipfile

_TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ONNX_FROM_TORCH = "export that with torch.onnx.export"


def other_kind(file: str, content: bytes) -> str | None:
    """Return the format of the file and how to convert it, as the end of a sentence.

    Args:
        file: the name of the file.
        content: the bytes of the file.

    Returns:
        None if the format is unknown.
    """
    if content.startswith(b"PK\x03\x04"):
        return _archive(file, content)
    if content.startswith(_TORCH_PICKLE):
        return _checkpoint(file)
    if content.startswith(_HDF5):
        return _keras(file)
    if content[8:10] == b'{"' and b'"dtype"' in content[:4096]:
        return f"it is weights alone: load them into their network, and {_ONNX_FROM_TORCH}"
    if content[4:8] == b"ORTM":
        return "it is ONNX Runtime's own format: give the ONNX file that it was made of"
    if content[4:8] == b"TFL3":
        return "it is TensorFlow Lite: make ONNX of it with tf2onnx"
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "it is a pickle: load it in Python, and export what it holds (a network of "
            "scikit-learn with skl2onnx.to_onnx)"
        )
    return None


def _archive(file: str, content: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None
    if "constants.pkl" in names:
        return (
            "it is TorchScript: export the network as ONNX with torch.onnx.export, and give this "
            "file beside it, with --torchscript"
        )
    if "archive_format" in names:
        return (
            "it is a program of torch.export: make ONNX of it with "
            f"torch.onnx.export(torch.export.load({file!r})).save('network.onnx')"
        )
    if "data.pkl" in names:
        return _checkpoint(file)
    if "model.weights.h5" in names:
        return _keras(file)
    return None


def _checkpoint(file: str) -> str:
    return (
        f"it is a checkpoint of torch.save: load it into its network (torch.load({file!r})), and "
        f"{_ONNX_FROM_TORCH}"
    )


def _keras(file: str) -> str:
    return (
        "it is Keras' own format: make ONNX of it with "
        f"keras.models.load_model({file!r}).export('network.onnx', format='onnx')"
    )
