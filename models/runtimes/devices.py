"""CUDA devices: checks of the driver, the devices and their memory.

torch is imported only by the functions that use it. The driver is queried without torch.
"""

import ctypes
import gc
import os
import sys
import warnings
from collections.abc import Mapping
from itertools import takewhile

_DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",  # CUDA_ERROR_OUT_OF_MEMORY
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and the like
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "memoryallocation",  # cudaErrorMemoryAllocation
    "failed to allocate",  # ONNX Runtime's arena
    "smaller than requested bytes",  # the same arena, if it has a limit
    "unable to find an engine",  # cuDNN, if no engine's workspace fits into the memory
    "bad_alloc",  # C++
    "bad allocation",  # C++ on Windows
    "not enough memory",  # torch on a CPU
    "can't allocate memory",  # the same
    "cannot allocate memory",  # Linux
)


class DeviceError(RuntimeError):
    """A device of this machine that a runtime cannot use. The package is not at fault."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error means that a device or this machine has too little memory.

    torch, ONNX Runtime, CUDA's libraries and Python raise different types for this error, so the
    message is compared with a list of phrases.
    """
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in message for phrase in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Release the memory that torch caches for deleted networks."""
    gc.collect()  # a scripted module may be part of a cycle
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA that the NVIDIA driver of this machine supports, as (12, 2).

    Returns:
        None without a driver; (0, 0) if the driver does not report a version.
    """
    try:
        driver = ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int(0)
    try:
        failed = driver.cuDriverGetVersion(ctypes.byref(version))
    except AttributeError:  # another library of the same name
        return 0, 0
    return (0, 0) if failed else (version.value // 1000, version.value % 1000 // 10)


def device_name(device: str) -> str:
    """Return the model of a card and the CUDA version of its driver; empty if CUDA lists none.

    Args:
        device: `cuda:<index>`.
    """
    name = ctypes.create_string_buffer(256)
    handle = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(_DRIVER_LIBRARY)
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(handle), int(device.removeprefix("cuda:")))
            or driver.cuDeviceGetName(name, len(name), handle)
        )
    except (OSError, AttributeError):  # no driver, or another library of the same name
        return ""
    return "" if failed else f"{name.value.decode(errors='replace')}, CUDA {driver_cuda()}"


def driver_problem(library: str, cuda: str | None) -> str:
    """Return why a library cannot use the driver of this machine; empty if it can.

    Args:
        library: the name and version of the library.
        cuda: the CUDA version that the library is built with, as 13.2; None or empty for none.
    """
    if not cuda:
        return f"{library} is built without CUDA"
    driver = driver_cuda()
    if driver is None:
        return f"this machine has no NVIDIA driver ({_DRIVER_LIBRARY} is not found)"
    needed = int(cuda.split(".")[0])  # all minor versions of a CUDA run on the driver of the first
    if (0, 0) < driver < (needed, 0):
        return (
            f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}, and {library} needs CUDA "
            f"{needed}.0: update the driver"
        )
    return ""


def driver_devices() -> int | None:
    """Return how many devices CUDA lists for this process; None if the driver reports no number."""
    try:
        driver = ctypes.CDLL(_DRIVER_LIBRARY)
        if failed := driver.cuInit(0):
            return 0 if failed == _NO_DEVICE else None
        count = ctypes.c_int(0)
        return None if driver.cuDeviceGetCount(ctypes.byref(count)) else count.value
    except (OSError, AttributeError):  # no driver, or another library of the same name
        return None


def absence(device: str, count: int) -> str:
    """Return a message that CUDA does not list a device; empty if it does.

    Args:
        device: `cuda:<index>`.
        count: how many devices CUDA lists; they are numbered from 0.
    """
    if int(device.removeprefix("cuda:")) < count:
        return ""
    listed = (
        "no device"
        if not count
        else "cuda:0 alone"
        if count == 1
        else f"cuda:0 to cuda:{count - 1}"
    )
    return f"there is no {device}: CUDA lists {listed}{_visible()}"


def _visible() -> str:
    """Return the value of CUDA_VISIBLE_DEVICES as the end of a sentence; empty if it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible!r:.200}"


def _unlisted(count: int) -> str:
    """Return a message that CUDA lists fewer devices than the environment names; empty if not."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = takewhile(lambda name: not name.startswith("-"), map(str.strip, visible.split(",")))
    if not visible.strip() or (names := len(list(named))) <= count:
        return ""
    return (
        f"CUDA lists {count} of the {names} devices that CUDA_VISIBLE_DEVICES names: it stops at "
        "the first that is unknown, and of slices of cards (MIG) a process has one"
    )


def torch_devices() -> tuple[list[str], str]:
    """Return the devices that torch can use, and why it cannot use the others.

    Returns:
        `cuda:<index>` of each usable device; and the reasons, empty if all devices are usable.
    """
    cards, problem = _torch_cards()
    usable = [device for device, reason in cards.items() if not reason]
    reasons = [problem, *cards.values(), _unlisted(len(cards)) if cards else ""]
    return usable, "; ".join(filter(None, reasons))


def torch_problem(device: str) -> str:
    """Return why torch cannot compute on `cuda:<index>`; empty if it can."""
    cards, problem = _torch_cards()
    return problem or cards.get(device, absence(device, len(cards)))


def _torch_cards() -> tuple[Mapping[str, str], str]:
    """Return, for each device, why torch cannot use it, and why there is no device at all.

    Each reason is empty if there is no problem.
    """
    import torch

    if problem := driver_problem(f"torch {torch.__version__}", torch.version.cuda):
        return {}, problem
    with warnings.catch_warnings(record=True) as caught:  # torch's reasons, in several lines
        warnings.simplefilter("always")
        count, failed = 0, ""
        if torch.cuda.is_available():
            try:
                torch.cuda.init()  # until then torch counts cards, not their slices (MIG)
                count = torch.cuda.device_count()
            except RuntimeError as error:
                failed = str(error)
    if not count:
        failed = failed or (str(caught[-1].message) if caught else "the driver lists none")
        reason = " ".join(failed.split()) + _visible()
        return {}, f"torch {torch.__version__} finds no CUDA device ({reason})"
    return {f"cuda:{index}": _card_problem(index) for index in range(count)}, ""


def _card_problem(index: int) -> str:
    """Return why torch cannot compute on a card: an error, or missing kernels; empty if it can."""
    import torch

    try:
        major, minor = torch.cuda.get_device_capability(index)
    except (RuntimeError, AssertionError) as error:
        return f"cuda:{index} fails ({' '.join(str(error).split())})"
    kernels = torch.cuda.get_arch_list()
    # Machine code (sm) runs on cards of the same major version and the same or a later minor
    # version, with the suffix `a` only on the same minor version. PTX (compute) runs on all later
    # cards.
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
