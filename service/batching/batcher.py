"""The micro-batcher: many small requests in, few large batches through one compute function.

It promises, and `tests/service/batching/` tries to break:

- Rows are counted, not requests. A batch never has more than `max_batch_rows`; a larger request
  is split and its answer joined again. First come, first served, row by row. Of a model whose rows
  depend on each other, each request is a batch as it came.
- An idle batcher computes what one turn of the event loop brought, a busy one gathers while it
  computes. Nobody waits for company unless `max_delay` asks for it; many who together can be
  computed on the event loop do not even wait for the end of the turn.
- The queue is bounded in rows and, at the present pace, in time; a deadline bounds each request's
  wait in it.
- A compute that does not end is given up, and the others go on without it.
- A caller that goes away takes its waiting rows with it.
- A request that makes the model fail does so alone: its neighbours are computed again without it.
- Each caller gets the answer to exactly its own rows, or exactly one error. Nobody hangs.

All state belongs to the event loop. A batch is computed by a worker on its own thread, and one
whose compute takes less than the way there and back on the event loop itself.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from service.batching.batch import (
    Answer,
    Arrays,
    Judge,
    Request,
    Timings,
    count_rows,
    fault,
    joined,
    run_batch,
    too_late,
)
from service.batching.request_queue import RequestQueue
from service.batching.worker import MOST_BATCHES, Computed, Worker
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    NotReadyError,
    QueueFullError,
    ServiceError,
)

ENOUGH_REQUESTS = 16
"""Of so many, what the event loop computes at once takes less for each than reading it did."""

News = TypeVar("News")


class BatchReport(NamedTuple):
    """One executed batch, and the requests that were answered with it, all of whose rows are done.

    Attributes:
        rows: of the batch.
        requests: of which it held a part.
        timings: of the batch.
        waits: the queue seconds of each request that was answered.
        answered_rows: of these requests.
        answered_seconds: from submission to answer, of all of them together.
    """

    rows: int
    requests: int
    timings: Timings
    waits: Sequence[float] = ()
    answered_rows: int = 0
    answered_seconds: float = 0.0


class MicroBatcher:
    """Batches the requests for one model. Create it, use it and close it on one event loop.

    Args:
        compute: maps a batch's inputs to its outputs, row by row, on one thread of the batcher's
            own. It must not write to its inputs (a batch of one request is the caller's own arrays)
            and must return fresh arrays (callers get views of them).
        max_batch_rows: the most rows of a batch.
        max_queue_rows: the most rows that may wait.
        max_delay: seconds that an idle batcher waits for company, unless a batch is full; keep it
            well below the timeouts.
        max_wait: seconds. Where what is in compute and the full batches that wait take longer, at
            the pace of the last full ones, who comes now is refused.
        full_seconds: what a full batch takes, as far as is known before there was one.
        ahead_seconds: where a full batch takes at most so long, one that waits is given to the
            thread while it computes another, so that it goes on without waiting for the event loop.
            Such a batch counts as in compute: so much later may a deadline be kept, and so much be
            computed for callers that have gone.
        inline_rows: a batch of at most so many is computed on the event loop, which stands still
            meanwhile.
        inline_compute: does so, where it is not to be `compute`.
        enough_requests: where so many fill a batch of `inline_rows`, it does not wait for the end
            of the turn.
        whole: whether each request is one batch, however many rows it has: for a model whose
            answer to a row depends on the rows beside it. `max_delay` does not apply then.
        judge: whose fault it is that a request fails alone, asked where `compute` failed; without
            it the model is at fault.
        name: of the model, for the errors and the thread.
        on_batch: told of each batch, on the event loop, after its callers are answered.

    Raises:
        ValueError: `1 <= max_batch_rows <= max_queue_rows` does not hold.
    """

    def __init__(
        self,
        compute: Callable[[Arrays], Arrays],
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        max_delay: float = 0.0,
        max_wait: float = math.inf,
        full_seconds: float = 0.0,
        ahead_seconds: float = 0.0,
        inline_rows: int = 0,
        inline_compute: Callable[[Arrays], Arrays] | None = None,
        enough_requests: int = ENOUGH_REQUESTS,
        whole: bool = False,
        judge: Judge | None = None,
        name: str,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        if not 1 <= max_batch_rows <= max_queue_rows:
            raise ValueError(
                f"1 <= max_batch_rows <= max_queue_rows must hold, or no batch is ever full: "
                f"got {max_batch_rows} and {max_queue_rows}"
            )
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._max_delay = 0.0 if whole else max_delay
        self._whole = whole
        self._max_wait = max_wait
        self._inline_rows = inline_rows
        self._enough_requests = enough_requests
        self._ahead_seconds = ahead_seconds
        self._name = name
        self._on_batch = on_batch

        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(self._refuse_late, whole=whole)
        self._pace = full_seconds  # of a full batch, the last ones counting most
        self._release: asyncio.Handle | None = None  # the planned dispatch of an idle batcher
        self._handing_out = False  # while callers are told, and perhaps ask again at once
        self._closing = False
        run = partial(run_batch, compute=compute, name=name, judge=judge, whole=whole)
        self._run_inline = partial(run, compute=inline_compute or compute)
        self._worker = Worker(run, self._finish, f"batcher-{name}")

    @property
    def queued_rows(self) -> int:
        """Rows that wait; those being computed are not among them."""
        return self._queue.rows

    @property
    def given_up(self) -> int:
        """How many computes were given up and still hold a thread."""
        return self._worker.given_up

    def check_room(self, rows: int = 1) -> None:
        """Tell a caller who comes now, with so many rows, whether it is worth its while.

        Raises:
            NotReadyError: The batcher is closing.
            QueueFullError: The queue has no room for them now, or is too long.

        """
        if self._closing:
            raise NotReadyError(f"Model {self._name} is shutting down.")
        if self._queue.rows + rows > self._max_queue_rows:
            raise QueueFullError(
                f"Model {self._name} has {self._queue.rows} rows waiting and room for "
                f"{self._max_queue_rows}. Try again later."
            )
        waiting = len(self._queue) if self._whole else self._queue.rows // self._max_batch_rows
        if waiting:  # one batch may wait, however slow
            wait = (waiting + self._worker.batches) * self._pace
            if wait > self._max_wait:
                raise QueueFullError(
                    f"Model {self._name} has {self._queue.rows} rows waiting, which take "
                    f"{wait:.1f} seconds. Try again later."
                )

    def give_up_after(self, seconds: float) -> None:
        """Give up a compute that has lasted so long. For whoever looks now and then.

        The requests of its batch are computed again, each alone, and the guilty one is told.
        """
        given_back = self._worker.give_up_after(seconds)
        if not given_back:
            return
        for batch in reversed(given_back):
            self._queue.put_back(batch)
        lost = given_back[0]
        for part in lost:
            part.request.suspect = True
        if len(lost) == 1:
            cause = TimeoutError(f"the compute did not end within {seconds:g} seconds")
            self._settle(lost[0].request, fault(self._name, cause))
        self._go_on()

    def enqueue(
        self,
        inputs: Arrays,
        done: Callable[[Answer | ServiceError], None],
        *,
        timeout: float | None = None,
    ) -> Request:
        """Compute one request of one or more rows, in whatever company.

        Names, dtypes and trailing shapes are the model's, and all arrays have equally many rows:
        the caller has checked. A request of which rows still wait `timeout` seconds from now is
        given up; once all are in compute it is answered, however late, unless its batch fails: then
        it is repeated only in time.

        `done` is called once, on the event loop; a coroutine for each request would cost more than
        a small prediction. It gets the answer, or an error that was never raised: its traceback
        would hold the request, and with it all its rows until the collector comes by.

        - DeadlineExceededError: Its deadline passed before all its rows were in compute.
        - ModelFaultError: The model raised, hung or gave a wrong number of rows for its rows alone;
          the cause says which.
        - What `judge` gives, where it finds that another error fits better.

        Raises:
            NotReadyError: The batcher is closing.
            BadInputError: The request has no rows.
            BodyTooLargeError: It has more rows than the queue may ever hold.
            QueueFullError: It has more rows than the queue has room for now.

        """
        rows = len(next(iter(inputs.values())))
        if self._is_enough(rows):
            self._dispatch()
        self._admit(rows)
        now = time.monotonic()
        deadline = math.inf if timeout is None else now + timeout
        request = Request(inputs, rows, rows, now, deadline, done)
        self._queue.add(request)
        self._plan()
        return request

    def withdraw(self, request: Request) -> None:
        """The request's caller has gone: it is not told, and its waiting rows are not computed."""
        request.done = None
        self._queue.remove(request)

    async def close(self) -> None:
        """Refuse new requests, finish the queued ones, end the thread. May be called again.

        It waits for the compute in flight; who cannot wait for one that hangs bounds this call.
        """
        self._closing = True
        if not self._worker.batches:
            self._dispatch()
        await self._worker.stopped()
        self._queue.close()

    # On the event loop: the way into a batch.

    def _admit(self, rows: int) -> None:
        if rows < 1:
            raise BadInputError("The request has no rows; send at least one.")
        if rows > self._max_queue_rows:
            raise BodyTooLargeError(
                f"The request has {rows} rows; model {self._name} takes at most "
                f"{self._max_queue_rows} in one request. Send them in several."
            )
        self.check_room(rows)

    def _is_enough(self, more_rows: int) -> bool:
        """Whether those who wait are as many as the event loop computes at once.

        To leave them to the thread, together with whoever comes next, would cost more: it takes
        Python's lock from the event loop and gives it back.
        """
        return (
            self._queue.rows <= self._inline_rows < self._queue.rows + more_rows
            and len(self._queue) >= self._enough_requests
            and not (self._worker.batches or self._handing_out)
        )

    def _plan(self) -> None:
        """See to it that what waits is dispatched, now or later."""
        if self._handing_out:
            return  # who hands out goes on afterwards
        is_full = self._queue.rows >= self._max_batch_rows > self._inline_rows
        if self._worker.batches:
            if is_full and self._may_go_ahead():
                self._dispatch()
        elif is_full:
            self._dispatch()
        elif self._release is None and self._max_delay > 0:
            self._release = self._loop.call_later(self._max_delay, self._dispatch)
        elif self._release is None:
            # Not right here: whoever else arrives in this turn of the loop shares the batch.
            self._release = self._loop.call_soon(self._dispatch)

    def _may_go_ahead(self) -> bool:
        """Whether the worker may have the next batch before it is done with this one."""
        return self._worker.batches < MOST_BATCHES and 0.0 < self._pace <= self._ahead_seconds

    def _dispatch(self) -> None:
        """Give the worker its next batch; when closing and nothing waits, end it."""
        if self._release is not None:
            self._release.cancel()
            self._release = None
        batch, late = self._queue.take(self._max_batch_rows)
        rows = count_rows(batch)
        small = 0 < rows <= self._inline_rows and not batch[0].request.suspect
        if small and not self._worker.batches:
            started = time.monotonic()
            self._hand_out(Computed(batch, *self._run_inline(batch), started))
            if self._queue or self._closing:
                self._release = self._loop.call_soon(self._dispatch)
        elif batch or (self._closing and not self._worker.batches):
            self._worker.compute(batch)
            if self._queue:
                self._plan()
        self._refuse_late(late)

    # On the event loop: the ways out.

    def _finish(self, computed: Computed) -> None:
        """Take a batch back from the worker."""
        self._hand_out(computed)
        self._go_on()

    def _go_on(self) -> None:
        """Keep the worker busy, now that it has fewer batches."""
        if self._worker.batches:
            self._plan()
        elif not self._handing_out:
            self._dispatch()

    def _hand_out(self, computed: Computed) -> None:
        """Give each request of a batch its outcome, and report the batch.

        Nothing is dispatched meanwhile, whatever a caller does when it is told: of a request that
        was split, a later part must not be handed out before this one.
        """
        self._handing_out = True
        batch, outcomes, timings, started = computed
        rows, seconds, now = count_rows(batch), sum(timings), time.monotonic()
        if self._whole or rows == self._max_batch_rows:
            self._pace += 0.25 * (seconds - self._pace)
        waits, answered_rows, answered_seconds = [], 0, 0.0
        for (request, start, stop), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                self._settle(request, outcome)
                continue
            answer: Answer | ServiceError
            answer = Answer(outcome, started - request.arrived, seconds, rows)
            if stop - start < request.rows:
                request.answers.append(answer)
                if stop < request.rows:
                    continue
                answer = self._answer_of_parts(request.answers)
            if request.done is not None and isinstance(answer, Answer):
                waits.append(answer.queue_seconds)
                answered_rows += stop
                answered_seconds += now - request.arrived
            self._settle(request, answer)
        if self._on_batch is not None:
            report = rows, len(batch), timings, waits, answered_rows, answered_seconds
            self._tell(self._on_batch, BatchReport(*report))
        self._handing_out = False

    def _answer_of_parts(self, parts: Sequence[Answer]) -> Answer | ServiceError:
        """The answer to a request that was computed in several batches."""
        try:
            outputs = joined([part.outputs for part in parts])
        except Exception as mismatch:  # noqa: BLE001 - the model's outputs may be anything
            return fault(self._name, mismatch)
        compute_seconds = sum(part.compute_seconds for part in parts)
        return Answer(outputs, parts[0].queue_seconds, compute_seconds, parts[-1].batch_rows)

    def _refuse_late(self, late: Sequence[Request]) -> None:
        for request in late:
            self._settle(request, too_late(self._name))

    def _settle(self, request: Request, answer: Answer | ServiceError) -> None:
        """Answer a request, unless its caller has gone or has been answered before."""
        self._queue.remove(request)
        if request.done is None:
            return
        done, request.done = request.done, None
        self._tell(done, answer)

    def _tell(self, told: Callable[[News], None], news: News) -> None:
        """Call back; a callback that fails takes nothing from its neighbours."""
        try:
            told(news)
        except (Exception, asyncio.CancelledError) as mistake:  # noqa: BLE001 - the batcher goes on
            message = f"a callback of the batcher of {self._name} failed"
            self._loop.call_exception_handler({"message": message, "exception": mistake})
