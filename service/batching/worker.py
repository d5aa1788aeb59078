"""The thread that computes a batcher's batches, one at a time, and can be replaced if one hangs.

A batch goes to the thread through a queue and comes back with one `call_soon_threadsafe`, so it
costs one wake-up each way, whatever its size. A second batch may lie ready in that queue: the
thread goes on with it while the event loop hands out the first. All state belongs to the event
loop.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from service.batching.batch import Arrays, Part, Timings
from service.errors import ServiceError

MOST_BATCHES = 2
"""One in compute, and one that lies ready."""


class Computed(NamedTuple):
    """A batch that was computed: an outcome for each part, and when its compute began."""

    batch: Sequence[Part]
    outcomes: list[Arrays | ServiceError]
    timings: Timings
    started: float


class Worker:
    """Computes on a thread of its own. Create it, use it and stop it on one event loop.

    Args:
        run: computes a batch, on the thread.
        finished: told of each batch, on the event loop.
        name: the thread's.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Part]], tuple[list[Arrays | ServiceError], Timings]],
        finished: Callable[[Computed], None],
        name: str,
    ) -> None:
        self._run = run
        self._finished = finished
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._batches: deque[Sequence[Part]] = deque()  # the one in compute, and those after it
        self._since = 0.0
        self._lost: list[threading.Thread] = []
        self._stopped = asyncio.Event()
        self._hire()

    @property
    def batches(self) -> int:
        """How many batches it has, of `MOST_BATCHES`; the wish that it ends counts as one."""
        return len(self._batches)

    @property
    def given_up(self) -> int:
        """How many computes were given up and still hold a thread."""
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        return len(self._lost)

    def compute(self, batch: Sequence[Part]) -> None:
        """Compute a batch, after those that it has; an empty one ends the thread."""
        if not self._batches:
            self._since = time.monotonic()
        self._batches.append(batch)
        self._inbox.put(batch)

    def give_up_after(self, seconds: float) -> list[Sequence[Part]]:
        """What it has, if the first has been computed for so long; empty where it has not.

        The first is given up and the other comes back as it was. The thread is left to itself,
        since Python cannot end one, and another takes its place.
        """
        if not any(self._batches) or time.monotonic() - self._since < seconds:
            return []
        given_back = list(self._batches)
        self._batches.clear()
        self._lost.append(self._thread)
        inbox = self._inbox
        self._hire()  # first, so that no end of the lost one is taken for the end of the worker
        with suppress(Empty):
            while True:
                inbox.get_nowait()
        inbox.put(())  # should it ever come back, it ends
        return given_back

    async def stopped(self) -> None:
        """Wait for the end that an empty batch brings."""
        await self._stopped.wait()
        self._thread.join()

    def _hire(self) -> None:
        self._inbox: SimpleQueue[Sequence[Part]] = SimpleQueue()
        # A daemon, so that a compute that never returns cannot keep the process alive.
        self._thread = threading.Thread(
            target=self._work, args=(self._inbox,), name=self._name, daemon=True
        )
        self._thread.start()

    def _work(self, inbox: SimpleQueue[Sequence[Part]]) -> None:
        """The thread."""
        with suppress(RuntimeError):  # the loop was closed: nobody is left to be answered
            while batch := inbox.get():
                started = time.monotonic()
                computed = Computed(batch, *self._run(batch), started)
                self._loop.call_soon_threadsafe(self._finish, computed)
                del batch, computed  # or an idle worker would keep the last one's arrays alive
            if inbox is self._inbox:
                self._loop.call_soon_threadsafe(self._stopped.set)

    def _finish(self, computed: Computed) -> None:
        if self._batches and computed.batch is self._batches[0]:  # else it was given up
            self._batches.popleft()
            self._since = time.monotonic()
            self._finished(computed)
