"""The requests that wait for a batch: row by row, first come, first served, each with a deadline.

It knows nothing of computing. What it bounds and refuses is its owner's affair.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from service.batching.batch import Part, Request

# Deadlines are kept to within this, so that a queue in which requests expire one after another
# is searched at most 200 times a second.
_ALARM_SECONDS = 0.005


class RequestQueue:
    """Create it and use it on one event loop.

    Args:
        expired: told of the requests that were late when the alarm went off. They have left.
        whole: whether a batch is one request with all its rows.
    """

    def __init__(
        self, expired: Callable[[Sequence[Request]], None], *, whole: bool = False
    ) -> None:
        self._expired = expired
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._requests: deque[Request] = deque()
        self._alarm: asyncio.Handle | None = None  # one timer, for the earliest deadline
        self._alarm_at = math.inf
        self.rows = 0
        """That wait, of all requests together."""

    def __len__(self) -> int:
        """How many requests wait, with some of their rows or all."""
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Have a new request wait, after all others."""
        self._requests.append(request)
        self.rows += request.waiting
        if request.deadline < self._alarm_at:
            self._watch(request.deadline)

    def take(self, room: int) -> tuple[list[Part], list[Request]]:
        """The next batch, of at most so many rows, and the requests that are too late for it.

        A suspect rides alone. Of a request that has no room, the rest waits on. Where requests stay
        whole, the batch is the next request, however many rows it has.
        """
        batch: list[Part] = []
        late: list[Request] = []
        requests, now = self._requests, time.monotonic()
        while room and requests:
            request = requests[0]
            if request.deadline <= now:
                self.remove(request)
                late.append(request)
                continue
            if request.suspect and batch:
                break
            start, stop = request.rows - request.waiting, request.rows
            if request.waiting > room and not self._whole:
                stop = start + room
            else:
                requests.popleft()
            batch.append(Part(request, start, stop))
            request.waiting = request.rows - stop
            self.rows -= stop - start
            room -= stop - start
            if request.suspect or self._whole:
                break
        return batch, late

    def put_back(self, batch: Sequence[Part]) -> None:
        """Have a batch that was not computed wait again, before all others and without deadlines.

        It was taken in time, some rows of it at least. Of two batches the later one comes first.
        """
        for request, start, stop in reversed(batch):
            if request.done is None:
                continue
            if not request.waiting:
                self._requests.appendleft(request)
            request.waiting += stop - start
            self.rows += stop - start
            request.deadline = math.inf

    def remove(self, request: Request) -> None:
        """Take a request out with the rows of it that wait; none may."""
        if not request.waiting:
            return
        self._requests.remove(request)
        self.rows -= request.waiting
        request.waiting = 0

    def close(self) -> None:
        """Watch no more deadlines."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _watch(self, deadline: float) -> None:
        """Have the alarm go off at this deadline, which is earlier than it is set to."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        wait = max(deadline - time.monotonic(), _ALARM_SECONDS)
        self._alarm = self._loop.call_later(wait, self._expire)

    def _expire(self) -> None:
        """Let go of the requests whose deadline has passed; set the alarm for the others."""
        self._alarm_at = math.inf
        now = time.monotonic()
        late = [request for request in self._requests if request.deadline <= now]
        for request in late:
            self.remove(request)
        earliest = min((request.deadline for request in self._requests), default=math.inf)
        if earliest < math.inf:
            self._watch(earliest)
        self._expired(late)
