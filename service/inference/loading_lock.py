"""The lock with which the workers of one server load models on a shared GPU one after another.

While a worker loads, it takes memory for runtimes that it tries and discards. A worker that loads
at the same time would miss that memory: it would leave a runtime out, or take smaller batches, for
good. The timing of a runtime would also be wrong.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.telemetry.logs import logger
from service.telemetry.multiprocess_folder import FOLDER

if sys.platform != "win32":
    import fcntl

_RETRY_SECONDS = 0.02


@contextmanager
def loading_lock(device: str, seconds: float) -> Iterator[None]:
    """Hold the lock of a GPU while a model is loaded.

    On a CPU, and without a folder that the workers share, there is no lock.

    Args:
        device: `cpu` or `cuda:<index>`.
        seconds: the longest wait. After it, the model is loaded without the lock, with a warning.
    """
    folder = os.environ.get(FOLDER)
    with ExitStack() as stack:
        if sys.platform != "win32" and folder and device != "cpu":
            try:
                # The kernel releases the lock when this process ends, however it ends.
                name = f"loading-{device.replace(':', '-')}"
                _wait(stack.enter_context((Path(folder) / name).open("ab")).fileno(), seconds)
            except OSError as error:
                logger.warning(
                    "models are loaded on %s while other workers load too: %s", device, error
                )
        yield


if sys.platform != "win32":

    def _wait(descriptor: int, seconds: float) -> None:
        """Wait for the lock on a file.

        Raises:
            OSError: the wait was too long, or the file system has no locks.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"one of them has loaded for {seconds:g} s") from None
            else:
                return
            time.sleep(_RETRY_SECONDS)
