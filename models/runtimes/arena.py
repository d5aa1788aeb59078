"""The arena: memory of a limited size for networks whose requests decide how much they take.

ONNX Runtime allocates the tensors of a computation in an arena. By default each session has its own
arena without a limit, which keeps the memory of the largest computation. The sessions that
`bound_session` prepares share one arena with a limit, which keeps little between computations. A
computation that does not fit fails alone, with a `MemoryLimitError`.

Weights are not in the arena.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.runtimes.onnx_library import load_onnxruntime

LONG_SECONDS = 0.002
"""A shorter computation touches a few megabytes at most."""

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\t\x12'
    b"\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\t\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX file, `y = Identity(x)` of one BOOL, without the package `onnx`, which a server lacks."""


class MemoryLimitError(MemoryError):
    """A computation that does not fit into the arena.

    Attributes:
        limit_bytes: the size of the arena.
        is_alone: whether nothing else was computed in the arena meanwhile, so that the computation
            will not fit later either.
    """

    def __init__(self, limit_bytes: int, *, is_alone: bool) -> None:
        super().__init__(f"the computation takes more than {limit_bytes // 2**20:,} MiB of memory")
        self.limit_bytes = limit_bytes
        self.is_alone = is_alone


class Arena:
    """The arena of the sessions that were made since `limit_arena` was called.

    Args:
        limit_bytes: the size.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._active = 0
        self._begun = 0
        self._is_extended = False  # whether it may hold much that no computation needs
        self._release = _releasing_run()

    def compute(self, run: Callable[[], list[NDArray[Any]]]) -> list[NDArray[Any]]:
        """Return the outputs of a computation. A lack of memory becomes a `MemoryLimitError`.

        A long computation may have allocated a large block, of which an output takes a part, and
        which ONNX Runtime keeps as long as that: such an output is copied.
        """
        start = time.monotonic()
        with self.computing():
            outputs = run()
            if time.monotonic() - start >= LONG_SECONDS:
                self._is_extended = True
            if self._is_extended:
                outputs = [output.copy() for output in outputs]
        return outputs

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the block as a computation. A lack of memory becomes a `MemoryLimitError`.

        The last of several computations returns the memory.
        """
        with self._lock:
            self._active += 1
            self._begun += 1
            begun, is_alone = self._begun, self._active == 1
        try:
            yield
        except Exception as error:
            self._is_extended = True
            if "smaller than requested bytes" not in str(error):
                raise
            is_alone = is_alone and begun == self._begun
            raise MemoryLimitError(self.limit_bytes, is_alone=is_alone) from error
        finally:
            with self._lock:
                self._active -= 1
                if self._is_extended and not self._active:
                    self._release()
                    self._is_extended = False


_arena: Arena | None = None


def limit_arena(limit_bytes: int) -> None:
    """Make an arena of this size for the bounded sessions that are made from now on."""
    global _arena
    library = load_onnxruntime()
    cpu = library.OrtMemoryInfo(
        "Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT
    )
    config = library.OrtArenaCfg({
        "max_mem": limit_bytes,
        "arena_extend_strategy": 1,  # kSameAsRequested: the default doubles each time
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    })  # fmt: skip
    library.create_and_register_allocator(cpu, config)
    _arena = Arena(limit_bytes)


def current_arena() -> Arena | None:
    """Return the arena for new bounded sessions; None if no limit was set."""
    return _arena


def bound_session(options: Any) -> None:
    """Let a session with these options allocate in the arena, except for its weights."""
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")


def run_options() -> Any:
    """Return the options of a computation that returns the arena's memory at its end.

    Between large blocks that are kept, larger ones would not fit.
    """
    options = load_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _releasing_run() -> Callable[[], None]:
    """Return a computation that allocates nothing, and so returns all memory that is not in use."""
    library = load_onnxruntime()
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    bound_session(options)
    session = library.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", library.OrtValue.ortvalue_from_numpy(np.array([True])))
    binding.bind_ortvalue_output("y", library.OrtValue.ortvalue_from_numpy(np.array([True])))
    return partial(session.run_with_iobinding, binding, run_options())
