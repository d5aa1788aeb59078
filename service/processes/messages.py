"""Messages between a worker and its job processes: pickled objects, with large buffers beside them.

Arrays, and bytes in a `Whole`, are neither copied into the pickle nor out of it. A socket pair
connects the two processes, which both belong to this program.
"""

import pickle
import struct
from collections.abc import Sequence
from typing import Any

PREFIX = struct.Struct("<II")
"""The number of buffers, and the length of the pickle; the lengths of the buffers follow."""

PROCESS_ID = struct.Struct("<I")
"""The first bytes from a job process; 0 if the system can start no process."""


class Whole:
    """Bytes that are moved and not copied. They arrive as a `bytearray`.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        """Return how they arrive; called by pickle."""
        return _received, (pickle.PickleBuffer(self._data),)


def _received(buffer: Any) -> Any:
    """Return the received `bytearray`; if the bytes were immutable, pickle gives a view of it."""
    return buffer.obj if isinstance(buffer, memoryview) else buffer


def pack(content: object) -> list[memoryview]:
    """Return the parts of the message with `content`, to be sent one after another."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    prefix = PREFIX.pack(len(parts), len(pickled)) + lengths(len(parts)).pack(*map(len, parts))
    return [memoryview(prefix), memoryview(pickled), *parts]


def lengths(count: int) -> struct.Struct:
    """Return the format of the lengths of `count` buffers."""
    return struct.Struct(f"<{count}Q")


def unpack(pickled: bytearray, buffers: Sequence[bytearray]) -> Any:
    """Return the content of a message."""
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 - from this program's own process
