"""The import of ONNX Runtime, without telemetry; its CUDA libraries; weights beside a graph."""

import contextlib
import ctypes
import io
import os
from functools import cache
from pathlib import Path
from typing import Any

from models.package.card import WEIGHTS_FILE
from models.runtimes.devices import DeviceError, absence, driver_devices, driver_problem

Weights = bytes | bytearray
"""The content of the file of weights beside an ONNX file."""


@cache
def load_onnxruntime() -> Any:
    """Import and return ONNX Runtime. It logs nothing; errors are raised.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """
    # ONNX Runtime reads this variable on import. By default, it reports usage to its makers.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # the logger outside sessions
    return onnxruntime


def take_weights(options: Any, weights: Weights | None) -> None:
    """Let a session take weights outside of its ONNX file from these bytes, and from no file.

    The bytes were compared with a digest, which no file would be that ONNX Runtime opens by itself.
    ONNX Runtime copies what it needs until the session is made.

    Args:
        options: of the session.
        weights: the content of `WEIGHTS_FILE`; None if the ONNX file contains its weights.
    """
    # A folder that does not exist makes the loading of every other file fail.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    if weights is not None:
        options.add_external_initializers_from_files_in_memory(
            [WEIGHTS_FILE], [weights], [len(weights)]
        )


def load_cuda(device: str) -> None:
    """Load the libraries that ONNX Runtime needs on a GPU.

    Raises:
        DeviceError: the driver is missing or too old, the device does not exist, or this ONNX
            Runtime is built without CUDA.
    """
    library = load_onnxruntime()
    has_cuda = "CUDAExecutionProvider" in library.get_available_providers()
    cuda = library.cuda_version if has_cuda else None
    problem = driver_problem(f"ONNX Runtime {library.__version__}", cuda)
    if not problem and (count := driver_devices()) is not None:
        problem = absence(device, count)
    if problem:
        raise DeviceError(f"ONNX Runtime cannot compute on {device}: {problem}")
    # By default, cuBLAS may add partial sums of FP16 in half precision. CPUs do not.
    os.environ.setdefault("ORT_CUDA_GEMM_OPTIONS", "2")
    _preload()


@cache
def _preload() -> None:
    """Load CUDA and cuDNN from the wheels that torch installs."""
    with contextlib.redirect_stdout(io.StringIO()):  # `cuda_failure` reports the printed errors
        load_onnxruntime().preload_dlls()


def cuda_failure(device: str) -> DeviceError:
    """Return the error for a session that was created without the requested CUDA.

    ONNX Runtime writes the reason only to its log, so its CUDA library is loaded once more. The
    error of that load is the cause.
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
