"""Record locks on the listening socket, which show whether another process still serves it.

All workers and the supervisor share one listening socket. Each worker holds a lock on it while it
accepts connections, and the supervisor until the server ends, so the kernel knows which process is
the last, even after another one was killed. Only the last process shuts the socket down: the kernel
refuses later connections at once, and their clients can try another server. If a worker ends alone,
connections wait for its successor instead.

Only Linux supports such locks on sockets. On other systems the socket is never shut down, as with
uvicorn.
"""

import socket
import sys
from contextlib import suppress

if sys.platform != "win32":
    import fcntl


def hold_lock(shared: socket.socket) -> None:
    """Hold a lock on the socket until `release_lock`, or until this process ends."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.lockf(shared, fcntl.LOCK_SH | fcntl.LOCK_NB)


def release_lock(shared: socket.socket) -> None:
    """Release the lock of this process."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.lockf(shared, fcntl.LOCK_UN)


def close_if_last(shared: socket.socket) -> list[socket.socket]:
    """Release the lock; shut the socket down if no other process holds one.

    Returns:
        The connections that were pending until then.
    """
    last: list[socket.socket] = []
    if sys.platform == "win32":
        return last
    with suppress(OSError):
        release_lock(shared)
        fcntl.lockf(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shared.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection, _ = shared.accept()
                last.append(connection)
        shared.shutdown(socket.SHUT_RDWR)
    return last
