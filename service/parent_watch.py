"""End a worker when its parent, the supervisor, ends.

A worker whose parent was killed would continue to serve and hold the port, and nothing would
replace or stop it. `bentoml serve` therefore starts each worker with this file as its program,
followed by the module to run: the watch begins before BentoML, the libraries and the models are
loaded.

On Linux the kernel signals the end of the parent; on every system a thread checks for it too. A
worker that serves may then respond for `LAST_SECONDS`, or for `STALLED_SECONDS` if a library blocks
the interpreter; a worker that does not serve yet ends at once. This file imports nothing of the
service, since it runs before everything else.
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
"""The environment variable with the process ID of `bentoml serve`, set for its workers."""

CHECK_SECONDS = 0.25
LAST_SECONDS = 1.25
"""How long a worker may run without its parent; with the check before, less than 2 s."""
STALLED_SECONDS = int(signal.SIGHUP) if sys.platform != "win32" else 1
"""The same if Python does not run. The value is also a signal number, see `end_soon`."""

_PR_SET_PDEATHSIG = 1


def is_worker() -> bool:
    """Return whether `bentoml serve` started this process as a worker."""
    return PARENT in os.environ


def is_gone() -> bool:
    """Return whether the parent has ended: the process then has another one, except on Windows."""
    return is_worker() and os.getppid() != int(os.environ[PARENT])


def end_at_once() -> None:
    """Let the kernel kill this process when its parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_soon() -> None:
    """Let the kernel end this process shortly after its parent (Linux only)."""
    if sys.platform == "linux" and is_worker():
        # A signal handler is called with the signal's number, and `alarm` takes seconds. With
        # `alarm` as the handler of SIGHUP, which is 1, the kernel ends this process one second
        # after the signal, without running Python.
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGHUP, libc.alarm)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)


def _follow() -> None:
    """End this process shortly after its parent, whatever it is doing."""
    while not is_gone():
        time.sleep(CHECK_SECONDS)
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # replaces the alarm of `end_soon`
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(1)


def main() -> None:
    """Run the module that the command line names in this process."""
    end_at_once()  # the server calls `end_soon` when it has started
    threading.Thread(target=_follow, name="parent", daemon=True).start()
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
