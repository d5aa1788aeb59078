"""Runs a command in a child process: a network may end the process that computes it.

ONNX Runtime and TorchScript are C++: a graph that they cannot compute may end the process without
an exception. The parent process is left to report it.
"""

import os
import signal
import sys
from collections.abc import Callable

from models.interrupts import INTERRUPTED

FAILED = 1


def run_in_child(command: Callable[[], int]) -> int:
    """Run `command` in a child process and return its exit code.

    Where processes cannot fork (Windows), it runs in this process.

    Returns:
        The exit code of `command`; 130 after Ctrl-C; or 1 if a signal ended the child, which is
        reported on standard error.
    """
    if sys.platform == "win32":
        return command()
    child = os.fork()
    if child == 0:
        return command()
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    while True:
        try:
            _, status = os.waitpid(child, 0)
        except KeyboardInterrupt:  # Ctrl-C reaches both; a signal to this process, only this one
            os.kill(child, signal.SIGINT)
        else:
            break
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    ended_by = signal.Signals(os.WTERMSIG(status))
    if ended_by == signal.SIGINT:
        return INTERRUPTED
    sys.stderr.write(f"error: {_reason(ended_by)}\n")
    return FAILED


def _reason(ended_by: signal.Signals) -> str:
    if ended_by in (signal.SIGKILL, signal.SIGTERM):
        return (
            f"{ended_by.name} ended the process that computes the network; the system sends "
            "SIGKILL if the memory is full"
        )
    return (
        f"the network ended the process that computes it ({ended_by.name}), and would end a "
        "server too: its runtime has a defect in one of the operators; export the network with "
        "another opset, or without that operator"
    )
