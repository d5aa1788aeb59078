"""The thread that computes a batcher's batches, one at a time, and can be replaced if one hangs.

A batch goes to the thread through a queue and comes back with one `call_soon_threadsafe`, so it
costs one wake-up each way, whatever its size. All state belongs to the event loop.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

from service.batch import Arrays, Part, Timings
from service.errors import ServiceError


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
        self._batch: Sequence[Part] = ()
        self._since = 0.0
        self._stopped = asyncio.Event()
        self.busy = False
        """Whether it computes, or was told to stop."""
        self.given_up = 0
        """How many computes were given up; until they end, each holds a thread."""
        self._hire()

    def compute(self, batch: Sequence[Part]) -> None:
        """Compute a batch; an empty one ends the thread. It must not be busy."""
        self.busy, self._batch, self._since = True, batch, time.monotonic()
        self._inbox.put(batch)

    def give_up_after(self, seconds: float) -> Sequence[Part]:
        """The batch that has been computed for so long, which is given up; empty where none has.

        The thread is left to itself, since Python cannot end one, and another takes its place.
        """
        if not self._batch or time.monotonic() - self._since < seconds:
            return ()
        lost, self._batch, self.busy = self._batch, (), False
        self.given_up += 1
        self._inbox.put(())  # should it ever come back, it ends
        self._hire()
        return lost

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
        if computed.batch is self._batch:  # else it was given up
            self._batch, self.busy = (), False
            self._finished(computed)
