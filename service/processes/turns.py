"""Places for jobs, which the callers get in turn."""

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator


class Turns:
    """Places for a number of jobs at a time. Use it on one event loop.

    Args:
        total: the places.
        per_caller: the places that one caller may have at a time.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._running: Counter[str] = Counter()
        # The callers that wait, the next one first; each with its jobs, the oldest first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place, and have it until the end of the block."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(place)
        self._grant()
        try:
            await place
            yield
        finally:
            if place.done() and not place.cancelled():
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
            else:
                self._forget(caller, place)
            self._grant()

    def _grant(self) -> None:
        """Give the free places to the callers that wait, one each in turn."""
        while self._running.total() < self._total:
            ready = (c for c in self._waiting if self._running[c] < self._per_caller)
            caller = next(ready, None)
            if caller is None:
                return
            places = self._waiting[caller]
            place = places.popleft()
            self._waiting.move_to_end(caller)
            if not places:
                del self._waiting[caller]
            if not place.done():  # else its job was cancelled
                self._running[caller] += 1
                place.set_result(None)

    def _forget(self, caller: str, place: asyncio.Future[None]) -> None:
        places = self._waiting.get(caller)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[caller]
