"""The folders of one server, each removed with the server; its workers count in the first.

Two servers with one folder would report each other's requests, and the second would delete the
counts of the first. A server that is killed leaves its folder behind. Each server therefore locks
its folder; the kernel releases the lock with the last process of the server. The next server
removes folders that are not locked.
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
"""prometheus_client's environment variable: the folder of the worker's server.

If it is set for `bentoml serve`, the folder is created inside the given one, otherwise inside the
folder for temporary files.
"""

METRICS = "fitserve-metrics-"
ADMIN = "fitserve-admin-"


class ServerFolder:
    """A new, empty folder that only this user can read (0700), until `remove`.

    Args:
        place: the parent folder, which is created if missing.
        kind: how its name begins, `METRICS` or `ADMIN`.

    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(self, place: Path, kind: str = METRICS) -> None:
        place.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place, kind)
        while True:  # retried if another server removed it before it was locked
            self.path = Path(tempfile.mkdtemp(prefix=kind, dir=place))
            self._lock = _lock(self.path, wait=True)
            if self.path.exists():
                break
            self._unlock()
        if self._lock is not None:
            os.set_inheritable(
                self._lock, True
            )  # workers that outlive this process hold the lock too

    def remove(self) -> None:
        """Remove the folder and what it contains."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def place_of_folder() -> Path:
    """Return the parent folder for metrics folders.

    Raises:
        OSError: there is no folder for temporary files.
    """
    chosen = os.environ.get(FOLDER)
    return Path(chosen or tempfile.gettempdir()).absolute()


def ensure_temporary_folder(*others: Path) -> None:
    """Set `TMPDIR` to another folder if the usual ones are not writable.

    Args:
        others: folders to try.

    Raises:
        SystemExit: no folder is writable.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        for place in (*others, Path("/dev/shm")):  # noqa: S108 - a folder for temporary files
            if os.access(place, os.W_OK | os.X_OK):
                os.environ["TMPDIR"] = str(place)
                logger.warning("the only writable folder for temporary files is %s", place)
                return
        raise SystemExit(
            "error: no folder for temporary files is writable; set TMPDIR to one that is"
        ) from None


def _remove_leftovers(place: Path, kind: str) -> None:
    """Remove the folders of this kind of this user's servers that have ended."""
    for folder in place.glob(f"{kind}*"):
        lock = _lock(folder, wait=False)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Return a descriptor that holds the lock of a folder; None if the lock is not available."""
    if sys.platform == "win32":  # Windows has no such locks
        return None
    with suppress(OSError):  # another user's, not a folder, or removed
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.getuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                return descriptor
        except OSError:  # locked by another process, or the file system has no locks
            pass
        os.close(descriptor)
    return None
