"""Ties a worker to its parent, the process that replaces and ends it.

A worker whose parent was killed would serve on, where nobody replaces or ends it, and hold the
port. `bentoml serve` starts each worker with this file as its program, followed by the module to
run: so the tie holds from the first moment, also while BentoML, the libraries and the models are
loaded.

On Linux the kernel tells a worker of its parent's end; elsewhere, and beside it, a thread looks. A
worker that serves may then answer what it can for `LAST_SECONDS`, or for `STALLED_SECONDS` where a
library lets no Python run; one that does not serve yet ends at once. Nothing of the service is
imported here, since this runs before everything else.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

PARENT = "FITSERVE_PARENT"
"""The variable by which `bentoml serve` tells its workers its process's number."""

LOOK_SECONDS = 0.25
LAST_SECONDS = 1.25
"""How long a worker may go on without its parent; with the look before it, less than 2 s."""
STALLED_SECONDS = int(signal.SIGHUP) if sys.platform != "win32" else 1
"""How long it may go on where Python does not run; it is the number of a signal, as said below."""

_PR_SET_PDEATHSIG = 1


def is_worker() -> bool:
    """Whether this process was started by `bentoml serve` as one of its workers."""
    return PARENT in os.environ


def is_gone() -> bool:
    """Whether the parent has ended: this process has another one then, except on Windows."""
    return is_worker() and os.getppid() != int(os.environ[PARENT])


def end_at_once() -> None:
    """Have the kernel kill this process when its parent ends; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_soon() -> None:
    """Let this process go on for a short time when its parent ends."""
    if sys.platform == "linux" and is_worker():
        # A signal's handler is called with its number, and `alarm` takes seconds: so SIGHUP, which
        # is 1, has the kernel end this process one second later. No Python is needed for it.
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGHUP, libc.alarm)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)


def _follow() -> None:
    """End this process soon after its parent, whatever it is doing."""
    while not is_gone():
        time.sleep(LOOK_SECONDS)
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # in place of what `end_soon` set
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(1)


def main() -> None:
    """Run the module that the command line names, in this process."""
    end_at_once()  # the server asks for some time when it has started
    threading.Thread(target=_follow, name="parent", daemon=True).start()
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
