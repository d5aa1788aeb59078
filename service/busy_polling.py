"""Busy polling: the event loop stays awake for a client that asks again at once.

A core that sleeps takes a good part of a small prediction's time to wake, above all in a virtual
machine, and a client that sends one request after the other waits for it each time. So where a
request came alone and soon after the last answer, the loop looks for the next one for a moment
before it sleeps. KVM, ONNX Runtime's threads and HAProxy do so for the same reason.
"""

import asyncio
import math
import time


class BusyPolling:
    """Keeps an event loop awake. Create it and use it on that loop.

    Args:
        seconds: how long after an answer the loop stays awake, where the last request came within
            so long of the answer before it; 0 lets it always sleep.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._answered = -math.inf
        self._until = 0.0
        self._awake = False

    def answered(self, seconds: float) -> None:
        """A request that came alone, so many seconds ago, has just been answered."""
        now = time.monotonic()
        came_soon = now - seconds - self._answered < self._seconds
        self._answered = now
        if came_soon:
            self._until = now + self._seconds
            if not self._awake:
                self._awake = True
                self._loop.call_soon(self._stay)

    def _stay(self) -> None:
        self._awake = time.monotonic() < self._until
        if self._awake:
            # With a callback to call, the loop looks at its sockets and does not wait for them.
            self._loop.call_soon(self._stay)
