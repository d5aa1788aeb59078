"""A worker ends with its parent, whatever it is doing: shown with programs that would not end."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from waiting import is_running, wait_until

from service import parent_watch

PARENT_PROGRAM = """
import os, subprocess, sys, time

environment = {**os.environ, "FITSERVE_PARENT": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-P", *sys.argv[1:]], env=environment)
print(child.pid, flush=True)
time.sleep(600)
"""

WORKERS = {
    "imports": "import time; print('goes', flush=True); time.sleep(600)",
    # As a draining server.
    "ignores SIGTERM": """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: None)
        from service import parent_watch
        parent_watch.end_soon()
        print("goes", flush=True)
        while True:
            time.sleep(600)
    """,
    "computes in Python": """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: None)
        print("goes", flush=True)
        while True:
            pass
    """,
    # The interpreter runs no other thread, as while a library is loaded.
    "holds the interpreter": """
        import re
        print("goes", flush=True)
        re.match("(a+)+$", "a" * 60 + "b")
    """,
    "serves, and holds the interpreter": """
        import re
        from service import parent_watch
        parent_watch.end_soon()
        print("goes", flush=True)
        re.match("(a+)+$", "a" * 60 + "b")
    """,
}


@pytest.mark.parametrize("doing", WORKERS)
def test_a_worker_ends_within_two_seconds_of_its_parent(
    tmp_path: Path, root: Path, doing: str
) -> None:
    if "holds the interpreter" in doing and sys.platform != "linux":
        pytest.skip("only Linux' kernel ends it then")
    (tmp_path / "program.py").write_text(textwrap.dedent(WORKERS[doing]))
    command = [sys.executable, "-c", PARENT_PROGRAM, str(Path(parent_watch.__file__)), "program"]
    started = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    worker = psutil.Process(int(started.stdout.readline()))
    try:
        assert started.stdout.readline() == "goes\n"
        time.sleep(2 * parent_watch.CHECK_SECONDS)  # it runs while its parent does
        assert is_running(worker)
        started.kill()
        started.wait()
        wait_until(lambda: not is_running(worker), 2, "it did not end")
    finally:
        started.kill()
        if worker.is_running():
            worker.kill()
