"""Clients that do not read their responses: each has a time limit, all share a memory limit."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from live_server import Server, serving, temporary_home
from wide_networks import REPEATS, write_wide

MEGABYTE = 2**20
SECONDS = 3
COLUMNS = 1_000
BODY_BYTES = 4 * COLUMNS * REPEATS  # of a response, about 16 MB
LIMIT = 6 * BODY_BYTES
"""The memory limit of the server with a long time limit."""
PATHS = ["/v2/models/wide/infer", "/v2/models/wide/infer?on=asgi"]
"""A query makes a request take the ASGI path."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    write_wide(folder, "wide")
    return folder


@pytest.fixture(scope="module")
def hasty(root: Path, repository: Path) -> Iterator[Server]:
    """A server with a short time limit."""
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_RESPONSE_TIMEOUT_SECONDS": str(SECONDS),
        "FITSERVE_MAX_UNREAD_BYTES": str(2**32),
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


@pytest.fixture(scope="module")
def small(root: Path, repository: Path) -> Iterator[Server]:
    """A server with a low memory limit, whose batches are computed by a thread."""
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_RESPONSE_TIMEOUT_SECONDS": "600",
        "FITSERVE_MAX_UNREAD_BYTES": str(LIMIT),
        "FITSERVE_INLINE_SECONDS": "0",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def message(path: str, columns: int = COLUMNS) -> bytes:
    """Return a request for a binary tensor of `columns` times `REPEATS` numbers."""
    tensor = {"name": "x", "shape": [1, columns], "datatype": "FP32", "data": [1.5] * columns}
    content = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    body = json.dumps(content).encode()
    header = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return header.encode() + body


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def receive(connection: socket.socket, count: int, size: int, pause: float) -> bytes:
    """Read `count` responses slowly, this many bytes at a time, and return the last body."""
    received = bytearray()
    for _ in range(count):
        while b"\r\n\r\n" not in received:
            received += connection.recv(size)
        header, _, received = received.partition(b"\r\n\r\n")
        match = re.search(rb"\r\ncontent-length: (\d+)", header)
        assert header.startswith(b"HTTP/1.1 200 ")
        assert match
        length = int(match[1])
        while len(received) < length:
            more = connection.recv(size)
            assert more, f"the connection ended after {len(received)} of {length} bytes"
            received += more
            time.sleep(pause)
        body, received = received[:length], received[length:]
    return bytes(body)


def was_reset(connection: socket.socket) -> bool:
    """Return whether the connection was reset, and not closed as at the end of a response."""
    try:
        while connection.recv(MEGABYTE):
            pass
    except ConnectionResetError:
        return True
    return False


def is_right(body: bytes, columns: int = COLUMNS) -> bool:
    numbers = np.frombuffer(body[-4 * columns * REPEATS :], np.float32)
    return bool((numbers == 1.5).all())


def disconnected(server: Server, reason: str) -> int:
    """Return how many clients the server has disconnected for this reason."""
    match = re.search(
        rf'fitserve_slow_readers_total\{{reason="{reason}"\}} (\d+)',
        httpx.get(f"{server.url}/metrics").text,
    )
    return int(match[1]) if match else 0


def worker(server: Server) -> psutil.Process:
    return max(server.workers(), key=lambda process: process.memory_info().rss)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_read_is_dropped_after_the_time_limit_and_others_are_served(
    path: str, hasty: Server
) -> None:
    clients = 24
    process, before = worker(hasty), disconnected(hasty, "time")
    with connect(hasty) as warm_up:
        warm_up.sendall(message(path))
        assert is_right(receive(warm_up, 1, MEGABYTE, 0))
    rss = process.memory_info().rss
    bodies: list[bytes] = []

    def read_slowly() -> None:
        """Take twice as long as the time limit for each of two responses."""
        with connect(hasty) as honest:
            honest.sendall(2 * message(path))
            bodies.append(receive(honest, 2, BODY_BYTES // 60, SECONDS / 30))

    with ExitStack() as stack:
        held = [stack.enter_context(connect(hasty)) for _ in range(clients)]
        for connection in held:
            connection.sendall(message(path))
        reader = threading.Thread(target=read_slowly)
        reader.start()
        highest, deadline = rss, time.monotonic() + 20 * SECONDS
        while disconnected(hasty, "time") < before + clients:
            assert time.monotonic() < deadline, "clients that do not read stay connected"
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.1)
        assert highest - rss > clients * BODY_BYTES / 2, "the responses were not held"
        reader.join()
        assert is_right(bodies[0]), "a slow reader lost its response"
        deadline = time.monotonic() + 10
        while process.memory_info().rss - rss > (highest - rss) / 5:
            assert time.monotonic() < deadline, "the memory is still held"
            time.sleep(0.1)
        for connection in held:
            assert was_reset(connection)
    assert disconnected(hasty, "time") == before + clients
    assert "did not read its response" in hasty.read_log()


@pytest.mark.parametrize("path", PATHS)
def test_beyond_the_memory_limit_those_that_do_not_read_are_disconnected(
    path: str, small: Server
) -> None:
    clients, columns = 12, 4 * COLUMNS  # a response of an honest client has 64 MB
    before = disconnected(small, "memory")
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(connect(small)).sendall(message(path))
            with connect(small) as honest:
                honest.sendall(message(path, columns))
                assert is_right(receive(honest, 1, MEGABYTE, 0), columns)
        deadline = time.monotonic() + 20
        while disconnected(small, "memory") < before + clients - LIMIT // BODY_BYTES:
            assert time.monotonic() < deadline, "the responses hold more than their limit"
            time.sleep(0.1)
    assert disconnected(small, "time") == 0


def test_one_client_holds_at_most_one_response_whatever_it_asks_for(hasty: Server) -> None:
    process = worker(hasty)
    with connect(hasty) as connection:
        connection.sendall(message(PATHS[0]))
        assert is_right(receive(connection, 1, MEGABYTE, 0))
        before = process.memory_info().rss
        connection.sendall(20 * message(PATHS[0]))
        highest, end = before, time.monotonic() + SECONDS / 2
        while time.monotonic() < end:
            highest = max(highest, process.memory_info().rss)
            time.sleep(0.02)
        assert highest - before < 4 * BODY_BYTES
        assert is_right(receive(connection, 20, MEGABYTE, 0))
