"""The format of a file that holds a network or weights, recognised by its content.

The files of some formats can be exported (`exporting.py`). For the others, and for a file that was
given under the wrong option, there is advice.
"""

import io
import re
import zipfile
from typing import BinaryIO, Literal

Kind = Literal[
    "torchscript", "torch program", "checkpoint", "safetensors", "keras", "skops", "xgboost",
    "lightgbm", "ort", "tflite", "pickle",
]  # fmt: skip
DOORS = {
    "torchscript": "torchscript",
    "torch program": "torch_program",
    "keras": "keras",
    "skops": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
}
"""The kinds that `fitserve.doors` exports, and the door of each."""

_HEAD = 4096  # bytes
_TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_XGBOOST = re.compile(rb'\{\s*"learner"|\{L.{8}learner', re.DOTALL)
_WEIGHTS = (
    "it is weights alone: give the network as SOURCE, as FILE.py:make for a function in your code "
    "that returns it, and this file with --weights"
)
_EXPORTED = "fitserve exports it: give it as SOURCE, without an option in front"
_ADVICE: dict[Kind, str] = {
    "checkpoint": f"it is a checkpoint of torch.save. If {_WEIGHTS}",
    "safetensors": _WEIGHTS,
    "torchscript": f"it is TorchScript. {_EXPORTED}",
    "torch program": f"it is a program of torch.export. {_EXPORTED}",
    "keras": f"it is Keras' own format. {_EXPORTED}",
    "skops": f"it is a file of skops. {_EXPORTED}",
    "xgboost": f"it is a model of XGBoost. {_EXPORTED}",
    "lightgbm": f"it is a model of LightGBM. {_EXPORTED}",
    "ort": "it is ONNX Runtime's own format: give the ONNX file that it was made of",
    "tflite": "it is TensorFlow Lite: make ONNX of it with tf2onnx",
    "pickle": (
        "it is a pickle, whose loading runs any code in it: load it in Python, and give what it "
        "holds to fitserve.save"
    ),
}


def kind_of(stream: BinaryIO) -> Kind | None:
    """Return the format of an open file, None if it is another one, such as ONNX.

    Only the first bytes are read, and the names in an archive.
    """
    content = stream.read(_HEAD)
    if content.startswith(b"PK\x03\x04"):
        return _archive(stream)
    if content.startswith(_TORCH_PICKLE):
        return "checkpoint"
    if content.startswith(_HDF5):
        return "keras"
    if content[8:10] == b'{"' and b'"dtype"' in content:
        return "safetensors"
    if content[4:8] == b"ORTM":
        return "ort"
    if content[4:8] == b"TFL3":
        return "tflite"
    if content.startswith(b"tree\nversion="):
        return "lightgbm"
    if _XGBOOST.match(content):
        return "xgboost"
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return None


def advice(content: bytes) -> str | None:
    """Return what a file is and what to do, as the end of a sentence; None if it is unknown."""
    kind = kind_of(io.BytesIO(content))
    return _ADVICE[kind] if kind else None


def advice_for(kind: Kind) -> str:
    """Return what a file of this format is and what to do, as the end of a sentence."""
    return _ADVICE[kind]


def _archive(stream: BinaryIO) -> Kind | None:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None
    if "constants.pkl" in names:
        return "torchscript"
    if "archive_format" in names:
        return "torch program"
    if "data.pkl" in names:
        return "checkpoint"
    if "model.weights.h5" in names:
        return "keras"
    if "schema.json" in names:
        return "skops"
    return None
