"""The callers get slots in round-robin order, however many jobs one of them has."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.processes.fair_semaphore import FairSemaphore


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_caller_with_many_jobs_does_not_delay_another() -> None:
    semaphore, order = FairSemaphore(total=1, per_caller=1), list[str]()

    async def job(caller: str) -> None:
        async with semaphore.slot(caller):
            order.append(caller)
            await asyncio.sleep(0)

    await asyncio.gather(*(job("a") for _ in range(5)), job("b"), job("c"))
    assert order.index("b") <= 2  # `a` had the slot before the others came
    assert order.index("c") <= 3
    assert Counter(order) == {"a": 5, "b": 1, "c": 1}


async def test_one_caller_leaves_slots_for_others() -> None:
    semaphore = FairSemaphore(total=3, per_caller=2)
    running: Counter[str] = Counter()
    go_on = asyncio.Event()

    async def job(caller: str) -> None:
        async with semaphore.slot(caller):
            running[caller] += 1
            await go_on.wait()
            running[caller] -= 1

    jobs = [asyncio.create_task(job("a")) for _ in range(5)]
    await _settle()
    assert running == {"a": 2}
    jobs.append(asyncio.create_task(job("b")))
    await _settle()
    assert running == {"a": 2, "b": 1}
    go_on.set()
    await asyncio.gather(*jobs)


Event = st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "end", "cancel"]))


@given(st.lists(Event, max_size=60), st.integers(1, 4), st.integers(1, 3))
def test_no_slot_is_lost_or_given_twice(
    events: list[tuple[str, str]], total: int, per_caller: int
) -> None:
    async def run() -> None:
        semaphore = FairSemaphore(total, per_caller)
        running: Counter[str] = Counter()
        jobs: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []

        async def job(caller: str, end: asyncio.Event) -> None:
            async with semaphore.slot(caller):
                running[caller] += 1
                try:
                    await end.wait()
                finally:
                    running[caller] -= 1

        for caller, event in events:
            if event == "start":
                end = asyncio.Event()
                jobs.append((caller, asyncio.create_task(job(caller, end)), end))
            for position, (owner, task, end) in enumerate(jobs):
                if event != "start" and owner == caller:
                    end.set() if event == "end" else task.cancel()
                    del jobs[position]
                    break
            await _settle()
            assert running.total() <= total
            assert all(count <= per_caller for count in running.values())
            expected = Counter(owner for owner, task, _ in jobs if not task.done())
            possible = sum(min(count, per_caller) for count in expected.values())
            assert running.total() == min(total, possible)  # no slot is idle while a job waits
        for _, _, end in jobs:
            end.set()
        await asyncio.gather(*(task for _, task, _ in jobs))

    asyncio.run(run())
