"""The folder in which the workers of one server count: made for this server, and removed with it.

Two servers that shared a folder would show each other's requests, and the second would clear what
the first has counted. A server that is killed leaves its folder behind. So each holds a lock on its
own, which the kernel releases with the last of the server's processes: what nobody holds is removed
when the next server starts.
"""

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from service.telemetry.logs import logger

if sys.platform != "win32":
    import fcntl

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's variable: to a worker, its server's folder.

An operator who sets it for `bentoml serve` says where that folder is to be made; by default it is
among the temporary files.
"""

PREFIX = "fitserve-metrics-"


class CountsFolder:
    """A new, empty folder that this user alone can read (0700), until `remove`.

    Args:
        place: the folder to make it in, which is made too if it is missing.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place)
        while True:  # until no other server took it for a leftover before it was locked
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            self._lock = _lock(self.path, wait=True)
            if self.path.exists():
                break
            self._unlock()
        if self._lock is not None:
            os.set_inheritable(self._lock, True)  # workers that outlive this process need it too

    def remove(self) -> None:
        """Remove it with all that was counted in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def place_of_folder() -> Path:
    """Where a server's folder is to be made.

    Raises:
        OSError: there is no folder for temporary files.
    """
    chosen = os.environ.get(FOLDER)
    return Path(chosen or tempfile.gettempdir()).absolute()


def ensure_temporary_folder(*others: Path) -> None:
    """Have this process and its workers use another folder where the usual ones cannot be written.

    Args:
        others: folders to try.

    Raises:
        SystemExit: none of them can be written to.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        for place in (*others, Path("/dev/shm")):  # noqa: S108 - as a folder for temporary files
            if os.access(place, os.W_OK | os.X_OK):
                os.environ["TMPDIR"] = str(place)
                logger.warning("no folder for temporary files can be written to but %s", place)
                return
        raise SystemExit(
            "error: no folder for temporary files can be written to; set TMPDIR to one that can"
        ) from None


def _remove_leftovers(place: Path) -> None:
    """Remove the folders of this user's servers that have ended."""
    for folder in place.glob(f"{PREFIX}*"):
        lock = _lock(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """The descriptor that holds a folder's lock; None where it cannot be had."""
    if sys.platform == "win32":  # which has no such locks
        return None
    with suppress(OSError):  # it is another user's, no folder, or gone
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.getuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                return descriptor
        except OSError:  # another process has it, or the file system knows no locks
            pass
        os.close(descriptor)
    return None
