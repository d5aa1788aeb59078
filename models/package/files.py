"""Functions that open regular files only: no device, pipe or socket, and on request no link.

The type of a file is checked by its path before it is opened, and again by its descriptor, in case
the file was replaced in between. The size is known before the first byte is read.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its writer
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class FileError(Exception):
    """A file that cannot be read. The message is the reason, without the path."""


def open_file(path: Path, *, inside: Path | None = None) -> BufferedReader:
    """Open a regular file for reading.

    Args:
        path: the file.
        inside: a folder that holds `path`. No link below the folder is followed, so that the file
            is really inside.

    Raises:
        FileError: the file is missing, unreadable, or not a regular file.
    """
    try:
        if inside is not None:
            for parent in [*path.parents][: len(path.relative_to(inside).parts) - 1]:
                if stat.S_ISLNK(os.lstat(parent).st_mode):
                    raise FileError(f"its folder {parent.name} is a link: put the folder there")
        _require_regular(path.stat(follow_symlinks=inside is None))
        stream = os.fdopen(os.open(path, _FLAGS | (0 if inside is None else _NO_LINK)), "rb")
    except OSError as error:
        raise FileError(unreadable(error)) from error
    try:
        _require_regular(os.fstat(stream.fileno()))
    except FileError:
        stream.close()
        raise
    return stream


def size_of(stream: BufferedReader) -> int:
    """Return the size of an opened file, in bytes."""
    return os.fstat(stream.fileno()).st_size


def read_all(stream: BufferedReader, largest: int) -> bytes:
    """Return the content of an opened file.

    Raises:
        FileError: the file holds more than `largest` bytes, or cannot be read.
    """
    size = size_of(stream)
    if size > largest:
        raise FileError(f"it holds {size:,} bytes, more than the {largest:,} that are read")
    try:
        return stream.read(size)
    except OSError as error:
        raise FileError(unreadable(error)) from error
    except (MemoryError, OverflowError) as error:
        raise FileError(f"its {size:,} bytes do not fit into the memory") from error


def names_inside(folder: Path) -> set[str]:
    """Return all files below a folder, as relative paths with `/`. No link is followed.

    Raises:
        FileError: a folder cannot be read, or holds anything but files and folders.
    """

    def stop(error: OSError) -> None:
        raise error

    names = set()
    try:
        for parent, folders, files in os.walk(folder, onerror=stop):
            for name in (*folders, *files):
                path = Path(parent, name)
                mode = os.lstat(path).st_mode
                relative = path.relative_to(folder).as_posix()
                if stat.S_ISREG(mode):
                    names.add(relative)
                elif not stat.S_ISDIR(mode):
                    raise FileError(f"{relative!r} is {_kind(mode)}: put the file itself there")
    except OSError as error:
        raise FileError(unreadable(error)) from error
    return names


def unreadable(error: OSError) -> str:
    """Return why a file cannot be read, without the path that the error's message has."""
    return f"it cannot be read ({error.strerror or type(error).__name__})"


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"it is {_kind(status.st_mode)}: put the file itself there")


def _kind(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")
