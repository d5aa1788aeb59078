"""Any sequence of adds, takes, requeues and cancels: no row is lost, repeated or out of order."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batching.batch import InferenceRequest, Slice
from service.batching.request_queue import RequestQueue

LATE = -1.0


class Queue(RuleBasedStateMachine):
    """The queue, compared with the next row that each request waits with."""

    @initialize(max_rows=st.integers(1, 40))
    def open(self, max_rows: int) -> None:
        """Create the queue on its loop."""
        self.loop = asyncio.new_event_loop()
        self.max_rows = max_rows
        self.queue = self.loop.run_until_complete(self.opened())
        self.next: dict[InferenceRequest, int] = {}  # of the requests with waiting rows
        self.requests: list[InferenceRequest] = []
        self.taken: list[Sequence[Slice]] = []
        self.expired: list[InferenceRequest] = []

    async def opened(self) -> RequestQueue:
        """Create the queue."""
        return RequestQueue(lambda late: self.expired.extend(late), self.max_rows)

    @rule(
        rows=st.integers(1, 6) | st.integers(1, 100),
        late=st.sampled_from([False] * 4 + [True]),
        whole=st.sampled_from([False] * 2 + [True]),
        cost=st.sampled_from([0, 1, 7, 1_000]),
        caller=st.sampled_from("abc"),
    )
    def add(self, rows: int, late: bool, whole: bool, cost: int, caller: str) -> None:
        """A request comes, perhaps with a deadline that has passed."""
        inputs = {"x": np.zeros(rows)}
        deadline = LATE if late else math.inf
        request = InferenceRequest(
            inputs, rows, rows, 0.0, deadline, lambda _: None, caller, whole=whole, cost=cost
        )
        self.requests.append(request)
        self.next[request] = 0
        self.queue.add(request)

    @rule()
    def take(self) -> None:
        """Take a batch, without requests that are late before it is full."""
        batch, late = self.queue.next_batch()
        for request in late:
            assert request.deadline == LATE
            assert not request.waiting
            del self.next[request]
        assert len({part.request for part in batch}) == len(batch)
        for request, start, stop in batch:
            assert start == self.next[request] < stop <= request.rows
            assert request.deadline != LATE
            self.next[request] = stop
            if stop == request.rows:
                del self.next[request]
        rows = sum(stop - start for _, start, stop in batch)
        if any(part.request.whole or part.request.suspect for part in batch):
            ((request, start, stop),) = batch
            assert stop - start == request.rows if request.whole else stop - start <= self.max_rows
        else:
            assert rows <= self.max_rows
            assert rows == self.max_rows or all(
                request.whole or request.suspect for request in self.firsts()
            )
        self.taken.append(batch)

    def cost(self, request: InferenceRequest) -> int:
        """Return what a whole request costs."""
        return request.cost or max(request.rows, self.max_rows)

    def firsts(self) -> list[InferenceRequest]:
        """Return the waiting request that ends a batch before it is full: the first of all."""
        if not self.queue.rows:
            return []
        return [self.queue._ring[0].requests[0]]

    @precondition(lambda self: self.taken)
    @rule(suspect=st.booleans())
    def requeue(self, suspect: bool) -> None:
        """Requeue the batch that was taken last."""
        batch = self.taken.pop()
        self.queue.requeue(batch)
        for request, start, _ in batch:
            if request.done_callback is not None:
                self.next[request] = start
                request.suspect |= suspect

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Cancel a request, whether its rows wait or not."""
        request = data.draw(st.sampled_from(self.requests))
        request.done_callback = None
        self.queue.remove(request)
        self.next.pop(request, None)

    @rule()
    def wait(self) -> None:
        """Run the timer of late requests, none of which waits afterwards."""
        self.queue._expire()
        for request in self.expired:
            self.next.pop(request, None)
        self.expired.clear()
        assert not any(request.deadline == LATE for request in self.next)

    @invariant()
    def counts(self) -> None:
        """Compare the sums with those over the waiting requests."""
        waiting = {request: request.rows - start for request, start in self.next.items()}
        assert {request: request.waiting for request in self.next} == waiting
        assert self.queue.rows == sum(waiting.values())
        assert len(self.queue) == len(waiting)
        whole = [request for request in waiting if request.whole]
        assert self.queue.whole_requests == len(whole)
        others = sum(rows for request, rows in waiting.items() if not request.whole)
        assert self.queue.load == others + sum(map(self.cost, whole))
        by_caller = defaultdict(list)
        for request in waiting:
            by_caller[request.caller].append(request)
        quantum = self.queue.quantum
        for caller in self.queue._callers.values():
            requests = by_caller.pop(caller.name, [])
            assert set(caller.requests) == set(requests)
            assert caller.rows == sum(request.waiting for request in requests)
            assert caller.excess == sum(
                max(0, request.waiting - quantum) for request in requests if not request.whole
            )
            assert caller.surplus == sum(
                self.cost(request) - request.waiting for request in requests if request.whole
            )
            assert caller.credit <= quantum
            assert 1 <= caller.turn <= quantum
            assert (caller in self.queue._ring) == (bool(requests) or caller.credit < 0)
        assert not by_caller

    def teardown(self) -> None:
        """Close the loop."""
        if hasattr(self, "loop"):
            self.queue.close()
            self.loop.close()


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
