"""Subnormal floats count as zero while a network computes.

x86 processors compute subnormals (for FP32, numbers below 1.2e-38) in microcode: a batch of them
took up to 27 times as long as others. A request with such numbers would slow down its neighbours.
"""

import ctypes
import platform
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Modes = ctypes.c_uint32 * 2  # glibc's femode_t, which has 8 bytes on x86-64 and 4 on aarch64

_LAYOUTS = {
    "x86_64": (1, 0x8040),  # MXCSR, after the control word of the x87: FTZ and DAZ
    "aarch64": (0, 1 << 24),  # FPCR: FZ
}
"""By processor: the index of the control register in the modes, and its bits to set."""


def _ignore(_: Any) -> int:
    return 0


def _load() -> tuple[Callable[[Any], int], Callable[[Any], int], Any] | None:
    """Return glibc's fegetmode and fesetmode, and the modes of a block; None if unknown here.

    The functions hold Python's lock (`PyDLL`): another thread that waits for the lock would
    otherwise take it, for milliseconds.
    """
    if sys.platform != "linux" or platform.machine() not in _LAYOUTS:
        return None
    try:
        library = ctypes.PyDLL("libm.so.6")
        get_modes, set_modes = library.fegetmode, library.fesetmode
    except (OSError, AttributeError):  # not glibc, or before 2.25
        return None
    register, bits = _LAYOUTS[platform.machine()]
    modes = _Modes()
    get_modes(modes)
    modes[register] |= bits
    return get_modes, set_modes, modes


_LOADED = _load()

SUPPORTED = _LOADED is not None
"""Whether `FlushToZero` has an effect here: on Linux with glibc, x86-64 and aarch64."""

_get_modes, _set_modes, _FLUSHING = _LOADED or (_ignore, _ignore, None)


class FlushToZero:
    """A block in which subnormal inputs and results of float operations are zero.

    It applies to this thread, and to the threads that are started in the block: a thread of Linux
    starts with the modes of its creator. Afterwards this thread has its earlier modes, because
    Python and its libraries expect subnormals.

    An object can be entered again, which costs less than a new one. Threads may share it if their
    modes outside of blocks are the same.
    """

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = _Modes()

    def __enter__(self) -> None:
        _get_modes(self._saved)
        _set_modes(_FLUSHING)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _set_modes(self._saved)


def without_subnormals(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with zeros for the subnormal numbers of FP32 and FP64."""
    if array.dtype.kind != "f" or array.dtype.itemsize < 4:
        return array
    small = np.abs(array) < np.finfo(array.dtype).tiny
    return np.where(small, array.dtype.type(0), array) if small.any() else array
