"""A worker that dies is replaced within seconds; a server whose workers cannot start ends.

If the supervisor is killed, the workers finish their requests and end.
"""

import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from faulty_networks import VICTIM, write_hanging, write_sound
from live_server import STOP_SECONDS, Server, runs_jobs, serving, temporary_home
from raw_client import message
from waiting import is_running, wait_until

from benchmarks.neighbours.attacks import ATTACKS
from service.transport.supervisor import MAX_RESTARTS

CLIENTS = 4
BACK_SECONDS = 15.0  # one check a second, and a start: BentoML, the libraries, seven models


@pytest.fixture
def running(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    with temporary_home() as home, serving(home, root, settings=chosen) as server:
        yield server


class Load:
    """Clients that send one request after the other, each on its own connection."""

    def __init__(self, url: str) -> None:
        self.outcomes: Counter[str] = Counter()  # of every request: its status, or how it was lost
        self._url = url
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._ended.is_set():
                try:
                    outcome = str(client.post("/predict_curve", json={"x": [1]}).status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                self.outcomes[outcome] += 1
                time.sleep(0.01)

    def __enter__(self) -> "Load":
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the clients; every request has its outcome."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def the_worker(server: Server) -> psutil.Process:
    (worker,) = server.workers()
    return worker


def test_a_killed_worker_is_replaced_and_only_its_own_requests_are_lost(running: Server) -> None:
    killed = the_worker(running)
    with Load(running.url) as load, httpx.Client(base_url=running.url, timeout=60) as client:
        time.sleep(1)
        assert load.outcomes["200"] > 10, load.outcomes
        killed.kill()
        began = time.monotonic()
        killed.wait(5)
        # The parent keeps the socket, so connections wait for the next worker.
        assert client.post("/predict_curve", json={"x": [1]}).status_code == 200
        away = time.monotonic() - began
        time.sleep(1)
    assert the_worker(running) != killed
    lost = {name: count for name, count in load.outcomes.items() if name != "200"}
    assert away < BACK_SECONDS, f"it answered again after {away:.1f} s; {running.tail()}"
    assert sum(lost.values()) <= CLIENTS, f"{lost}; {running.tail()}"
    assert "a worker died and is restarted" in running.read_log()


def test_one_of_several_workers_is_replaced_in_a_container(
    root: Path, chosen: dict[str, str]
) -> None:
    settings = {
        **chosen,
        "BENTOML_CONFIG_OPTIONS": "services.fitserve.workers=2",
        "BENTOML_CONTAINERIZED": "true",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        killed, other = server.workers()
        killed.kill()
        deadline = time.monotonic() + BACK_SECONDS
        while len(set(server.workers()) - {killed}) < 2:
            assert time.monotonic() < deadline, f"it stays away; {server.tail()}"
            time.sleep(0.1)
        assert other in server.workers()
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_a_server_whose_workers_cannot_start_ends(root: Path, chosen: dict[str, str]) -> None:
    """The key file is valid when the server starts, and invalid when a worker is replaced."""
    with temporary_home() as home:
        keys = home / "keys"
        keys.write_text(f"ann {'0' * 64}")
        settings = {**chosen, "FITSERVE_API_KEYS_FILE": str(keys)}
        with serving(home, root, settings=settings) as server:
            keys.write_text("this is no line of a file of keys")
            the_worker(server).kill()
            try:
                code = server.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pytest.fail(f"it is up and does not respond; {server.tail()}")
            assert code != 0, server.tail()
            log = server.read_log()
            assert f"workers died {MAX_RESTARTS + 1} times" in log, server.tail()
            assert "this server ends" in log


def test_workers_of_a_killed_parent_finish_their_requests_and_end(
    root: Path, tmp_path: Path
) -> None:
    write_sound(tmp_path, "sound")
    write_hanging(tmp_path, "hanging")
    settings = {
        "BENTOML_CONFIG_OPTIONS": "services.fitserve.workers=2",
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path),
    }
    header, _, body = message("sound", 3).partition(b"\r\n\r\n")
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        workers, port = server.workers(), int(server.url.rpartition(":")[2])
        assert len(workers) == 2
        deadline = time.monotonic() + STOP_SECONDS
        while server.read_log().count("Completed async startup hook") < len(workers):
            assert time.monotonic() < deadline, server.tail()
            time.sleep(0.1)
        try:
            with ExitStack() as stack:
                started, endless, hanging = (
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
                    for _ in range(3)
                )
                for connection in (started, endless):
                    connection.sendall(header + b"\r\n\r\n")
                hanging.sendall(message("hanging", VICTIM))
                while sum(map(connected, workers)) < 3:
                    assert time.monotonic() < deadline, server.tail()
                    time.sleep(0.05)
                server.process.kill()
                server.process.wait()
                started.sendall(body)
                assert started.recv(65_536).startswith(b"HTTP/1.1 200 ")
                wait_until(lambda: not any(map(is_running, workers)), 2, "the workers did not end")
        finally:
            for worker in filter(is_running, workers):
                worker.kill()
        with socket.create_server(("127.0.0.1", port)):
            pass  # the port is free


@pytest.mark.parametrize("killed", ["the worker", "its parent", "the server of the jobs"])
def test_no_job_process_outlives_those_that_started_it(killed: str, running: Server) -> None:
    worker, port = the_worker(running), int(running.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(ATTACKS["RLE BMP, 33 kB"].request())
        deadline = time.monotonic() + STOP_SECONDS
        while not (busy := [process for process in jobs_of(worker) if process.children()]):
            assert time.monotonic() < deadline, running.tail()
            time.sleep(0.02)
        (job_server,) = busy
        jobs = job_server.children()
        ended = [job_server, *jobs]
        if killed == "the worker":
            worker.kill()
        elif killed == "its parent":
            running.process.kill()
            running.process.wait()
            ended.append(worker)
        else:
            job_server.kill()
        while left := [process for process in ended if is_running(process)]:
            assert time.monotonic() < deadline, f"{left} go on; {running.tail()}"
            time.sleep(0.02)
    if killed == "the server of the jobs":
        for _ in range(3):
            large = httpx.post(
                f"{running.url}/predict_curve", json={"x": [1.5] * 50_000}, timeout=60
            )
            assert large.status_code in (200, 413)
        assert the_worker(running) == worker


def jobs_of(worker: psutil.Process) -> list[psutil.Process]:
    """Return the server of the job processes of a worker, once it runs its own program."""
    return [child for child in worker.children() if runs_jobs(child)]


def connected(worker: psutil.Process) -> int:
    """Return the number of connections of a worker."""
    return len([link for link in worker.net_connections() if link.status == "ESTABLISHED"])
