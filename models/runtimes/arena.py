"""The arena: memory of a limited size for networks whose requests decide how much they take.

ONNX Runtime allocates the tensors of a computation in an arena. By default each session has its own
arena without a limit, which keeps the memory of the largest computation. The sessions that
`bound_session` prepares share one arena with a limit, which keeps no memory between computations. A
computation that does not fit fails alone, with a `MemoryLimitError`.

Weights are not in the arena.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from models.runtimes.onnx_library import load_onnxruntime


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

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the block as a computation. A lack of memory becomes a `MemoryLimitError`."""
        with self._lock:
            self._active += 1
            self._begun += 1
            begun, is_alone = self._begun, self._active == 1
        try:
            yield
        except Exception as error:
            if "smaller than requested bytes" not in str(error):
                raise
            is_alone = is_alone and begun == self._begun
            raise MemoryLimitError(self.limit_bytes, is_alone=is_alone) from error
        finally:
            with self._lock:
                self._active -= 1


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
