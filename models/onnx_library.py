"""ONNX Runtime itself: imported so that it reports to nobody, and with its CUDA, or why without."""

import contextlib
import ctypes
import io
import os
from functools import cache
from pathlib import Path
from typing import Any

from models.devices import DeviceError, driver_problem


@cache
def load_onnxruntime() -> Any:
    """The module, which writes no lines of its own: what goes wrong is raised.

    Raises:
        ImportError: it is not installed.
    """
    # Unless it is told before it is loaded, it reports what it runs to its makers.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # of all that belongs to no session
    return onnxruntime


def load_cuda(device: str) -> None:
    """Have the libraries loaded that ONNX Runtime needs on a GPU.

    Raises:
        DeviceError: the driver is missing or too old, or this ONNX Runtime has no CUDA.
    """
    library = load_onnxruntime()
    has_cuda = "CUDAExecutionProvider" in library.get_available_providers()
    cuda = library.cuda_version if has_cuda else None
    if problem := driver_problem(f"ONNX Runtime {library.__version__}", cuda):
        raise DeviceError(f"ONNX Runtime cannot compute on {device}: {problem}")
    _preload()


@cache
def _preload() -> None:
    """Load CUDA and cuDNN, which come with torch's wheels."""
    with contextlib.redirect_stdout(io.StringIO()):  # what it prints, `cuda_failure` says again
        load_onnxruntime().preload_dlls()


def cuda_failure(device: str) -> DeviceError:
    """What to raise where a session is without CUDA though it was asked for; the cause is chained.

    ONNX Runtime writes the reason to its log alone, so what it tried to load is loaded once more.
    """
    library = "lib{}.so" if os.name == "posix" else "{}.dll"
    folder = Path(load_onnxruntime().__file__).parent / "capi"
    cause: OSError | None = None
    try:
        ctypes.CDLL(str(folder / library.format("onnxruntime_providers_cuda")))
    except OSError as error:
        cause = error
    reason = cause or "ONNX Runtime does not say why"
    failure = DeviceError(
        f"ONNX Runtime cannot compute on {device}: its CUDA did not load ({reason})"
    )
    failure.__cause__ = cause
    return failure
