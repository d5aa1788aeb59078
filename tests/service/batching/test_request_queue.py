"""Whatever is added, taken, put back and removed: no row is lost, comes twice or overtakes."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.batch import Part, Request
from service.batching.request_queue import RequestQueue

LATE = -1.0


class Queue(RuleBasedStateMachine):
    """The queue beside a plain list of the rows that wait, each with its request's number."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = self.loop.run_until_complete(self.opened())
        self.requests: list[Request] = []
        self.waiting: list[tuple[int, int]] = []
        self.taken: list[Sequence[Part]] = []
        self.expired: list[Request] = []

    async def opened(self) -> RequestQueue:
        """Make the queue on its loop."""
        return RequestQueue(lambda late: self.expired.extend(late))

    def rows_of(self, batch: Sequence[Part]) -> list[tuple[int, int]]:
        """Number of request and row, for each row of a batch."""
        return [
            (self.requests.index(request), row)
            for request, start, stop in batch
            for row in range(start, stop)
        ]

    @rule(rows=st.integers(1, 6), late=st.sampled_from([False] * 4 + [True]))
    def add(self, rows: int, late: bool) -> None:
        """A request comes, perhaps with a deadline that has passed."""
        inputs = {"x": np.zeros(rows)}
        deadline = LATE if late else math.inf
        request = Request(inputs, rows, rows, 0.0, deadline, lambda _: None)
        self.waiting += [(len(self.requests), row) for row in range(rows)]
        self.requests.append(request)
        self.queue.add(request)

    @rule(room=st.integers(1, 8))
    def take(self, room: int) -> None:
        """A batch is taken, without those who are late before it is full."""
        batch, late = self.queue.take(room)
        rows = self.rows_of(batch)
        gone = [self.requests.index(request) for request in late]
        self.waiting = [row for row in self.waiting if row[0] not in gone]
        assert all(request.deadline == LATE and not request.waiting for request in late)
        assert rows == self.waiting[: len(rows)]
        assert len(rows) == room or not self.waiting[len(rows) :]
        del self.waiting[: len(rows)]
        self.taken.append(batch)

    @precondition(lambda self: self.taken)
    @rule()
    def put_back(self) -> None:
        """The batch that was taken last comes back."""
        batch = self.taken.pop()
        self.queue.put_back(batch)
        back = [row for row in self.rows_of(batch) if self.requests[row[0]].done is not None]
        self.waiting = back + self.waiting

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller goes away, whether its rows wait or not."""
        number = data.draw(st.integers(0, len(self.requests) - 1))
        self.requests[number].done = None
        self.queue.remove(self.requests[number])
        self.waiting = [row for row in self.waiting if row[0] != number]

    @rule()
    def wait(self) -> None:
        """The alarm goes off for the late ones, of which none waits any longer."""
        self.queue._expire()
        gone = {self.requests.index(request) for request in self.expired}
        self.waiting = [row for row in self.waiting if row[0] not in gone]
        assert not any(self.requests[number].deadline == LATE for number, _ in self.waiting)

    @invariant()
    def counts(self) -> None:
        """It knows how many wait."""
        assert self.queue.rows == len(self.waiting)
        assert len(self.queue) == len({number for number, _ in self.waiting})

    def teardown(self) -> None:
        """End the loop."""
        self.queue.close()
        self.loop.close()


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
