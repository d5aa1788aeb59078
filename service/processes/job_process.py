"""The processes that run jobs: a server that forks, and its children, which run one job at a time.

The server imports the modules of the jobs, and has no network, no thread and no client. It forks a
child in milliseconds. A child is limited in memory and in processor time.

Run as `python -m service.processes.job_process CONTROL MEMORY MODULE...`. CONTROL is the descriptor
of a socket: each descriptor that arrives there is the connection of a new child, which may take
MEMORY bytes more than the server. The modules are imported once, before the first child.
"""

import gc
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.errors import ServiceError
from service.parent_watch import end_at_once
from service.processes.messages import PREFIX, PROCESS_ID, lengths, pack, unpack

NICENESS = 5
"""The event loop of the worker comes first."""

KEPT_BYTES = 64 * 2**20
"""A child that took this much memory for a job ends after it, so that the memory is free."""


def main() -> None:
    """Fork a child for each connection, until the worker closes the control socket or ends."""
    end_at_once()
    # Ctrl-C and SIGTERM may be sent to all processes. They are for the worker, which may finish its
    # requests first; this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes children that have ended
    control, memory_bytes = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for name in sys.argv[3:]:
        importlib.import_module(name)
    os.nice(NICENESS)
    gc.freeze()  # the collector would write to memory that the children share
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        connection = socket.socket(fileno=descriptors[0])
        try:
            process_id = os.fork()
        except OSError:  # no memory, or too many processes: only this job fails
            with suppress(ConnectionError):
                connection.sendall(PROCESS_ID.pack(0))
            connection.close()
            continue
        if process_id == 0:
            control.close()
            end_at_once()
            _limit_memory(memory_bytes)
            with suppress(ConnectionError):  # the worker no longer waits for the job
                run_jobs(connection)
            os._exit(0)
        connection.close()


def run_jobs(connection: socket.socket) -> None:
    """Run the jobs that arrive, one after another, until the worker closes the connection."""
    connection.sendall(PROCESS_ID.pack(os.getpid()))
    peak_bytes, is_last = _peak_bytes(), False
    while not is_last and (job := _receive(connection)) is not None:
        seconds, function, arguments, keywords = job
        # The signal ends the process, whatever runs: a handler would wait for the end of a decoder.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            outcome = True, function(*arguments, **keywords)
        except BaseException as error:  # noqa: BLE001 - the worker raises it
            outcome = False, _picklable(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = _peak_bytes() - peak_bytes > KEPT_BYTES
        for part in pack((is_last, *outcome)):
            connection.sendall(part)
        del job, arguments, keywords, outcome


def _receive(connection: socket.socket) -> Any:
    """Return the next message; None after the last one."""
    prefix = _read(connection, PREFIX.size)
    if prefix is None:
        return None
    count, size = PREFIX.unpack(prefix)
    sizes = lengths(count).unpack(_read(connection, lengths(count).size) or b"")
    pickled, *buffers = (_read(connection, size) or bytearray() for size in (size, *sizes))
    return unpack(pickled, buffers)


def _read(connection: socket.socket, size: int) -> bytearray | None:
    """Return the next bytes; None if the connection ends before."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data


def _picklable(error: BaseException) -> BaseException:
    """Return the error; an unexpected one has its traceback as text, which a pickle would lose.

    If memory was short, the error is a MemoryError, whatever the library raised: orjson raises a
    SystemError.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return MemoryError()
    if not isinstance(error, Exception):
        return RuntimeError(repr(error))
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pack(error)
    except Exception:  # noqa: BLE001 - an error of any library
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _limit_memory(more_bytes: int) -> None:
    """Limit the memory of this process to what it has and `more_bytes`.

    If the memory of the machine is short, the kernel ends this process before the worker.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _peak_bytes() -> int:
    """Return the most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
