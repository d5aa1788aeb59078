"""A refusal reaches who sends all before it reads: the rest of its request is read, and dropped."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from live_server import Server, serving, temporary_home

MEGABYTE = 2**20
LARGEST = MEGABYTE
BODY_SECONDS = 1
HEAD = b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SENT = 60 * MEGABYTE


@pytest.fixture(scope="module")
def server(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    settings = chosen | {
        "FITSERVE_MAX_BODY_BYTES": str(LARGEST),
        "FITSERVE_BODY_TIMEOUT_SECONDS": str(BODY_SECONDS),
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65_536):
        received += more
    return received


def post(path: bytes, length: bytes = b"Content-Length: %d\r\n\r\n" % SENT) -> bytes:
    return HEAD % (b"POST", path) + length


CHUNK = b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE)
REFUSED = {
    "the protocol": (post(b"/v2/models/curve-tanh/infer"), b" " * MEGABYTE, 413),
    "a typed endpoint": (post(b"/predict_curve"), b" " * MEGABYTE, 413),
    "chunks": (
        post(b"/v2/models/curve-tanh/infer", b"Transfer-Encoding: chunked\r\n\r\n"), CHUNK, 413,
    ),
    "a typed endpoint's chunks": (
        post(b"/predict_curve", b"Transfer-Encoding: chunked\r\n\r\n"), CHUNK, 413,
    ),
    "no such path": (post(b"/nothing"), b" " * MEGABYTE, 404),
    "a coding that is not known": (
        post(b"/predict_curve", b"Transfer-Encoding: new\r\n\r\n"), b" " * MEGABYTE, 501,
    ),
    "no request": (b"\x00\x01\x02", b"\x00" * MEGABYTE, 400),
    "a head without end": (b"GET /", b"a" * MEGABYTE, 431),
    "no chunk": (
        post(b"/predict_curve", b"Transfer-Encoding: chunked\r\n\r\nx"), b"x" * MEGABYTE, 400,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_the_answer_reaches_who_sends_all_before_it_reads(what: str, server: Server) -> None:
    head, piece, status = REFUSED[what]
    for _ in range(3):
        with connect(server) as connection:
            connection.sendall(head)
            for _ in range(SENT // MEGABYTE):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
        assert answer.count(b"\r\nx-request-id: ") == 1


def test_the_standard_client_is_told(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(3):
        client = http.client.HTTPConnection(host, int(port), timeout=20)
        client.request("POST", "/predict_curve", b" " * SENT)
        answer = client.getresponse()
        assert answer.status == 413
        assert "larger than" in json.loads(answer.read())["error"]
        client.close()


def test_who_sends_without_end_is_hung_up_on_and_takes_no_memory(server: Server) -> None:
    (worker,) = server.workers()
    before, begun, sent = worker.memory_info().rss, time.monotonic(), 0
    with connect(server) as connection, pytest.raises(ConnectionError):  # noqa: PT012 - it ends
        connection.sendall(post(b"/predict_curve", b"Content-Length: 1000000000000\r\n\r\n"))
        while time.monotonic() - begun < 10 * BODY_SECONDS:
            connection.sendall(b" " * MEGABYTE)
            sent += MEGABYTE
    assert time.monotonic() - begun >= BODY_SECONDS
    assert worker.memory_info().rss - before < 32 * MEGABYTE


@pytest.mark.parametrize("path", [b"/predict_curve", b"/v2/models/curve-tanh/infer"])
def test_a_request_that_breaks_in_its_body_is_answered_once(path: bytes, server: Server) -> None:
    """What waits for the rest of the body is told that it does not come."""
    with connect(server) as connection:
        head = post(path, b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(head + b"2\r\n{}\r\n")
        time.sleep(0.2)  # it is being awaited
        connection.sendall(b"no chunk\r\n")
        connection.settimeout(2 * BODY_SECONDS)
        answer = read_all(connection)
        assert answer.count(b"\r\nx-request-id: ") == 1
        time.sleep(BODY_SECONDS)
    assert "Traceback" not in server.read_log()


def test_who_is_silent_after_a_refusal_is_hung_up_on(server: Server) -> None:
    (worker,) = server.workers()
    with connect(server) as connection:
        connection.sendall(post(b"/predict_curve"))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
        deadline = time.monotonic() + 20
        while has(worker, connection) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not has(worker, connection)


def has(worker: psutil.Process, connection: socket.socket) -> bool:
    port = connection.getsockname()[1]
    return any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp"))


def test_the_server_ends_soon_with_such_connections(root: Path, chosen: dict[str, str]) -> None:
    with (
        temporary_home() as home,
        serving(home, root, settings=chosen) as started,
        connect(started) as connection,
    ):
        connection.sendall(b"\x00\x01")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
        started.end()
