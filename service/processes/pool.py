"""A pool of job processes: they run functions while the event loop of the worker continues.

Some work of one request would hold up all other requests: to parse large JSON, to expand a body, to
decode a picture, to write a large response. A thread would not help, as it shares the interpreter's
lock. A job process shares nothing with the worker, and its processor time and memory are limited.

The callers are served in round-robin order. The operating system shares the cores between the
processes, and a process with a long job has less priority, so a caller with long jobs does not hold
up those of another.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from service.errors import BodiesFullError, BodyTooLargeError, NotReadyError, ServiceError
from service.processes.fair_semaphore import FairSemaphore
from service.processes.messages import PREFIX, PROCESS_ID, lengths, pack, unpack
from service.shared_buffer import SharedBuffer

PER_CALLER = 2
"""Jobs of one caller at a time."""

IDLE_PROCESSES = 2
"""Idle processes that are kept; others end after their job."""

LONG_SECONDS = 0.05
"""A job that takes longer gets less priority."""

LONG_NICENESS = 15

PIECE_BYTES = 2**18
"""Messages are sent and received in pieces of at most this size, between other events."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class JobEndedError(Exception):
    """The process ended before its job did."""


class ProcessPool:
    """Processes that run jobs. Create, use and close it on one event loop.

    Args:
        modules: imported by the processes: those of the functions to run.
        cpu_seconds: the processor time that one job may take.
        max_bytes: the arguments of all jobs that wait or run; the callers share them.
        memory_bytes: the memory that one job may take.
        max_processes: the jobs at a time.
    """

    def __init__(
        self,
        modules: Sequence[str],
        *,
        cpu_seconds: float,
        max_bytes: int,
        memory_bytes: int,
        max_processes: int,
    ) -> None:
        self._modules = modules
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._buffer = SharedBuffer(max_bytes)
        self._closed = False
        self._slots = FairSemaphore(max_processes, PER_CALLER)
        self._idle: list[_JobProcess] = []
        self._server: _JobServer | None = None

    def start(self) -> "_JobServer":
        """Start the server of the processes; otherwise the first job does, and waits for it.

        Call this on the thread that lives as long as the process: the kernel ends the server
        together with the thread that started it.
        """
        self._server = _JobServer(self._memory_bytes, self._modules)
        return self._server

    async def run(
        self,
        caller: str,
        function: Callable[Parameters, Result],
        /,
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Result:
        """Return the result of a function of one of the modules, called in another process.

        Args:
            caller: who asked for the job; the callers are served in round-robin order.
            function: gets and returns what can be pickled.
            arguments: of the function; large bytes in a `Whole`, which is not copied.
            named: further arguments.

        Raises:
            NotReadyError: the pool is closed.
            BodiesFullError: the arguments of the jobs in progress take too much memory, or the
                system can start no process now.
            BodyTooLargeError: the job takes more time or memory than it may.
            ServiceError: the process ended for another reason.
            Exception: as the function raises.
        """
        parts = pack((self._cpu_seconds, function, arguments, named))
        size = sum(map(len, parts))
        if not self._buffer.take(caller, size):
            raise BodiesFullError("Too many large bodies are being read. Try again later.")
        try:
            async with self._slots.slot(caller):
                result: Result = await self._run(parts)
                return result
        finally:
            self._buffer.give_back(caller, size)

    async def close(self) -> None:
        """End the processes, and fail the jobs in progress."""
        self._closed = True
        for process in self._idle:
            process.end()
        self._idle.clear()
        if self._server is not None:
            await asyncio.to_thread(self._server.end)
            self._server = None

    async def _run(self, parts: Sequence[memoryview]) -> Any:
        if self._closed:
            raise _closed_error()
        loop = asyncio.get_running_loop()
        process = self._idle_process() or await self._start_process()
        started = loop.time()
        try:
            return await process.run(parts)
        except MemoryError:
            raise BodyTooLargeError(
                f"The request takes more than {self._memory_bytes / 2**20:,.0f} MiB of memory to "
                "read; send less at once."
            ) from None
        except JobEndedError as error:
            if self._closed:
                raise _closed_error() from None
            if loop.time() - started >= self._cpu_seconds:  # the signal of its timer
                raise BodyTooLargeError(
                    f"The request takes more than {self._cpu_seconds:g} seconds to read; send less "
                    "at once."
                ) from None
            raise ServiceError("The process that read this request ended.") from error
        finally:
            if process.is_reusable and len(self._idle) < IDLE_PROCESSES:
                self._idle.append(process)
            else:
                process.end()

    def _idle_process(self) -> "_JobProcess | None":
        """Return an idle process; those that have ended, as when memory is short, are dropped."""
        while self._idle:
            process = self._idle.pop()
            if process.is_alive():
                return process
            process.end()
        return None

    async def _start_process(self) -> "_JobProcess":
        """Start a process; if its server has ended, start another server first."""
        for _ in range(2):
            if self._closed:
                raise _closed_error()
            try:
                server = self._server or self.start()
                return await server.start_process()
            except (ConnectionError, EOFError):
                if self._server is server:  # otherwise another job has replaced it
                    self._server = None
            except OSError as error:  # too little memory, or too many processes or descriptors
                raise BodiesFullError(
                    "No process can be started for this request now. Try again later."
                ) from error
        raise ServiceError("No process could be started to read this request.")


def _closed_error() -> NotReadyError:
    return NotReadyError("The service is shutting down. Try again later.")


class _JobServer:
    """The process that forks the job processes (`job_process.py`)."""

    def __init__(self, memory_bytes: int, modules: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = ("-m", "service.processes.job_process", theirs.fileno(), memory_bytes)
            self._process = subprocess.Popen(  # noqa: S603 - this program
                [sys.executable, *map(str, command), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # One thread each: the processes share the cores.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    async def start_process(self) -> "_JobProcess":
        """Fork a process.

        Raises:
            ConnectionError, EOFError: this server has ended.
            OSError: the system can start no process now.
        """
        own_end, process_end = socket.socketpair()
        with process_end:
            socket.send_fds(self._control, [b"\0"], [process_end.fileno()])
        own_end.setblocking(False)
        try:
            (process_id,) = PROCESS_ID.unpack(await _read(own_end, PROCESS_ID.size))
            if process_id == 0:
                raise OSError("the process could not be forked")
            return _JobProcess(own_end, process_id)
        except BaseException:
            own_end.close()
            raise

    def end(self) -> None:
        """End the server and its processes, and wait for the server."""
        self._control.close()
        self._process.kill()
        self._process.wait()


class _JobProcess:
    """One process, which runs one job at a time.

    Args:
        connection: to the process.
        process_id: of the process.
    """

    def __init__(self, connection: socket.socket, process_id: int) -> None:
        self._connection = connection
        self._id = process_id
        self._running = False
        self.is_reusable = True

    def is_alive(self) -> bool:
        """Return whether the process, which is idle, waits for a job."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def run(self, parts: Sequence[memoryview]) -> Any:
        """Send a job; return its result or raise its error.

        Raises:
            JobEndedError: the process ended during the job.
        """
        loop, self._running, self.is_reusable = asyncio.get_running_loop(), True, False
        lower = loop.call_later(LONG_SECONDS, self._lower_priority)
        try:
            for part in parts:
                for start in range(0, len(part), PIECE_BYTES):
                    # Bytes, since CPython 3.11 crashes if the garbage collector meets a memoryview
                    # that the event loop still holds (https://github.com/python/cpython/issues/77894).
                    piece = bytes(part[start : start + PIECE_BYTES])
                    await loop.sock_sendall(self._connection, piece)
                    await asyncio.sleep(0)  # a socket that is ready does not suspend
            count, size = PREFIX.unpack(await _read(self._connection, PREFIX.size))
            sizes = lengths(count).unpack(await _read(self._connection, lengths(count).size))
            pickled, *buffers = [await _read(self._connection, size) for size in (size, *sizes)]
        except (OSError, EOFError) as error:
            raise JobEndedError from error
        finally:
            is_short = not lower.cancelled() and lower.when() > loop.time()
            lower.cancel()
        is_last, succeeded, result = unpack(pickled, buffers)
        self._running, self.is_reusable = False, is_short and not is_last
        if succeeded:
            return result
        try:
            raise result
        finally:
            del result  # the traceback holds this frame, which would hold the error and the job

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._connection.close()
        if self._running:  # otherwise it ends itself
            with suppress(OSError):
                os.kill(self._id, signal.SIGKILL)

    def _lower_priority(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._id, LONG_NICENESS)


async def _read(connection: socket.socket, size: int) -> bytearray:
    """Return the next bytes.

    Raises:
        EOFError: the connection ended before.
        OSError: the connection is broken.
    """
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(connection, min(size - len(data), PIECE_BYTES))
        if not piece:
            raise EOFError
        data += piece
        await asyncio.sleep(0)  # as above
    return data
