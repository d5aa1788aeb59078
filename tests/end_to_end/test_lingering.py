"""A client that sends everything before it reads gets its refusal; the rest is discarded."""

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
    "a header without end": (b"GET /", b"a" * MEGABYTE, 431),
    "no chunk": (
        post(b"/predict_curve", b"Transfer-Encoding: chunked\r\n\r\nx"), b"x" * MEGABYTE, 400,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_the_response_reaches_a_client_that_sends_everything_before_it_reads(
    what: str, server: Server
) -> None:
    header, piece, status = REFUSED[what]
    for _ in range(3):
        with connect(server) as connection:
            connection.sendall(header)
            for _ in range(SENT // MEGABYTE):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            response = read_all(connection)
        assert response.startswith(b"HTTP/1.1 %d " % status), response[:300]
        assert response.count(b"\r\nx-request-id: ") == 1


def test_the_standard_client_gets_the_response(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(3):
        client = http.client.HTTPConnection(host, int(port), timeout=20)
        client.request("POST", "/predict_curve", b" " * SENT)
        response = client.getresponse()
        assert response.status == 413
        assert "larger than" in json.loads(response.read())["error"]
        client.close()


def test_a_client_that_sends_endlessly_is_disconnected_and_uses_no_memory(server: Server) -> None:
    (worker,) = server.workers()
    before, started, sent = worker.memory_info().rss, time.monotonic(), 0
    with connect(server) as connection, pytest.raises(ConnectionError):  # noqa: PT012 - it ends
        connection.sendall(post(b"/predict_curve", b"Content-Length: 1000000000000\r\n\r\n"))
        while time.monotonic() - started < 10 * BODY_SECONDS:
            connection.sendall(b" " * MEGABYTE)
            sent += MEGABYTE
    assert time.monotonic() - started >= BODY_SECONDS
    assert worker.memory_info().rss - before < 32 * MEGABYTE


@pytest.mark.parametrize("path", [b"/predict_curve", b"/v2/models/curve-tanh/infer"])
def test_a_malformed_body_gets_one_response(path: bytes, server: Server) -> None:
    """The handler that waits for the rest of the body learns that the body ends."""
    with connect(server) as connection:
        header = post(path, b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(header + b"2\r\n{}\r\n")
        time.sleep(0.2)  # a handler waits for it
        connection.sendall(b"no chunk\r\n")
        connection.settimeout(2 * BODY_SECONDS)
        response = read_all(connection)
        assert response.count(b"\r\nx-request-id: ") == 1
        time.sleep(BODY_SECONDS)
    assert "Traceback" not in server.read_log()


def test_a_silent_client_is_disconnected_after_a_refusal(server: Server) -> None:
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
    return any(
        connection.raddr and connection.raddr.port == port
        for connection in worker.net_connections("tcp")
    )


def test_lingering_connections_do_not_delay_the_shutdown(
    root: Path, chosen: dict[str, str]
) -> None:
    with (
        temporary_home() as home,
        serving(home, root, settings=chosen) as started,
        connect(started) as connection,
    ):
        connection.sendall(b"\x00\x01")
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
        started.end()
