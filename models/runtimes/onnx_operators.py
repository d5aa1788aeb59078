"""Whether an ONNX file names an operator, read without the package `onnx`, which no service has.

A file is a message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding). Its
weights, which may be gigabytes, are skipped.
"""

from collections.abc import Iterable, Iterator

GRAPH = 7
"""The field of the graph in an ONNX file."""
WEIGHTS = (5, 15)
"""The fields of the constants in a graph, dense and sparse."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def names_any(content: bytes, operators: Iterable[str]) -> bool:
    """Return whether an ONNX file names one of the operators.

    In a file, the name of an operator is field 4: a tag, the length and the name. Other text may
    look the same; the file then counts as naming the operator, and so may one that is not valid.
    """
    names = [b"\x22%c%b" % (len(name), name.encode()) for name in operators]
    return any(name in part for part in _without_weights(content) for name in names)


def _without_weights(content: bytes) -> Iterator[bytes]:
    """Yield the fields of an ONNX file, those of its graph one by one, without the weights."""
    try:
        parts = []
        for field, start, end in _fields(content, 0, len(content)):
            if field != GRAPH:
                parts.append(content[start:end])
                continue
            for inner, inner_start, inner_end in _fields(content, start, end):
                if inner not in WEIGHTS:
                    parts.append(content[inner_start:inner_end])
    except (IndexError, ValueError):
        parts = [content]
    yield from parts


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each field of a message, and where its value starts and ends.

    Raises:
        IndexError, ValueError: the message is not valid.
    """
    while start < end:
        tag, start = _varint(content, start)
        field, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, start = _varint(content, start)
        elif kind == _VARINT:
            size = _varint(content, start)[1] - start
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}")
        if start + size > end:
            raise ValueError("a field that is longer than its message")
        yield field, start, start + size
        start += size


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """Return a number of variable length, and where the next value starts."""
    value = shift = 0
    while True:
        byte = content[start]
        value |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return value, start
        shift += 7
