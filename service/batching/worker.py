"""The thread that computes a batcher's batches one at a time, and is replaced if one hangs.

The thread starts with its first batch and ends when it has had none for a while, so that a server
of many models has threads only where there is work. A batch goes to the thread through a queue and
comes back with one `call_soon_threadsafe`: one wake-up in each direction, whatever its size. The
queue may hold a second batch, which the thread computes while the event loop unbatches the first.
All state belongs to the event loop.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from service.batching.batch import Arrays, Slice, Timings
from service.errors import ServiceError

MAX_IN_FLIGHT = 2
"""The batches that a worker may have: one in compute and one prefetched."""

IDLE_SECONDS = 60.0
"""A thread without a batch for this long ends."""


class ComputedBatch(NamedTuple):
    """A batch after its compute.

    Attributes:
        batch: its slices.
        outcomes: one for each slice.
        timings: in seconds.
        started: `time.monotonic` seconds when the compute began.
    """

    batch: Sequence[Slice]
    outcomes: list[Arrays | ServiceError]
    timings: Timings
    started: float


class Worker:
    """Computes batches on its own thread. Create, use and stop it on one event loop.

    Args:
        run: computes a batch, on the thread.
        finished: called with each computed batch, on the event loop.
        name: of the thread.
        prepare: called on each new thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Slice]], tuple[list[Arrays | ServiceError], Timings]],
        finished: Callable[[ComputedBatch], None],
        name: str,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._run = run
        self._finished = finished
        self._name = name
        self._prepare = prepare
        self._loop = asyncio.get_running_loop()
        self._batches: deque[Sequence[Slice]] = deque()  # the batch in compute, then the next one
        self._expected: deque[float] = deque()  # their seconds
        self._since = 0.0  # when the compute of the first began
        self._hung: list[threading.Thread] = []
        self._stopped = asyncio.Event()
        self._inbox: SimpleQueue[Sequence[Slice]] | None = None  # of the thread, if there is one
        self._thread: threading.Thread | None = None

    @property
    def batches(self) -> int:
        """The number of batches in flight; the empty batch that ends the thread counts as one."""
        return len(self._batches)

    @property
    def expected_seconds(self) -> float:
        """The seconds that the batches in flight are expected to take together."""
        return sum(self._expected)

    @property
    def remaining_seconds(self) -> float:
        """The seconds after which the batches in flight are expected to be computed."""
        if not self._expected:
            return 0.0
        elapsed = time.monotonic() - self._since
        return self.expected_seconds - min(elapsed, self._expected[0])

    @property
    def hung(self) -> int:
        """The number of abandoned computes that still hold a thread."""
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        return len(self._hung)

    def compute(self, batch: Sequence[Slice], expected_seconds: float = 0.0) -> None:
        """Compute a batch after those in flight; an empty batch ends the thread."""
        if not self._batches:
            self._since = time.monotonic()
        if not batch and self._inbox is None:
            self._stopped.set()
            return
        self._batches.append(batch)
        self._expected.append(expected_seconds)
        inbox = self._start_thread() if self._inbox is None else self._inbox
        inbox.put(batch)

    def abandon_hung(self, seconds: float) -> list[Sequence[Slice]]:
        """Return the batches in flight if the first one has computed for `seconds`, else [].

        The first batch is the one that hangs. Python cannot end its thread, so the thread is
        abandoned and another one replaces it.
        """
        inbox, thread = self._inbox, self._thread
        if inbox is None or thread is None or not any(self._batches):
            return []
        if time.monotonic() - self._since < seconds:
            return []
        returned = list(self._batches)
        self._batches.clear()
        self._expected.clear()
        self._hung.append(thread)
        self._start_thread()  # first: the end of the abandoned thread is not the worker's end
        with suppress(Empty):
            while True:
                inbox.get_nowait()
        inbox.put(())  # if the abandoned thread ever returns, it ends
        return returned

    def end_idle_thread(self) -> None:
        """End the thread if it has had no batch for `IDLE_SECONDS`; the next batch starts one."""
        idle = not self._batches and time.monotonic() - self._since > IDLE_SECONDS
        if self._inbox is not None and idle:
            self._inbox.put(())
            self._inbox = None

    async def stopped(self) -> None:
        """Wait until the thread has ended, after an empty batch."""
        await self._stopped.wait()
        if self._thread is not None:
            self._thread.join()

    def _start_thread(self) -> SimpleQueue[Sequence[Slice]]:
        """Start a thread, and return its inbox."""
        self._inbox = inbox = SimpleQueue[Sequence[Slice]]()
        # A daemon, so that a compute that never returns does not keep the process alive.
        self._thread = threading.Thread(
            target=self._work, args=(inbox,), name=self._name, daemon=True
        )
        self._thread.start()
        return inbox

    def _work(self, inbox: SimpleQueue[Sequence[Slice]]) -> None:
        """Run on the thread."""
        self._prepare()
        with suppress(RuntimeError):  # the loop is closed: no caller is left
            while batch := inbox.get():
                started = time.monotonic()
                computed = ComputedBatch(batch, *self._run(batch), started)
                self._loop.call_soon_threadsafe(self._finish, computed)
                del batch, computed  # an idle worker would keep the arrays of its last batch alive
            if inbox is self._inbox:
                self._loop.call_soon_threadsafe(self._stopped.set)

    def _finish(self, computed: ComputedBatch) -> None:
        if self._batches and computed.batch is self._batches[0]:  # else it was abandoned
            self._batches.popleft()
            self._expected.popleft()
            self._since = time.monotonic()
            self._finished(computed)
