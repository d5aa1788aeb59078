"""Workers are replaced without a lost or refused request: on SIGHUP, and after SIGTERM to one."""

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from faulty_networks import write_sound
from live_server import Server, serving, temporary_home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks on sockets are Linux's")

CLIENTS = 3
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3.0]}]}


@contextmanager
def clients(server: Server) -> Iterator[Counter[str]]:
    """Send requests, each on its own connection; give the outcomes of all."""
    outcomes: Counter[str] = Counter()
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            try:
                response = httpx.post(f"{server.url}/v2/models/sound/infer", json=BODY, timeout=60)
                outcomes[str(response.status_code)] += 1
            except httpx.TransportError as error:
                outcomes[repr(error)] += 1
            time.sleep(0.01)

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository of the servers."""
    root = tmp_path_factory.mktemp("packages")
    write_sound(root, "sound")
    return root


@contextmanager
def served(
    root: Path, packages: Path, workers: int, graceful_seconds: float = 5
) -> Iterator[Server]:
    """Serve with this number of workers during the block."""
    settings = {
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MODEL_REPOSITORY": str(packages),
        "BENTOML_CONFIG_OPTIONS": f"services.fitserve.workers={workers}",
        "FITSERVE_GRACEFUL_SHUTDOWN_SECONDS": str(graceful_seconds),
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        yield server


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest, root: Path, packages: Path) -> Iterator[Server]:
    """A server with one worker, or two. The last test with it ends it."""
    with served(root, packages, request.param) as server:
        yield server


@pytest.fixture
def read_new_log(server: Server) -> Callable[[], str]:
    """A function that returns the log since the start of the test."""
    before = len(server.read_log())
    return lambda: server.read_log()[before:]


def wait_for(condition: Callable[[], object], server: Server) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"it does not come; {server.tail()}"
        time.sleep(0.05)


def test_sighup_replaces_the_workers_and_loads_new_packages(
    server: Server, packages: Path, read_new_log: Callable[[], str]
) -> None:
    before = set(server.workers())
    late = f"late-{len(before)}"
    with clients(server) as outcomes:
        wait_for(lambda: outcomes["200"] > 20, server)
        write_sound(packages, late)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the old workers have ended" in read_new_log(), server)
        sent = outcomes.total()
        wait_for(lambda: outcomes.total() > sent + 20, server)
    assert set(outcomes) == {"200"}, outcomes
    after = set(server.workers())
    assert len(after) == len(before)
    assert not after & before
    assert httpx.get(f"{server.url}/v2/models/{late}/ready").status_code == 200
    assert "a worker died" not in read_new_log()


def test_workers_that_serve_nothing_do_not_replace_those_that_serve(
    server: Server, packages: Path, read_new_log: Callable[[], str]
) -> None:
    before = set(server.workers())
    files = {path: path.read_bytes() for path in packages.glob("*/1/model.onnx")}
    for file in files:
        file.write_bytes(b"damaged")
    try:
        with clients(server) as outcomes:
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "the old workers go on" in read_new_log(), server)
            wait_for(lambda: set(server.workers()) == before, server)
            sent = outcomes.total()
            wait_for(lambda: outcomes.total() > sent + 20, server)
    finally:
        for file, content in files.items():
            file.write_bytes(content)
    assert set(outcomes) == {"200"}, outcomes
    assert "as a new worker serves no model" in read_new_log()


def test_a_worker_that_is_terminated_is_replaced_while_connections_wait(server: Server) -> None:
    before = set(server.workers())
    with clients(server) as outcomes:
        wait_for(lambda: outcomes["200"] > 20, server)
        min(before, key=lambda worker: worker.pid).terminate()

        def is_replaced() -> bool:
            now = set(server.workers())
            return now != before and len(now) == len(before)

        wait_for(is_replaced, server)
        sent = outcomes.total()
        wait_for(lambda: outcomes.total() > sent + 20, server)
    assert set(outcomes) == {"200"}, outcomes


def test_sigterm_during_a_restart_ends_all_workers(
    server: Server, read_new_log: Callable[[], str]
) -> None:
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "rolling restart" in read_new_log(), server)
    workers = server.workers()
    server.process.send_signal(signal.SIGTERM)
    server.check_end(workers)


def test_sigterm_ends_a_server_whose_old_worker_hangs(root: Path, packages: Path) -> None:
    """The old worker is being ended by the rolling restart, which then stops, too."""
    with served(root, packages, workers=1, graceful_seconds=2) as server:
        (old,) = server.workers()
        old.suspend()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.read_log().count("Completed async startup hook") == 2, server)
        time.sleep(0.5)  # the old one has been told to end
        workers = server.workers()
        assert len(workers) == 2
        server.process.send_signal(signal.SIGTERM)
        server.check_end(workers)
        assert "Traceback" not in server.read_log()
