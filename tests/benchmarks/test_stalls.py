"""How long the machine stands still by itself."""

import os
import subprocess
import sys

import pytest

from benchmarks.serving.stalls import stalls


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_core_that_another_program_takes_is_seen_to_stall() -> None:
    core = min(os.sched_getaffinity(0))
    busy = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    taker = subprocess.Popen([sys.executable, "-c", busy])
    try:
        found = stalls(1)
    finally:
        taker.kill()
        taker.wait()
    assert 15 < found["stalled_percent"] < 100  # half of it, were nobody else there
    assert 0.5 < found["stall_ms"] < 1000
