"""Subnormal floats count as zero while a network computes.

x86 processors compute subnormals (for FP32, numbers below 1.2e-38) in microcode: a batch of them
took up to 27 times as long as others. A request with such numbers would slow down its neighbours.
"""

import ctypes
import platform
import sys
from types import TracebackType
from typing import Any

_Modes = ctypes.c_uint32 * 2  # glibc's femode_t, which has 8 bytes on x86-64 and 4 on aarch64


def _control() -> tuple[Any, Any, int, int] | None:
    """Return glibc's fegetmode and fesetmode, the index of the register, and its bits to set.

    None where the layout of the modes is unknown. The functions hold Python's lock (`PyDLL`):
    another thread that waits for the lock would otherwise take it, for milliseconds.
    """
    layouts = {
        "x86_64": (1, 0x8040),  # MXCSR, after the control word of the x87: FTZ and DAZ
        "aarch64": (0, 1 << 24),  # FPCR: FZ
    }
    if sys.platform != "linux" or platform.machine() not in layouts:
        return None
    try:
        library = ctypes.PyDLL("libm.so.6")
        return library.fegetmode, library.fesetmode, *layouts[platform.machine()]
    except (OSError, AttributeError):  # not glibc, or before 2.25
        return None


_CONTROL = _control()

SUPPORTED = _CONTROL is not None
"""Whether `FlushToZero` has an effect here: on Linux with glibc, x86-64 and aarch64."""


class FlushToZero:
    """A block in which subnormal inputs and results of float operations are zero.

    It applies to this thread, and to the threads that are started in the block: a thread of Linux
    starts with the modes of its creator. Afterwards this thread has its earlier modes, because
    Python and its libraries expect subnormals.
    """

    __slots__ = ("_modes", "_saved")

    def __enter__(self) -> None:
        if _CONTROL is not None:
            get_modes, set_modes, register, bits = _CONTROL
            self._modes = _Modes()
            get_modes(self._modes)
            self._saved = self._modes[register]
            self._modes[register] = self._saved | bits
            set_modes(self._modes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _CONTROL is not None:
            _, set_modes, register, _ = _CONTROL
            self._modes[register] = self._saved
            set_modes(self._modes)
