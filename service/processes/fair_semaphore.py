"""A semaphore whose slots the callers get in round-robin order."""

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator


class FairSemaphore:
    """A bound on the jobs at a time, in all and by caller. Use it on one event loop.

    Args:
        total: the slots.
        per_caller: the slots that one caller may have at a time.
    """

    def __init__(self, total: int, per_caller: int) -> None:
        self._total = total
        self._per_caller = per_caller
        self._running: Counter[str] = Counter()
        # The callers that wait, the next one first; each with its jobs, the oldest first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it during the block."""
        slot = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(slot)
        self._grant()
        try:
            await slot
            yield
        finally:
            if slot.done() and not slot.cancelled():
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
            else:
                self._forget(caller, slot)
            self._grant()

    def _grant(self) -> None:
        """Give the free slots to the waiting callers in round-robin order."""
        while self._running.total() < self._total:
            ready = (c for c in self._waiting if self._running[c] < self._per_caller)
            caller = next(ready, None)
            if caller is None:
                return
            slots = self._waiting[caller]
            slot = slots.popleft()
            self._waiting.move_to_end(caller)
            if not slots:
                del self._waiting[caller]
            if not slot.done():  # else its job was cancelled
                self._running[caller] += 1
                slot.set_result(None)

    def _forget(self, caller: str, slot: asyncio.Future[None]) -> None:
        slots = self._waiting.get(caller)
        if slots is not None and slot in slots:
            slots.remove(slot)
            if not slots:
                del self._waiting[caller]
