"""How long the machine stands still by itself, and what that leaves the best of servers."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.stalls import Stall, describe, ideal_p99, watch


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_core_that_another_program_takes_is_seen_to_stall() -> None:
    core = min(os.sched_getaffinity(0))
    busy = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    taker = subprocess.Popen([sys.executable, "-c", busy])
    try:
        found = describe(watch(1), 1)
    finally:
        taker.kill()
        taker.wait()
    assert 15 < found["stalled_percent"] < 100  # half of it, were nobody else there
    assert 0.5 < found["stall_ms"] < 1000


def test_the_longest_stall_of_the_middling_second_is_told_and_the_share_of_all() -> None:
    stalls = [Stall(0.1, 0.004), Stall(0.5, 0.001), Stall(1.5, 0.002), Stall(2.2, 0.013)]
    assert describe(stalls, 3) == {"stall_ms": 4.0, "stalled_percent": pytest.approx(2 / 3)}


def test_without_stalls_an_ideal_server_takes_what_a_request_takes_it() -> None:
    assert ideal_p99([], 1, rate=700, peak=1_000) == pytest.approx(1.0)


def test_a_stall_delays_whoever_comes_meanwhile_and_until_the_rest_is_worked_off() -> None:
    # Of 100 requests, one every 10 ms, each of 1 ms, the stall meets six and delays the next
    # hardly: the longest comes at its begin and waits 50 ms.
    found = ideal_p99([Stall(0.3, 0.05)], 1, rate=100, peak=1_000)
    assert 42 < found <= 51
    assert ideal_p99([Stall(0.3, 0.0005)], 1, rate=100, peak=1_000) < 1.6


@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)), max_size=5),
    st.floats(10, 200),
)
def test_no_stall_makes_an_ideal_server_faster(
    pairs: list[tuple[float, float]], rate: float
) -> None:
    stalls, at = [], 0.0
    for pause, length in pairs:
        stalls.append(Stall(at + pause, length))
        at = stalls[-1].ended
    found = [ideal_p99(stalls[:count], 1, rate=rate, peak=250) for count in range(len(stalls) + 1)]
    assert found[0] == pytest.approx(4.0)
    assert found == sorted(found)
