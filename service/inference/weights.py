"""The weights of the models, which the operating system applies as priorities of their threads.

A thread of a higher niceness gets less of a busy core, 0.8 times as much for each step (Linux,
`man 7 sched`), and all of an idle one. The threads of a session of ONNX Runtime take the niceness
of the thread that opens it, those of torch (OpenMP) the niceness of the thread whose batches they
compute. Batches on the event loop are too short to share a core by.
"""

import math
import os
import sys
import threading
from collections.abc import Mapping
from functools import cache

from service.telemetry.logs import logger

_STEP = 1.25  # how much more of a core a thread gets for each step of niceness
_MOST = 19


def niceness(weights: Mapping[str, float], name: str) -> int:
    """Return the niceness of a model's threads: 0 for the models of the largest weight, up to 19.

    Args:
        weights: of models by name; 1 for those that are not in it.
        name: of the model.
    """
    largest = max(1.0, *weights.values()) if weights else 1.0
    return min(round(math.log(largest / weights.get(name, 1.0), _STEP)), _MOST)


def add_niceness(steps: int) -> None:
    """Add to the niceness of this thread, and of the threads that it starts. Linux only.

    A sandbox may forbid it: then the models are served without weights, and the log says so.
    """
    if steps and sys.platform == "linux":
        thread = threading.get_native_id()
        try:
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness + steps, _MOST))
        except OSError as error:
            _warn(error.strerror or type(error).__name__)


@cache
def _warn(reason: str) -> None:
    logger.warning("FITSERVE_MODEL_WEIGHTS has no effect: priorities cannot be set (%s)", reason)
