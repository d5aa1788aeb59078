"""A server that gets a signal to end does so within its time limit, whatever it is doing."""

import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from faulty_networks import VICTIM, write_hanging, write_slow, write_sound
from live_server import Server, serving, temporary_home
from pictures import encoded, file_part
from PIL import Image, ImageDraw
from raw_client import message

BOUND = 1  # seconds, if a test sets the limit
PATIENCE = 20  # seconds: far more than BOUND on a busy machine, far less than the work in progress
PICTURES = 30
ROWS = 60_000  # of a response of 1 MB
FOREVER = 10**11  # iterations of a loop


@contextmanager
def server_of(root: Path, repository: Path, *target: str, **settings: str) -> Iterator[Server]:
    """A server of these networks, which may not be ready yet."""
    settings |= {"FITSERVE_DEVICE": "cpu", "FITSERVE_MODEL_REPOSITORY": str(repository)}
    with (
        temporary_home() as home,
        serving(home, root, *target, until=None, settings=settings) as server,
    ):
        yield server


def wait_for(condition: Callable[[], object], server: Server) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert server.process.poll() is None, f"it ended; {server.tail()}"
        assert time.monotonic() < deadline, f"it does not come; {server.tail()}"
        time.sleep(0.05)


def wait_until_ready(server: Server) -> None:
    def ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{server.url}/readyz").status_code == 200
        return False

    wait_for(ready, server)


def connect(server: Server, sent: bytes, buffer: int = 0) -> socket.socket:
    """Open a connection, and send these bytes; the receive buffer has `buffer` bytes."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    connection.sendall(sent)
    return connection


def check_end(server: Server, workers: list[psutil.Process], began: float) -> float:
    """Check that the server ends cleanly; return the seconds that it took."""
    server.check_end(workers)
    seconds = time.monotonic() - began
    assert seconds < PATIENCE, f"it took {seconds:.1f} s; {server.tail()}"
    return seconds


def large_message() -> bytes:
    """Return a request whose response is larger than the kernel's buffers."""
    rows = [value % 97 / 97 for value in range(ROWS)]
    tensor = {"name": "x", "shape": [ROWS, 1], "datatype": "FP32", "data": rows}
    body = json.dumps({"inputs": [tensor]}).encode()
    header = "POST /v2/models/sound/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    return f"{header}{len(body)}\r\n\r\n".encode() + body


def test_a_busy_server_ends_within_its_time_limit(
    root: Path, shipped: Path, tmp_path: Path
) -> None:
    write_sound(tmp_path, "sound")
    write_hanging(tmp_path, "hanging")
    shutil.copytree(shipped / "mnist-mlp", tmp_path / "mnist-mlp")
    picture = Image.new("L", (6000, 6000), 255)
    ImageDraw.Draw(picture).line([(3000, 900), (3000, 5000)], fill=0, width=400)
    file = file_part(encoded(picture))
    answered: list[int] = []

    def ask(server: Server) -> None:
        with suppress(httpx.TransportError):
            url, form = f"{server.url}/classify_image", {"model": "mnist-mlp"}
            reply = httpx.post(url, files=[file], data=form, timeout=120)
            answered.append(reply.status_code)

    option = ("--timeout-graceful-shutdown", str(BOUND))
    settings = {
        "FITSERVE_GRACEFUL_SHUTDOWN_SECONDS": "500",  # overridden by the option
        "FITSERVE_MAX_QUEUE_ROWS": str(ROWS),
        "FITSERVE_MAX_QUEUE_SECONDS": "60",
        "FITSERVE_BODY_TIMEOUT_SECONDS": "120",
        "FITSERVE_TIMEOUT_SECONDS": "120",
    }
    with server_of(root, tmp_path, ".", *option, **settings) as server, ExitStack() as stack:
        wait_until_ready(server)
        header = b"POST /v2/models/sound/infer HTTP/1.1\r\nHost: localhost\r\n"
        upload = header + b"Content-Length: 99\r\n\r\n{"
        for sent, buffer in (
            (message("hanging", VICTIM), 0),
            (upload, 0),
            (large_message() * 8, 4096),
            (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 0),  # and stays connected
        ):
            stack.enter_context(connect(server, sent, buffer))
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(PICTURES)]
        for thread in threads:
            thread.start()
        workers = server.workers()

        def all_have_come() -> bool:
            links = [link for process in workers for link in process.net_connections()]
            established = sum(link.status == "ESTABLISHED" for link in links)
            return bool(answered) and established + len(answered) >= PICTURES + 4

        wait_for(all_have_come, server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        seconds = check_end(server, workers, began)
        for thread in threads:
            thread.join()
        log = server.read_log()
    print(f"{len(answered)} of {PICTURES} pictures were answered; it ended after {seconds:.1f} s")
    assert 200 in answered
    assert set(answered) <= {200, 503}, "the service is shutting down"
    lost = int(log.partition("requests lost: ")[2].split()[0])
    assert lost >= PICTURES - len(answered) + 3, "a request, an upload, and an unread answer"


def test_a_second_ctrl_c_ends_the_server_at_once(root: Path, tmp_path: Path) -> None:
    write_hanging(tmp_path, "hanging")
    with server_of(root, tmp_path) as server:
        wait_until_ready(server)
        with connect(server, message("hanging", VICTIM)):
            (worker,) = server.workers()
            wait_for(lambda: worker.cpu_percent(0.2) > 50, server)
            server.process.send_signal(signal.SIGINT)
            wait_for(lambda: "Ctrl-C ends it at once" in server.read_log(), server)
            began = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            check_end(server, [worker], began)
            assert "requests lost: 1\n" in server.read_log()


def test_a_hung_worker_is_killed_soon_after_the_limit(root: Path, tmp_path: Path) -> None:
    write_sound(tmp_path, "sound")
    with server_of(root, tmp_path, FITSERVE_GRACEFUL_SHUTDOWN_SECONDS="1") as server:
        wait_until_ready(server)
        (worker,) = server.workers()
        worker.suspend()
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        check_end(server, [worker], began)
        assert f"worker {worker.pid} did not end in time, and was killed" in server.read_log()


@pytest.mark.parametrize("end", ["SIGTERM", "kill -9 of the parent"])
def test_the_server_ends_while_models_are_loading(root: Path, tmp_path: Path, end: str) -> None:
    write_slow(tmp_path, "slow", FOREVER)
    with server_of(root, tmp_path) as server:
        wait_for(lambda: "Running startup hook" in server.read_log(), server)
        # A fork for the server of the jobs looks like a worker until its program begins.
        wait_for(lambda: len(server.workers()) == 1, server)
        (worker,) = server.workers()
        wait_for(lambda: worker.cpu_percent(0.2) > 50, server)
        began = time.monotonic()
        if end == "SIGTERM":
            server.process.send_signal(signal.SIGTERM)
            check_end(server, [worker], began)
        else:
            server.process.kill()
            server.process.wait()
            with suppress(psutil.NoSuchProcess):
                worker.wait(PATIENCE)


def test_a_worker_that_is_still_importing_ends_with_its_parent(root: Path, tmp_path: Path) -> None:
    write_sound(tmp_path, "sound")
    with server_of(root, tmp_path) as server:
        wait_for(server.workers, server)
        (worker,) = server.workers()
        server.process.kill()
        server.process.wait()
        with suppress(psutil.NoSuchProcess):
            worker.wait(PATIENCE)
        assert "Service fitserve initialized" not in server.read_log()
