"""The queue of the requests that wait for a batch: fair between callers, with deadlines.

The discipline is deficit round robin (Shreedhar and Varghese, 1995) on two levels: the callers take
turns, and within a caller its requests do. A turn has at most `quantum` rows. A large request is
therefore computed in slices between the small ones, callers who keep the queue full get equal
numbers of rows, and requests of one row each, by one caller, are served first come, first served.
The next row is found in constant time.

The queue forms batches and knows nothing of computing. Its owner bounds it and refuses requests.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from service.batching.batch import InferenceRequest, Slice

TURNS_IN_A_BATCH = 8
"""With more turns, more requests share a batch, in smaller slices that are joined again."""

MAX_IDLE_CALLERS = 1_000
"""The callers without requests of which the queue knows, so that it need not create them again."""

_ALARM_SECONDS = 0.005
"""The precision of deadlines. With it, the queue is searched at most 200 times a second even if
requests expire one after another."""


@dataclass(slots=True, eq=False)
class CallerQueue:
    """The waiting requests of one caller.

    Attributes:
        name: of the caller.
        credit: the rows left of the caller's turn; negative after a whole request larger than a
            turn: the caller is in debt, and misses turns.
        turn: the rows left of the turn of the first request.
        requests: with waiting rows; the first is next.
        rows: the waiting rows.
        excess: the rows beyond the next turn of each request, except whole ones.
        surplus: the costs of the whole requests, less their rows, in sum.
    """

    name: str
    credit: int
    turn: int
    requests: deque[InferenceRequest] = field(default_factory=deque)
    rows: int = 0
    excess: int = 0
    surplus: int = 0


class Ahead(NamedTuple):
    """What is computed before the last rows of a request, at most: rows, and full batches."""

    rows: int
    batches: int


class RequestQueue:
    """The waiting requests. Create it and use it on one event loop.

    Args:
        expired: called with the requests whose deadline has passed; they have left the queue.
        max_rows: the most rows in a batch; at least 1.
    """

    def __init__(
        self, expired: Callable[[Sequence[InferenceRequest]], None], max_rows: int
    ) -> None:
        self._expired = expired
        self._max_rows = max_rows
        self.quantum = max(1, max_rows // TURNS_IN_A_BATCH)
        """The most rows of a turn."""
        self._loop = asyncio.get_running_loop()
        self._callers: dict[str, CallerQueue] = {}
        # Those with requests or in debt; the first one has its turn.
        self._ring: deque[CallerQueue] = deque()
        self._alarm: asyncio.Handle | None = None  # one timer, for the earliest deadline
        self._alarm_at = math.inf
        self.rows = 0
        """The waiting rows of all requests."""
        self.whole_requests = 0
        """The waiting requests that are whole."""
        self._surplus = 0  # of all callers

    def __len__(self) -> int:
        """Return the number of requests with waiting rows."""
        return sum(len(caller.requests) for caller in self._ring)

    @property
    def load(self) -> int:
        """The rows that take as long as all that waits, if they are in full batches."""
        return self.rows + self._surplus

    def count_batches(self) -> int:
        """Return the number of full batches that take as long as all that waits."""
        return self.load // self._max_rows

    def count_ahead(self, rows: int, name: str, whole_cost: int = 0) -> Ahead:
        """Return what would be computed before the last rows of a new request, at most.

        A request of `rows` rows takes ceil(rows / quantum) turns. In each of them, each other
        request of the caller has at most one turn; while the caller computes these rows, each other
        caller computes at most as many. A whole request takes one turn, and counts as its cost.
        Requests that come later are not known, nor are debts and the rest of a turn.

        Args:
            rows: of the new request.
            name: of its caller.
            whole_cost: of the new request, if it is whole; else 0.
        """
        turns = 1 if whole_cost else -(-rows // self.quantum)
        caller, others = self._find(name)

        def count(caller_rows: int, total: int, added: int, turn: int) -> int:
            own_ahead = min(caller_rows, turns * (caller_rows - caller.excess))
            share = -(-(own_ahead + added) // turn) * turn
            return own_ahead + min(total - caller_rows, others * share)

        ahead = count(caller.rows, self.rows, rows, self.quantum)
        if not self.whole_requests:
            return Ahead(ahead, ahead // self._max_rows)
        load = count(
            caller.rows + caller.surplus,
            self.rows + self._surplus,
            whole_cost or rows,
            self._max_rows,
        )
        return Ahead(ahead, load // self._max_rows)

    def has_room(self, rows: int, name: str, max_rows: int) -> bool:
        """Return whether at most `max_rows` are computed for a new request and before it.

        Of the caller's own requests, all rows count if the new one takes several turns, and their
        next turns if it takes one. Of each other caller, as many rows count as of this one.

        Args:
            rows: of the new request.
            name: of its caller.
            max_rows: the room.
        """
        caller, others = self._find(name)
        counted = rows + caller.rows - (caller.excess if rows <= self.quantum else 0)
        return counted + min(self.rows - caller.rows, others * counted) <= max_rows

    def _find(self, name: str) -> tuple[CallerQueue, int]:
        """Return the queue of a caller, empty if there is none, and the number of other callers."""
        caller = self._callers.get(name) or CallerQueue(name, self.quantum, self.quantum)
        return caller, len(self._ring) - bool(caller.requests)

    def add(self, request: InferenceRequest) -> None:
        """Append a new request to those of its caller."""
        request.queue = self
        caller = self._callers.get(request.caller) or self._create(request.caller)
        if not caller.requests and caller.credit >= 0:
            self._ring.append(caller)
        caller.requests.append(request)
        rows = request.waiting
        if rows > self.quantum or request.whole:
            request.waiting = 0
            self._set_waiting(caller, request, rows)
        else:
            self.rows += rows
            caller.rows += rows
        if request.deadline < self._alarm_at:
            self._set_alarm(request.deadline)

    def next_batch(self, max_rows: int = 0) -> tuple[list[Slice], list[InferenceRequest]]:
        """Remove and return the next batch, and the requests that are too late for it.

        A whole request is a batch of its own, whatever its number of rows, and so is a suspect one.
        Another request has one slice in the batch, whatever its turns.

        Args:
            max_rows: of this batch; 0 for the most rows of any batch.
        """
        limit = max_rows or self._max_rows
        batch: list[Slice] = []
        late: list[InferenceRequest] = []
        places: dict[InferenceRequest, int] = {}  # in the batch, of requests with more rows
        ring, room, now = self._ring, limit, time.monotonic()
        in_debt = 0  # callers in succession
        while room and ring:
            caller = ring[0]
            left = caller.credit
            if left <= 0:
                in_debt = self._end_turn(in_debt)
                continue
            in_debt, requests = 0, caller.requests
            if left > room:
                left = room
            taken = left
            while left and requests:
                request = requests[0]
                if request.deadline <= now:
                    self._discard(caller, request)
                    late.append(request)
                    continue
                if request.whole or request.suspect:
                    break
                rows = request.waiting
                if rows == request.rows and (rows == 1 or rows <= min(left, caller.turn)):
                    requests.popleft()
                    request.waiting = 0
                    batch.append(Slice(request, 0, rows))
                else:
                    rows = self._take_part(caller, left, batch, places)
                left -= rows
            taken -= left
            room -= taken
            caller.credit -= taken
            caller.rows -= taken
            if not requests:
                caller.credit = self.quantum
                ring.popleft()
            elif left:  # the next request is a batch of its own
                if not batch:
                    batch.append(self._take_alone(caller, limit))
                break
        self.rows -= limit - room
        return batch, late

    def requeue(self, batch: Sequence[Slice]) -> None:
        """Put a batch that was not computed back at the front, without deadlines.

        Some rows of each request were in a batch in time. Of two batches, the later one is put back
        first. The callers get the credit for these rows back, up to one turn.
        """
        for request, start, stop in reversed(batch):
            if request.done_callback is None:
                continue
            rows = stop - start
            caller = self._callers.get(request.caller) or self._create(request.caller)
            if caller.requests or caller.credit < 0:
                self._ring.remove(caller)
            if request.waiting:
                caller.requests.remove(request)
            self._ring.appendleft(caller)
            caller.requests.appendleft(request)
            caller.turn = self.quantum
            caller.credit = min(caller.credit + self._cost(request, rows), self.quantum)
            self._set_waiting(caller, request, request.waiting + rows)
            request.deadline = math.inf

    def settle(self, request: InferenceRequest, cost: int) -> None:
        """Correct what the caller has paid for a whole request that was computed.

        Args:
            request: the request.
            cost: the rows of full batches that took as long.
        """
        paid = self._cost(request, request.rows)
        if cost == paid:
            return
        caller = self._callers.get(request.caller) or self._create(request.caller)
        in_ring = bool(caller.requests) or caller.credit < 0
        caller.credit = min(caller.credit + paid - cost, self.quantum)
        if in_ring and not caller.requests:
            self._leave(caller)
        elif not in_ring and caller.credit < 0:
            self._ring.append(caller)

    def remove(self, request: InferenceRequest) -> None:
        """Remove a request with its waiting rows, if it has any."""
        if request.waiting:
            caller = self._callers[request.caller]
            self._discard(caller, request)
            if not caller.requests:
                self._leave(caller)

    def close(self) -> None:
        """Stop the timer of the deadlines."""
        if self._alarm is not None:
            self._alarm.cancel()

    # Turns

    def _create(self, name: str) -> CallerQueue:
        """Return the queue of a new caller, which is kept for the caller's next requests."""
        if len(self._callers) >= MAX_IDLE_CALLERS + 2 * len(self._ring):
            self._callers = {caller.name: caller for caller in self._ring}
        caller = self._callers[name] = CallerQueue(name, self.quantum, self.quantum)
        return caller

    def _leave(self, caller: CallerQueue) -> None:
        """Take a caller without requests out of the ring, unless it is in debt."""
        if caller.credit >= 0:
            caller.credit = self.quantum
            self._ring.remove(caller)

    def _end_turn(self, in_debt: int) -> int:
        """Move the first caller to the end of the ring; return how many in succession are in debt.

        If all are, as many rounds pass at once as the smallest debt takes.
        """
        ring, quantum = self._ring, self.quantum
        caller = ring[0]
        ring.rotate(-1)
        caller.credit += quantum
        if not caller.requests and caller.credit >= 0:
            self._leave(caller)
            return in_debt
        if caller.credit > 0:
            return 0
        if in_debt + 1 < len(ring):
            return in_debt + 1
        rounds = -max(caller.credit for caller in ring) // quantum
        for caller in ring:
            caller.credit += rounds * quantum
        return 0

    def _cost(self, request: InferenceRequest, rows: int) -> int:
        """Return the rows that a caller pays: for a whole request those that take as long.

        A batch of one row takes nearly as long as a batch of some.
        """
        if not request.whole:
            return rows
        return request.cost or max(request.rows, self._max_rows)

    def _take_alone(self, caller: CallerQueue, max_rows: int) -> Slice:
        """Take the first request as a batch of its own; the caller may be in debt afterwards."""
        request = caller.requests.popleft()
        start = request.rows - request.waiting
        rows = request.waiting if request.whole else min(request.waiting, max_rows)
        self._set_waiting(caller, request, request.waiting - rows)
        caller.credit -= self._cost(request, rows)
        caller.turn = self.quantum
        if request.waiting:
            caller.requests.append(request)
        elif not caller.requests:
            self._leave(caller)
        return Slice(request, start, start + rows)

    def _take_part(
        self,
        caller: CallerQueue,
        max_rows: int,
        batch: list[Slice],
        places: dict[InferenceRequest, int],
    ) -> int:
        """Take rows of the first request, at most those of its turn; return how many.

        The request has one slice in the batch, which grows. The owner counts the rows.
        """
        request, quantum = caller.requests[0], self.quantum
        waiting = request.waiting
        rows = min(waiting, caller.turn, max_rows)
        request.waiting -= rows
        caller.turn -= rows
        caller.excess += max(0, request.waiting - quantum) - max(0, waiting - quantum)
        stop = request.rows - request.waiting
        index = places.setdefault(request, len(batch))
        if index == len(batch):
            batch.append(Slice(request, stop - rows, stop))
        else:
            batch[index] = batch[index]._replace(stop=stop)
        if not request.waiting:
            caller.requests.popleft()
            caller.turn = quantum
        elif not caller.turn:
            caller.requests.rotate(-1)
            caller.turn = quantum
        return rows

    def _discard(self, caller: CallerQueue, request: InferenceRequest) -> None:
        """Remove a request with waiting rows from those of its caller."""
        if caller.requests[0] is request:
            caller.turn = self.quantum
        caller.requests.remove(request)
        self._set_waiting(caller, request, 0)

    def _set_waiting(self, caller: CallerQueue, request: InferenceRequest, waiting: int) -> None:
        """Set the number of waiting rows of a request, and the sums over them."""
        before, request.waiting = request.waiting, waiting
        self.rows += waiting - before
        caller.rows += waiting - before
        if request.whole:  # all its rows wait, or none
            change = bool(waiting) - bool(before)
            surplus = change * self._cost(request, 0) - (waiting - before)
            self.whole_requests += change
            self._surplus += surplus
            caller.surplus += surplus
        else:
            quantum = self.quantum
            caller.excess += max(0, waiting - quantum) - max(0, before - quantum)

    # Deadlines

    def _set_alarm(self, deadline: float) -> None:
        """Set the timer to a deadline that is earlier than the present one."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        wait = max(deadline - time.monotonic(), _ALARM_SECONDS)
        self._alarm = self._loop.call_later(wait, self._expire)

    def _expire(self) -> None:
        """Remove the requests whose deadline has passed; set the timer for the others."""
        self._alarm_at = math.inf
        now = time.monotonic()
        waiting = [request for caller in self._ring for request in caller.requests]
        late = [request for request in waiting if request.deadline <= now]
        for request in late:
            self.remove(request)
        earliest = min(
            (request.deadline for request in waiting if request.waiting), default=math.inf
        )
        if earliest < math.inf:
            self._set_alarm(earliest)
        self._expired(late)
