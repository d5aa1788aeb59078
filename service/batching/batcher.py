"""The micro-batcher: many small requests in, few large batches through one compute function.

Its guarantees, which `tests/service/batching/` tries to break:

- It counts rows, not requests. A batch has at most `max_batch_rows`. A larger request is split into
  slices, and its response is joined again. A request that is whole, because its rows may depend on
  each other, is one batch.
- Callers share the batches equally, and so do the requests of one caller (`request_queue.py`): a
  large request does not lock out small ones. A caller alone gets all batches.
- An idle batcher computes the requests of one loop iteration together; a busy batcher collects
  requests while it computes. Nothing waits for more requests unless `max_delay` says so.
- The queue is bounded in rows and in seconds, and each request has a deadline. A request is refused
  for what would be computed before it, so a caller who fills the queue is refused before others.
- A compute that hangs is abandoned, and the other requests are computed without it.
- A cancelled request takes its waiting rows with it.
- If a request makes the model fail, it fails alone: its neighbours are computed again without it.
- Each caller gets the response to exactly its own rows, or exactly one error.

All state belongs to the event loop. A worker computes batches on its own thread; a batch whose
compute is shorter than the way to that thread and back is computed on the event loop.
"""

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from service.batching.batch import (
    Arrays,
    DoneCallback,
    InferenceRequest,
    InferenceResponse,
    Judge,
    Timings,
    count_rows,
    fault,
    run_batch,
    too_late,
)
from service.batching.costs import CostModel
from service.batching.request_queue import RequestQueue
from service.batching.worker import MAX_IN_FLIGHT, ComputedBatch, Worker
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    DeadlineExceededError,
    NotReadyError,
    QueueFullError,
    ServiceError,
)

ENOUGH_REQUESTS = 16
"""A batch of this many requests takes less time to compute than its requests took to parse."""

MAX_QUEUE_RATIO = 4
"""The most rows that wait, of all callers together, as a multiple of `max_queue_rows`."""

_TOLERANCE = 1.25
"""Batches get fewer rows if they take this many times too long. Without a tolerance, batches that
take just as long as they may would change with every step of their expected seconds."""

Value = TypeVar("Value")


class BatchReport(NamedTuple):
    """One computed batch, and the requests whose last rows were in it.

    Attributes:
        rows: of the batch.
        requests: with rows in the batch.
        timings: of the batch.
        waits: the queue seconds of each request that was answered.
        answered_rows: of these requests.
        answered_seconds: from submission to response, the sum over these requests.
    """

    rows: int
    requests: int
    timings: Timings
    waits: Sequence[float] = ()
    answered_rows: int = 0
    answered_seconds: float = 0.0


class MicroBatcher:
    """Batches the requests for one model. Create, use and close it on one event loop.

    Args:
        compute: maps a batch's inputs to its outputs, row by row, on the batcher's thread. It must
            not write to its inputs (a batch of one request holds the caller's own arrays) and must
            return fresh arrays (callers get views of them).
        max_batch_rows: the most rows in a batch.
        max_queue_rows: the most rows that may be computed for a request and before it. Since
            requests of few rows pass large ones, and callers do not wait for all rows of others,
            `MAX_QUEUE_RATIO` times as many may wait.
        max_delay: seconds that an idle batcher waits for more requests, unless a batch is full.
            Keep it well below the timeouts.
        max_wait: seconds. A new request is refused if the batches before its last rows take longer.
        least_batches: as many full batches may be in compute and wait, however slow they are, if
            they take no longer than twice `max_wait`.
        costs: of the batches on the thread. The batcher corrects them by what it computes.
        batch_seconds: the batches get fewer rows if a full one takes longer, and more than twice as
            long as a row alone.
        prefetch_seconds: if a full batch takes at most this long, the thread gets the next full
            batch while it computes, so that it does not wait for the event loop. A prefetched batch
            counts as in compute: its deadlines and cancellations are no longer looked at.
        inline_rows: a batch of at most this many rows is computed on the event loop.
        inline_compute: computes those batches; by default `compute`.
        inline_costs: of those batches; by default `costs`.
        inline_seconds: the event loop computes fewer rows if `inline_rows` take longer, and more if
            they take less.
        enough_requests: if this many requests fill a batch of `inline_rows`, the batch is computed
            before the end of the loop iteration.
        judge: decides whose fault it is that a request fails alone; without it, the model's.
        name: of the model, for the errors and the thread.
        on_batch: called with the report of each batch, on the event loop, after its callers.
        prepare_thread: called on each new thread, before its batches.

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
        least_batches: int = 0,
        costs: CostModel | None = None,
        batch_seconds: float = math.inf,
        prefetch_seconds: float = 0.0,
        inline_rows: int = 0,
        inline_compute: Callable[[Arrays], Arrays] | None = None,
        inline_costs: CostModel | None = None,
        inline_seconds: float = 0.0,
        enough_requests: int = ENOUGH_REQUESTS,
        judge: Judge | None = None,
        name: str,
        on_batch: Callable[[BatchReport], None] | None = None,
        prepare_thread: Callable[[], object] = lambda: None,
    ) -> None:
        if not 1 <= max_batch_rows <= max_queue_rows:
            raise ValueError(
                f"1 <= max_batch_rows <= max_queue_rows must hold, or no batch is ever full: "
                f"got {max_batch_rows} and {max_queue_rows}"
            )
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._max_delay = max_delay
        self._max_wait = max_wait
        self._least_batches = least_batches
        self._batch_rows = max_batch_rows  # of a full batch; fewer if it takes too long
        self._batch_seconds = batch_seconds
        self._inline_rows = inline_rows
        self._inline_seconds = inline_seconds
        self._costs = costs or CostModel()
        self._inline_costs = inline_costs or self._costs
        self._enough_requests = enough_requests
        self._prefetch_seconds = prefetch_seconds
        self._name = name
        self._on_batch = on_batch

        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(self._refuse_late, max_batch_rows)
        self._scheduled: asyncio.Handle | None = None  # the next dispatch of an idle batcher
        self._unbatching = False  # callbacks run, and may submit requests
        self._closing = False
        run = partial(run_batch, compute=compute, name=name, judge=judge)
        self._run_inline = partial(run, compute=inline_compute or compute)
        self._worker = Worker(run, self._finish, f"batcher-{name}", prepare_thread)

    @property
    def queued_rows(self) -> int:
        """The rows that wait, without those in compute."""
        return self._queue.rows

    @property
    def inline_rows(self) -> int:
        """The rows of the largest batch that the event loop computes now."""
        return self._inline_rows

    @property
    def hung(self) -> int:
        """The number of abandoned computes that still hold a thread."""
        return self._worker.hung

    @property
    def expected_wait(self) -> float:
        """The expected seconds until batches in compute and waiting rows are computed."""
        waiting = self._queue.load / self._max_batch_rows * self._full_seconds
        return waiting + self._worker.remaining_seconds

    def check_capacity(
        self, rows: int = 1, caller: str = "", whole_cost: int = 0, timeout: float = math.inf
    ) -> None:
        """Check that a request of this many rows would be accepted now.

        One batch may wait, however slow. Beyond it, a request is refused for what would be computed
        before its last rows (`RequestQueue.count_ahead`), which is at most all that waits:

        - A request of at most one turn, an eighth of `max_batch_rows`, waits for one turn of each
          other request of its caller, and a larger one for as many turns as it takes itself.
        - While the caller computes these rows, each other caller computes at most as many.

        Memory is bounded: at most `MAX_QUEUE_RATIO` times `max_queue_rows` wait.

        Args:
            rows: of the request.
            caller: whose request it is.
            whole_cost: of a request that is one batch, the rows of a full batch that take as long;
                otherwise 0.
            timeout: seconds that the request may wait.

        Raises:
            DeadlineExceededError: the wait is longer than `timeout`.
            NotReadyError: the batcher is closing.
            QueueFullError: the queue has too little room for the rows, or its wait is too long.
        """
        if self._closing:
            raise NotReadyError(f"Model {self._name} is shutting down.")
        queue, room = self._queue, self._max_queue_rows
        total = queue.rows + rows
        if total <= self._max_batch_rows and not queue.whole_requests:
            return
        if total > room and (
            total > MAX_QUEUE_RATIO * room or not queue.has_room(rows, caller, room)
        ):
            raise QueueFullError(
                f"Model {self._name} has {queue.rows} rows waiting and room for "
                f"{room}. Try again later.",
                self._wait(-(-(total - room) // self._max_batch_rows)),
            )
        longest = self._longest_wait
        if self._wait(queue.count_batches()) > min(longest, timeout):
            ahead = queue.count_ahead(rows, caller, whole_cost)
            wait = self._wait(ahead.batches)
            if wait > longest:
                raise QueueFullError(
                    f"Model {self._name} has {ahead.rows} rows waiting, which take "
                    f"{wait:.1f} seconds. Try again later.",
                    wait - longest,
                )
            if wait > timeout:
                raise DeadlineExceededError(
                    f"Model {self._name} has {ahead.rows} rows waiting, which take {wait:.3g} "
                    f"seconds, and the request allows {timeout:g}. Try again later, or allow more."
                )

    def _wait(self, batches: int) -> float:
        """Return the seconds until this many waiting batches are computed; 0 if none waits."""
        return batches and batches * self._full_seconds + self._worker.remaining_seconds

    @property
    def _longest_wait(self) -> float:
        """The expected wait in seconds from which a request is refused."""
        least = self._least_batches * self._full_seconds
        return max(self._max_wait, min(least, 2 * self._max_wait))

    @property
    def _full_seconds(self) -> float:
        """The expected seconds of `max_batch_rows`, in as many batches as they take now."""
        rows = self._batch_rows
        return self._costs_of(rows).seconds(rows) * (self._max_batch_rows / rows)

    def _costs_of(self, rows: int, size: float = 0.0) -> CostModel:
        """Return the costs where a batch of these rows and this size is computed."""
        is_inline = size <= rows <= self._inline_rows
        return self._inline_costs if is_inline else self._costs

    def _whole_cost(self, rows: int, size: float) -> int:
        """Return the rows of a full batch that take as long as a whole request."""
        full, seconds = self._full_seconds, self._costs_of(rows, size).seconds(rows, size)
        if not full:
            return max(rows, self._max_batch_rows)
        return max(1, round(seconds / full * self._max_batch_rows))

    def adapt(self) -> None:
        """Choose the rows of a batch, and those of the event loop, by what batches cost now.

        A watchdog calls this regularly.
        """
        self._costs.forget()
        if self._inline_costs is not self._costs:
            self._inline_costs.forget()
        if self._batch_seconds < math.inf:
            costs = self._costs_of(self._max_batch_rows)
            # If a row alone takes half as long, fewer rows cost more throughput than they save.
            longest = max(self._batch_seconds, 2 * costs.seconds(1))
            rows = _adapted(self._batch_rows, costs, longest)
            if rows == costs.timed_rows:  # larger batches may be as fast
                rows = self._max_batch_rows
            self._batch_rows = min(max(rows, 1), self._max_batch_rows)
        if self._inline_seconds:
            self._inline_rows = _adapted(
                self._inline_rows, self._inline_costs, self._inline_seconds
            )

    def abandon_hung(self, seconds: float) -> None:
        """Abandon a compute that has lasted for `seconds`. A watchdog calls this regularly.

        The requests of its batch are computed again one by one. A request that was alone in it
        fails.
        """
        returned = self._worker.abandon_hung(seconds)
        if not returned:
            return
        for batch in reversed(returned):
            self._queue.requeue(batch)
        hung = returned[0]
        for part in hung:
            part.request.suspect = True
        if len(hung) == 1:
            cause = TimeoutError(f"the compute did not end within {seconds:g} seconds")
            self._complete(hung[0].request, fault(self._name, cause))
        self._continue()

    def end_idle_thread(self) -> None:
        """End a thread that has had no work for long. A watchdog calls this regularly."""
        self._worker.end_idle_thread()

    def enqueue(
        self,
        inputs: Arrays,
        done_callback: DoneCallback,
        *,
        timeout: float | None = None,
        whole: bool = False,
        size: float = 0.0,
        caller: str = "",
        group: Hashable = None,
    ) -> InferenceRequest:
        """Submit one request of one or more rows, to be batched with others unless it is whole.

        The caller has checked the names, dtypes and trailing shapes, and that all arrays have the
        same number of rows.

        Args:
            inputs: the input arrays by name.
            done_callback: called once, on the event loop, with the response or an error. A callback
                costs less than the task of a small prediction would. The error was never raised:
                its traceback would keep the request's rows alive until the garbage collector runs.

                - DeadlineExceededError: the deadline passed before all rows were in compute.
                - ModelFaultError: the model raised, hung or returned a wrong number of rows for
                  these rows alone; the cause says which.
                - An error that `judge` returned.
            timeout: seconds after which a request with waiting rows is refused. Once all rows are
                in compute, the response is given however late, unless the batch fails: it is then
                repeated only before the deadline.
            whole: whether the request is one batch, whatever its number of rows, because its rows
                may depend on each other. `max_delay` does not apply then.
            size: of a whole request, the rows of usual size that are as large, by which it is
                counted; 0 for its number of rows. If they are more, the thread computes it.
            caller: whose request it is; callers share the batches equally.
            group: of the requests whose rows can be joined; those of other groups in a batch are
                computed one group after another. None if all requests can be joined.

        Returns:
            The request. Its `cancel` takes it back: `done_callback` is not called then.

        Raises:
            NotReadyError: the batcher is closing.
            BadInputError: the request has no rows.
            BodyTooLargeError: the request has more rows than the queue may ever hold.
            DeadlineExceededError: the queue has more to compute before it than `timeout` allows.
            QueueFullError: the queue has too little room for the rows now.
        """
        rows = len(next(iter(inputs.values())))
        if self._is_enough(rows):
            self._dispatch()
        cost = self._whole_cost(rows, size) if whole else 0
        longest = math.inf if timeout is None else timeout
        self._check_rows(rows, caller, cost, longest)
        now = time.monotonic()
        request = InferenceRequest(
            inputs, rows, rows, now, now + longest, done_callback, caller,
            whole=whole, size=size, cost=cost, group=group,
        )  # fmt: skip
        self._queue.add(request)
        if whole and self._max_delay:
            self._unschedule()  # the batch ahead gets no more rows
        self._schedule()
        return request

    async def close(self) -> None:
        """Refuse new requests, compute the queued ones, end the thread. May be called again.

        This waits for the compute in flight; a caller that cannot wait for a hung one sets a
        timeout.
        """
        self._closing = True
        if not self._worker.batches:
            self._dispatch()
        await self._worker.stopped()
        self._queue.close()

    # From the queue into a batch.

    def _check_rows(self, rows: int, caller: str, whole_cost: int, timeout: float) -> None:
        if rows < 1:
            raise BadInputError("The request has no rows; send at least one.")
        if rows > self._max_queue_rows:
            raise BodyTooLargeError(
                f"The request has {rows} rows; model {self._name} takes at most "
                f"{self._max_queue_rows} in one request. Send them in several."
            )
        self.check_capacity(rows, caller, whole_cost, timeout)

    def _is_enough(self, more_rows: int) -> bool:
        """Return whether the waiting requests fill a batch for the event loop.

        A larger batch would go to the thread, which costs more: the thread and the event loop
        share Python's lock.
        """
        return (
            self._queue.rows <= self._inline_rows < self._queue.rows + more_rows
            and len(self._queue) >= self._enough_requests
            and not (self._worker.batches or self._unbatching)
        )

    def _schedule(self) -> None:
        """Dispatch the waiting requests now, or schedule the dispatch."""
        if self._unbatching:
            return  # `_continue` follows
        is_full = self._queue.rows >= self._batch_rows > self._inline_rows
        if self._worker.batches:
            if is_full and self._may_prefetch():
                self._dispatch()
        elif is_full:
            self._dispatch()
        elif self._scheduled is None and self._max_delay > 0 and not self._queue.whole_requests:
            self._scheduled = self._loop.call_later(self._max_delay, self._dispatch)
        elif self._scheduled is None:
            # Other requests of this loop iteration join the batch.
            self._scheduled = self._loop.call_soon(self._dispatch)

    def _unschedule(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def _may_prefetch(self) -> bool:
        """Return whether the worker may have the next batch before it has computed this one."""
        if self._worker.batches >= MAX_IN_FLIGHT:
            return False
        slower = max(self._full_seconds, self._worker.expected_seconds)
        return 0.0 < slower <= self._prefetch_seconds

    def _dispatch(self) -> None:
        """Compute the next batch; if the batcher is closing and the queue empty, end the thread."""
        self._unschedule()
        batch, late = self._queue.next_batch(self._batch_rows)
        rows = count_rows(batch)
        if 0 < rows <= self._inline_rows and self._may_be_inline(batch[0].request):
            started = time.monotonic()
            computed = ComputedBatch(batch, *self._run_inline(batch), started)
            self._unbatch(computed, self._inline_costs)
            if self._queue.rows or self._closing:
                self._scheduled = self._loop.call_soon(self._dispatch)
        elif batch or (self._closing and not self._worker.batches):
            size = batch[0].request.size if batch else 0.0
            self._worker.compute(batch, self._costs.seconds(rows, size) if batch else 0.0)
            if self._queue.rows:
                self._schedule()
        self._refuse_late(late)

    def _may_be_inline(self, request: InferenceRequest) -> bool:
        """Return whether the event loop may compute a small batch that begins with the request.

        The slices of a larger request go to the thread, which also gathers their outputs.
        """
        is_usual = request.size <= request.rows <= self._inline_rows
        return is_usual and not (request.suspect or self._worker.batches)

    # From a computed batch to the callers.

    def _finish(self, computed: ComputedBatch) -> None:
        """Unbatch what the worker computed, and dispatch the next batch."""
        self._unbatch(computed, self._costs)
        self._continue()

    def _continue(self) -> None:
        """Keep the worker busy after it has returned a batch."""
        if self._worker.batches:
            self._schedule()
        elif not self._unbatching:
            self._dispatch()

    def _unbatch(self, computed: ComputedBatch, costs: CostModel) -> None:
        """Give each request of a batch its outcome, and report the batch.

        Nothing is dispatched meanwhile, whatever the callbacks do: the later slice of a split
        request must not be unbatched before this one.
        """
        self._unbatching = True
        batch, outcomes, timings, started = computed
        rows, seconds, now = count_rows(batch), sum(timings), time.monotonic()
        failed = False
        waits, answered_rows, answered_seconds = [], 0, 0.0
        for (request, start, stop), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                failed = True
                self._complete(request, outcome)
                continue
            response = InferenceResponse(outcome, started - request.arrived, seconds, rows)
            if stop - start < request.rows:
                request.responses.append(response)
                if stop < request.rows:
                    continue
                first_part, all_parts = request.responses[0], request.responses
                response = response._replace(
                    queue_seconds=first_part.queue_seconds,
                    compute_seconds=sum(part.compute_seconds for part in all_parts),
                )
            if request.done_callback is not None:
                waits.append(response.queue_seconds)
                answered_rows += stop
                answered_seconds += now - request.arrived
            self._complete(request, response)
        first = batch[0].request
        if first.whole:
            self._settle(first, seconds)
            # Else requests that compute for long and fail would cost nothing.
            failed = failed and seconds <= costs.seconds(rows, first.size)
        if not failed:
            costs.observe(rows, seconds, first.size)
        if self._on_batch is not None:
            report = rows, len(batch), timings, waits, answered_rows, answered_seconds
            self._invoke(self._on_batch, BatchReport(*report))
        self._unbatching = False

    def _settle(self, request: InferenceRequest, seconds: float) -> None:
        """Correct what the caller of a whole request has paid by the seconds that it took.

        An expectation that was wrong once thereby locks nobody out. A moment in which the machine
        stood still does not either: the caller pays at most `max_wait` more than expected.
        """
        full = self._full_seconds
        if full:
            expected = request.cost * full / self._max_batch_rows
            paid = min(seconds, expected + self._max_wait)
            self._queue.settle(request, max(1, round(paid / full * self._max_batch_rows)))

    def _refuse_late(self, late: Sequence[InferenceRequest]) -> None:
        for request in late:
            self._complete(request, too_late(self._name))

    def _complete(
        self, request: InferenceRequest, response: InferenceResponse | ServiceError
    ) -> None:
        """Call the request's callback, unless the request was cancelled or completed before."""
        self._queue.remove(request)
        if request.done_callback is None:
            return
        done_callback, request.done_callback = request.done_callback, None
        self._invoke(done_callback, response)

    def _invoke(self, callback: Callable[[Value], None], value: Value) -> None:
        """Call back; an exception of one callback does not affect the other requests."""
        try:
            callback(value)
        except (Exception, asyncio.CancelledError) as mistake:  # noqa: BLE001 - as said
            message = f"a callback of the batcher of {self._name} failed"
            self._loop.call_exception_handler({"message": message, "exception": mistake})


def _adapted(rows: int, costs: CostModel, seconds: float) -> int:
    """Return the rows of the largest batch within `seconds`; `rows` if these hardly take longer."""
    within = costs.rows_within(seconds)
    return rows if within < rows and costs.seconds(rows) <= _TOLERANCE * seconds else within
