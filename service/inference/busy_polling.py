"""Busy polling: keep the event loop awake for a client that sends its next request at once.

A sleeping core takes a large part of a small prediction's time to wake up, above all in a virtual
machine, and a client that sends one request after another waits for it each time. If a request
arrived alone and soon after the last response, the loop therefore polls for the next one for a
moment before it sleeps. KVM, ONNX Runtime's threads and HAProxy do so for the same reason.
"""

import asyncio
import math
import time


class BusyPolling:
    """Keeps an event loop awake. Create and use it on that loop.

    Args:
        seconds: how long the loop stays awake after a response, if the last request arrived within
            the same time after the response before it; 0 lets the loop always sleep.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._answered = -math.inf
        self._until = 0.0
        self._awake = False

    def answered(self, seconds: float) -> None:
        """Note the response to a request that arrived alone `seconds` ago."""
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
            # With a callback pending, the loop polls its sockets without waiting.
            self._loop.call_soon(self._stay)
