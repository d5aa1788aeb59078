"""CUDA devices: whether the driver and the card are new enough, and when their memory is full.

torch is imported where it is used; the driver is asked without it.
"""

import ctypes
import gc
import sys
import warnings

_DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",  # CUDA_ERROR_OUT_OF_MEMORY
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and its kin
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "memoryallocation",  # cudaErrorMemoryAllocation
    "failed to allocate",  # ONNX Runtime's arena
    "smaller than requested bytes",  # the same arena, where it has a limit
    "unable to find an engine",  # cuDNN, where no workspace is left for any
    "bad_alloc",  # C++
    "bad allocation",  # C++ on Windows
    "not enough memory",  # torch on a CPU
    "can't allocate memory",  # the same
    "cannot allocate memory",  # Linux
)


class DeviceError(RuntimeError):
    """A runtime that cannot use a device on this machine: nothing is wrong with the package."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had too little memory.

    Torch, ONNX Runtime, CUDA's libraries and Python each have a type of their own for it; the words
    are few.
    """
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(words in told for words in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Give back what torch keeps of the memory of networks that are gone."""
    gc.collect()  # a scripted module may be part of a cycle
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver of this machine supports, as (12, 2).

    None where there is no driver; (0, 0) where it does not say.
    """
    try:
        driver = ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int(0)
    try:
        failed = driver.cuDriverGetVersion(ctypes.byref(version))
    except AttributeError:  # some other library of that name
        return 0, 0
    return (0, 0) if failed else (version.value // 1000, version.value % 1000 // 10)


def driver_problem(library: str, cuda: str | None) -> str:
    """Why a library cannot use the driver of this machine; empty where it can.

    Args:
        library: its name and version.
        cuda: the CUDA that it is built with, as 13.2; None or empty for none.
    """
    if not cuda:
        return f"{library} is built without CUDA"
    driver = driver_cuda()
    if driver is None:
        return f"this machine has no NVIDIA driver ({_DRIVER_LIBRARY} is not found)"
    needed = int(cuda.split(".")[0])  # every minor version of a CUDA runs on the first one's driver
    if (0, 0) < driver < (needed, 0):
        return (
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}, and {library} needs CUDA "
            f"{needed}.0: update the driver"
        )
    return ""


def torch_devices() -> tuple[list[str], str]:
    """The devices on which torch computes, and why it does not on others, or on any.

    Returns:
        `cuda:<index>` of each; and a sentence, empty where nothing keeps torch from a card.
    """
    import torch

    if problem := driver_problem(f"torch {torch.__version__}", torch.version.cuda):
        return [], problem
    with warnings.catch_warnings(record=True) as told:  # its reasons are warnings of several lines
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        reason = " ".join(str(told[-1].message).split()) if told else "the driver lists none"
        return [], f"torch {torch.__version__} finds no CUDA device ({reason})"
    lacking = {f"cuda:{index}": _lacking_kernels(index) for index in range(count)}
    usable = [device for device, reason in lacking.items() if not reason]
    return usable, "; ".join(reason for reason in lacking.values() if reason)


def torch_problem(device: str) -> str:
    """Why torch cannot compute on `cuda:<index>`; empty where it can."""
    usable, reason = torch_devices()
    if device in usable:
        return ""
    return reason or f"there are {', '.join(usable)}"


def _lacking_kernels(index: int) -> str:
    """That torch has no kernels for a card, with both versions; empty where it has."""
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    kernels = torch.cuda.get_arch_list()
    # Machine code (sm) runs on cards of the same major version, and with an `a` of the same minor
    # one; PTX (compute) runs on all later cards.
    for kernel in kernels:
        kind, _, digits = kernel.rstrip("af").partition("_")
        made_for = int(digits[:-1]), int(digits[-1])
        if made_for == (major, minor):
            return ""
        later = made_for < (major, minor) and not kernel.endswith("a")
        if later and (kind == "compute" or made_for[0] == major):
            return ""
    return (
        f"cuda:{index} ({torch.cuda.get_device_name(index)}) has compute capability "
        f"{major}.{minor}, and torch {torch.__version__} has kernels for {', '.join(kernels)} alone"
    )
