"""The micro-batcher: many small requests in, few large batches through one compute function.

It promises, and `tests/service/test_batching.py` tries to break:

- Rows are counted, not requests. A batch never has more than `max_batch_rows`; a larger request
  is split and its answer joined again. First come, first served, row by row.
- An idle batcher computes at once what one turn of the event loop brought; a busy one gathers
  while it computes. Nobody waits for company unless `max_delay` asks for it.
- The queue is bounded in rows, and a deadline bounds each request's wait in it.
- A caller that goes away takes its waiting rows with it.
- A request that makes the model fail does so alone: its neighbours are computed again without it.
- Each caller gets the answer to exactly its own rows, or exactly one error. Nobody hangs.

All state belongs to the event loop. The worker thread gets a batch through a queue and gives it
back with one `call_soon_threadsafe`, so a batch costs one wake-up each way, whatever its size. A
batch whose compute takes less than that is computed on the event loop.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

from service.batch import (
    Arrays,
    Part,
    Request,
    Timings,
    count_rows,
    fault,
    joined,
    run_batch,
    too_late,
)
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    NotReadyError,
    QueueFullError,
    ServiceError,
)

# Deadlines are kept to within this, so that a queue in which requests expire one after another
# is searched at most 200 times a second.
_ALARM_SECONDS = 0.005


class Answer(NamedTuple):
    """What one request gets back.

    `outputs` may be views of its batch's outputs; they keep those alive. `queue_seconds` runs from
    submission to the compute of the first row, `compute_seconds` is the time of all batches that
    held a part of it, and `batch_rows` are the rows of the last of them.
    """

    outputs: Arrays
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


class BatchReport(NamedTuple):
    """One executed batch; `queue_seconds` are those of its oldest request, from submission."""

    rows: int
    requests: int
    queue_seconds: float
    timings: Timings


class MicroBatcher:
    """Batches the requests for one model. Create it, use it and close it on one event loop.

    `compute` maps a batch's inputs to its outputs, row by row, on one thread of the batcher's
    own. It must not write to its inputs (a batch of one request is the caller's own arrays) and
    must return fresh arrays (callers get views of them). `max_delay`, in seconds, is how long an
    idle batcher waits for company unless a batch is full; keep it well below the timeouts. A batch
    of at most `inline_rows` is computed on the event loop, which stands still meanwhile.
    `on_batch` is told of each batch, on the event loop, after its callers are answered.
    """

    def __init__(
        self,
        compute: Callable[[Arrays], Arrays],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        max_delay: float = 0.0,
        inline_rows: int = 0,
        name: str,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        if not 1 <= max_batch_rows <= max_queue_rows:
            raise ValueError(
                f"1 <= max_batch_rows <= max_queue_rows must hold, or no batch is ever full: "
                f"got {max_batch_rows} and {max_queue_rows}"
            )
        self._compute = compute
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._max_delay = max_delay
        self._inline_rows = inline_rows
        self._name = name
        self._on_batch = on_batch

        self._loop = asyncio.get_running_loop()
        self._queue: deque[Request] = deque()
        self._queued_rows = 0
        self._busy = False  # the worker has a batch, or was told to end
        self._release: asyncio.Handle | None = None  # the planned dispatch of an idle batcher
        self._alarm: asyncio.Handle | None = None  # one timer, for the earliest deadline
        self._alarm_at = math.inf
        self._closing = False
        self._stopped = asyncio.Event()
        self._inbox: SimpleQueue[list[Part]] = SimpleQueue()
        # A daemon, so that a compute that never returns cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait; those being computed are not among them."""
        return self._queued_rows

    def enqueue(
        self, inputs: Arrays, done: Callable[[Request], None], *, timeout: float | None = None
    ) -> Request:
        """Compute one request of one or more rows, in whatever company.

        Names, dtypes and trailing shapes are the model's, and all arrays have equally many rows:
        the caller has checked. A request of which rows still wait `timeout` seconds from now is
        given up; once all are in compute it is answered, however late.

        `done` is called once, on the event loop, with what this call gave, and `answer` then tells
        what came of it. A coroutine for each request would cost more than a small prediction.

        Raises:
            NotReadyError: The batcher is closing.
            BadInputError: The request has no rows.
            BodyTooLargeError: It has more rows than the queue may ever hold.
            QueueFullError: It has more rows than the queue has room for now.

        """
        rows = len(next(iter(inputs.values())))
        self._admit(rows)
        now = time.monotonic()
        deadline = math.inf if timeout is None else now + timeout
        request = Request(inputs, rows, rows, now, deadline, done)
        self._queue.append(request)
        self._queued_rows += rows
        if deadline < self._alarm_at:
            self._watch(deadline)
        self._plan()
        return request

    def withdraw(self, request: Request) -> None:
        """The request's caller has gone: it is not told, and its waiting rows are not computed."""
        request.done = None
        self._leave(request)

    def answer(self, request: Request) -> Answer:
        """What a request that is over gets back.

        Raises:
            DeadlineExceededError: Its deadline passed before all its rows were in compute.
            ModelFaultError: The model raised on its rows alone (chained as the cause), or
                returned a wrong number of rows for a batch that it was in.

        """
        if request.error is not None:
            raise request.error
        try:
            outputs = joined(request.pieces)
        except Exception as mismatch:
            raise fault(self._name) from mismatch
        return Answer(outputs, request.queue_seconds, request.compute_seconds, request.batch_rows)

    async def close(self) -> None:
        """Refuse new requests, finish the queued ones, end the thread. May be called again.

        It waits for the compute in flight; who cannot wait for one that hangs bounds this call.
        """
        self._closing = True
        if not self._busy:
            self._dispatch()
        await self._stopped.wait()
        self._thread.join()
        if self._alarm is not None:
            self._alarm.cancel()

    # On the event loop: the way into a batch.

    def _admit(self, rows: int) -> None:
        if self._closing:
            raise NotReadyError(f"Model {self._name} is shutting down.")
        if rows < 1:
            raise BadInputError("The request has no rows; send at least one.")
        if rows > self._max_queue_rows:
            raise BodyTooLargeError(
                f"The request has {rows} rows; model {self._name} takes at most "
                f"{self._max_queue_rows} in one request. Send them in several."
            )
        if self._queued_rows + rows > self._max_queue_rows:
            raise QueueFullError(
                f"Model {self._name} has {self._queued_rows} rows waiting and room for "
                f"{self._max_queue_rows}. Try again later."
            )

    def _plan(self) -> None:
        """See to it that a request which has just come in is dispatched."""
        if self._busy:
            return
        if self._queued_rows >= self._max_batch_rows > self._inline_rows:
            self._dispatch()
        elif self._release is None and self._max_delay > 0:
            self._release = self._loop.call_later(self._max_delay, self._dispatch)
        elif self._release is None:
            # Not right here: whoever else arrives in this turn of the loop shares the batch.
            self._release = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Give the idle worker its next batch; when closing and nothing waits, end it."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        batch = self._gather()
        if 0 < count_rows(batch) <= self._inline_rows:
            started = time.monotonic()
            try:
                self._hand_out(batch, *run_batch(batch, self._compute, self._name), started)
            finally:
                if self._queue or self._closing:
                    self._release = self._loop.call_soon(self._dispatch)
        elif batch or self._closing:
            self._busy = True
            self._inbox.put(batch)

    def _gather(self) -> list[Part]:
        batch: list[Part] = []
        room = self._max_batch_rows
        now = time.monotonic()
        while room and self._queue:
            request = self._queue[0]
            if request.is_over(now):
                self._settle(request, too_late(self._name))
                continue
            start = request.rows - request.waiting
            taken = min(request.waiting, room)
            batch.append(Part(request, start, start + taken))
            room -= taken
            self._queued_rows -= taken
            request.waiting -= taken
            if not request.waiting:
                self._queue.popleft()
        return batch

    # On the event loop: the ways out.

    def _finish(
        self,
        batch: list[Part],
        outcomes: list[Arrays | ServiceError],
        timings: Timings,
        started: float,
    ) -> None:
        """Take a batch back from the worker, and keep it busy."""
        self._busy = False
        try:
            self._hand_out(batch, outcomes, timings, started)
        finally:
            self._dispatch()

    def _hand_out(
        self,
        batch: list[Part],
        outcomes: list[Arrays | ServiceError],
        timings: Timings,
        started: float,
    ) -> None:
        """Give each request of a batch its outcome, and report the batch."""
        rows, seconds = count_rows(batch), sum(timings)
        for (request, start, stop), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                self._settle(request, outcome)
                continue
            if start == 0:
                request.queue_seconds = started - request.arrived
            request.pieces.append(outcome)
            request.compute_seconds += seconds
            request.batch_rows = rows
            if stop == request.rows:
                self._settle(request, None)
        if self._on_batch is not None:
            oldest = batch[0].request.arrived
            self._on_batch(BatchReport(rows, len(batch), started - oldest, timings))

    def _settle(self, request: Request, error: ServiceError | None) -> None:
        """Answer a request, unless its caller has gone or has been answered before."""
        self._leave(request)
        if request.done is None:
            return
        done, request.done, request.error = request.done, None, error
        try:
            done(request)
        except Exception as mistake:  # noqa: BLE001 - its neighbours get their answers all the same
            self._loop.call_exception_handler(
                {
                    "message": f"the caller of {self._name} failed on its answer",
                    "exception": mistake,
                }
            )

    def _leave(self, request: Request) -> None:
        """Take a request's waiting rows, if any, out of the queue."""
        if request.waiting:
            self._queue.remove(request)
            self._queued_rows -= request.waiting
            request.waiting = 0

    def _watch(self, deadline: float) -> None:
        """Have the alarm go off at this deadline, which is earlier than it is set to."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        wait = max(deadline - time.monotonic(), _ALARM_SECONDS)
        self._alarm = self._loop.call_later(wait, self._expire)

    def _expire(self) -> None:
        """Answer the waiting requests whose deadline has passed; set the alarm for the others."""
        self._alarm_at = math.inf
        now = time.monotonic()
        for request in [request for request in self._queue if request.deadline <= now]:
            self._settle(request, too_late(self._name))
        earliest = min((request.deadline for request in self._queue), default=math.inf)
        if earliest < math.inf:
            self._watch(earliest)

    # On the worker thread.

    def _work(self) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody is left to be answered
            while batch := self._inbox.get():
                started = time.monotonic()
                outcomes, timings = run_batch(batch, self._compute, self._name)
                self._loop.call_soon_threadsafe(self._finish, batch, outcomes, timings, started)
                del batch, outcomes  # or an idle batcher would keep the last one's arrays alive
            self._loop.call_soon_threadsafe(self._stopped.set)
