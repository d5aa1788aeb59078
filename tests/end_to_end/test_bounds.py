"""Limits before any endpoint: connections, the size and time of headers, the depth of JSON."""

import json
import pickle
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live_server import Server, serving, temporary_home

SECONDS = 1.0
IDLE_SECONDS = 6.0  # longer than BentoML keeps an idle connection
LARGEST = 65_536
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
).encode()
POST = b"POST /v2/models/curve-tanh/infer HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = POST + b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
RIGHT = WHOLE + b"\r\n" + BODY


@pytest.fixture(scope="module")
def hasty(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A server with a header timeout of one second."""
    settings = chosen | {"FITSERVE_HEADER_TIMEOUT_SECONDS": str(SECONDS)}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.fixture(scope="module")
def idle(hasty: Server) -> Iterator[tuple[socket.socket, float]]:
    """A connection that is idle during the other tests, and the time of its response."""
    with connect(hasty) as connection:
        connection.sendall(RIGHT)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        yield connection, time.monotonic()


def send(server: Server, parts: Iterable[bytes], pause: float = 0.0) -> tuple[bytes, float, int]:
    """Send the parts; return the response, the seconds until the close, and the bytes sent."""
    received, sent, started = b"", 0, time.monotonic()
    with connect(server) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                sent += len(part)
                time.sleep(pause)
        except OSError:
            pass  # closed; the response may still be readable
        try:
            while more := connection.recv(65_536):
                received += more
        except ConnectionError:
            pass
        return received, time.monotonic() - started, sent


def assert_refusal(response: bytes, status: int, words: str) -> None:
    header, _, body = response.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 %d " % status), response[:200]
    assert b"connection: close" in header
    assert b"content-type: application/json" in header
    assert b"x-content-type-options: nosniff" in header
    assert list(json.loads(body)) == ["error"]
    assert words in json.loads(body)["error"]


ENDLESS = {
    "a header": (WHOLE + b"X-A: ", b"a" * 65_536),
    "a header's name": (WHOLE, b"a" * 65_536),
    "headers": (WHOLE, b"X-A: a\r\n" * 8_192),
    "a path": (b"GET /", b"a" * 65_536),
    "what follows the last chunk": (CHUNKED + b"\r\n1\r\n{\r\n0\r\nX-A: ", b"a" * 65_536),
    "the extension of a chunk": (CHUNKED + b"\r\n1;", b"a" * 65_536),
    "empty lines": (b"", b"\r\n" * 32_768),
}


@pytest.mark.usefixtures("idle")  # from now on
@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_header_is_a_431_in_bounded_memory(what: str, hasty: Server) -> None:
    start, more = ENDLESS[what]
    worker = max(hasty.workers(), key=lambda process: process.memory_info().rss)
    before = worker.memory_info().rss
    response, _, _ = send(hasty, (start, *[more] * 1_600))  # 100 MB
    assert worker.memory_info().rss - before < 10 * 2**20
    assert_refusal(response, 431, "larger than 65,536 bytes")
    assert httpx.get(f"{hasty.url}/livez").status_code == 200


def test_a_header_may_be_as_large_as_the_limit(hasty: Server) -> None:
    for size, status in ((LARGEST - 1_000, 200), (LARGEST + 1, 431)):
        header = WHOLE + b"Connection: close\r\nX-A: " + b"a" * size + b"\r\n\r\n"
        response = send(hasty, [header + BODY])[0]
        assert response.startswith(b"HTTP/1.1 %d " % status)
    assert_refusal(response, 431, "larger than 65,536 bytes")


def test_a_large_body_does_not_count_as_header(hasty: Server) -> None:
    for extra in (b"", b"X-A: " + b"a" * 1_000 + b"\r\n"):
        body = BODY + b" " * 200_000
        header = POST + b"Connection: close\r\n" + extra + b"Content-Length: %d\r\n\r\n" % len(body)
        assert send(hasty, [header + body])[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "start", [b"", WHOLE + b"X-A: "], ids=["from its start", "after some headers"]
)
def test_a_header_that_does_not_end_in_time_is_a_408(start: bytes, hasty: Server) -> None:
    response, seconds, _ = send(
        hasty, [start, *[bytes([c]) for c in b"GET /" + b"a" * 200]], pause=0.05
    )
    assert SECONDS <= seconds < 3 * SECONDS
    assert_refusal(response, 408, "did not arrive within 1 seconds")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], b""),
        ([b"\r\n"] * 100, b"408 Request Timeout"),
        ([RIGHT, *[b"\r\n"] * 100], b"408 Request Timeout"),
        ([RIGHT + WHOLE, *[b"X-A: a\r\n"] * 100], b"408 Request Timeout"),
        (
            [b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", *[b" "] * 100],
            b"404 Not Found",
        ),
    ],
    ids=["nothing", "empty lines", "empty lines after", "half a second", "rest"],
)
def test_incomplete_requests_do_not_hold_a_connection_for_long(
    parts: list[bytes], words: bytes, hasty: Server
) -> None:
    response, seconds, _ = send(hasty, parts, pause=0.05)
    assert seconds < 4 * SECONDS
    assert words in response


def test_a_slow_client_within_the_limit_is_served_on_one_connection(hasty: Server) -> None:
    with connect(hasty) as connection:
        for cut in (5, 60, len(WHOLE) + 2, len(RIGHT) - 1):
            connection.sendall(RIGHT[:cut])
            time.sleep(0.5 * SECONDS)
            connection.sendall(RIGHT[cut:])
            response = b""
            while not response.endswith(b"]}]}"):  # header and body may arrive separately
                response += connection.recv(65_536)
            assert response.startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_stays_open_for_as_long_as_proxies_keep_theirs(
    idle: tuple[socket.socket, float],
) -> None:
    """After BentoML's default of 5 seconds, clients that keep theirs for longer lose requests."""
    connection, since = idle
    time.sleep(max(0.0, since + IDLE_SECONDS - time.monotonic()))
    connection.sendall(RIGHT)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"hello\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: b\r\n c\r\n\r\n",
        b"GET /\r\n\r\n",
    ],
)
def test_bytes_that_are_not_http_are_a_400(sent: bytes, hasty: Server) -> None:
    response, seconds, _ = send(hasty, [sent])
    assert_refusal(response, 400, "not a readable HTTP/1.1 request")
    assert seconds < SECONDS


def test_a_refused_request_is_counted_and_logged_once(hasty: Server) -> None:
    logged = hasty.read_log().count("Invalid HTTP request")
    send(hasty, [b"hello\r\n\r\n"])
    assert hasty.read_log().count("Invalid HTTP request") == logged + 1
    send(hasty, [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"])
    metrics = httpx.get(f"{hasty.url}/metrics").text
    for reason in ("bad_input", "head_too_large"):
        pattern = rf'fitserve_failures_total\{{endpoint="other",model="",reason="{reason}"\}} [1-9]'
        assert re.search(pattern, metrics)


def test_a_trailer_is_not_a_header(hasty: Server) -> None:
    trailers = b"Content-Encoding: gzip\r\nX-A: b\r\n\r\n"
    chunks = b"\r\n%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    last = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for header in (b"", b"Expect: 100-continue\r\n"):
        sent = CHUNKED + header + chunks + trailers
        for cut in (0, len(sent) - 4, len(sent) - 20):
            response, _, _ = send(hasty, [sent[:cut], sent[cut:] + last], pause=0.05)
            assert response.count(b"HTTP/1.1 200 OK") == 2, response


def test_an_upgrade_is_ignored(hasty: Server) -> None:
    upgrade = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert httpx.get(f"{hasty.url}/v2", headers=upgrade | key).json()["name"] == "fitserve"


@pytest.fixture(scope="module")
def small(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A server with low limits: 20 connections, and 3 MB of bodies of at most a megabyte.

    It is started with a low limit of open files.
    """
    settings = chosen | {
        "FITSERVE_MAX_CONNECTIONS": "20",
        "FITSERVE_MAX_BODY_BYTES": "1000000",
        "FITSERVE_MAX_BUFFERED_BYTES": "3000000",
    }
    few = ("bash", "-c", 'ulimit -Sn 256 && exec "$0" "$@"')
    with temporary_home() as home, serving(home, root, settings=settings, under=few) as started:
        yield started
        assert "Traceback" not in started.read_log()


def test_a_connection_beyond_the_limit_is_a_503_and_the_others_are_served(small: Server) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(small)) for _ in range(20)]
        for _ in range(3):
            response, seconds, _ = send(small, [RIGHT])
            assert_refusal(response, 503, "There are 20 connections")
            assert b"\r\nretry-after: 1\r\n" in response
            assert seconds < SECONDS
        held[0].sendall(RIGHT)
        assert held[0].recv(65_536).startswith(b"HTTP/1.1 200 ")
        held[1].close()
        deadline = time.monotonic() + 5
        while httpx.get(f"{small.url}/livez").status_code != 200:
            assert time.monotonic() < deadline, "there is room, and no connection is accepted"
    assert_counted(small, "connections")


def test_the_limit_of_open_files_exceeds_the_limit_of_connections(small: Server) -> None:
    (worker,) = small.workers()
    soft, hard = worker.rlimit(psutil.RLIMIT_NOFILE)
    assert min(hard, 1020) <= soft <= hard


def header_from(connection: socket.socket) -> bytes:
    """Return the header of a response, whose first bytes may come before the others."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65_536)
        assert more, received
        received += more
    return received


def test_all_connections_leave_open_files_for_large_requests_and_metrics(
    root: Path, chosen: dict[str, str]
) -> None:
    under = ("bash", "-c", 'ulimit -n 200 && exec "$0" "$@"')
    header = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n"
    large = BODY + b" " * 200_000  # read in another process
    with (
        temporary_home() as home,
        serving(home, root, settings=chosen, under=under) as server,
        ExitStack() as stack,
    ):
        held = [stack.enter_context(connect(server)) for _ in range(150)]
        assert_refusal(send(server, [RIGHT])[0], 503, "There are 150 connections, the maximum")
        for connection in held[:3]:
            connection.sendall(header % len(large) + large)
        for connection in held[:3]:
            assert b" 200 OK" in header_from(connection)
        held[3].sendall(WHOLE + b"\r\n" + BODY[::-1])
        assert b" 400 Bad Request" in header_from(held[3])
        held[4].sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 OK" in header_from(held[4])
        assert "Traceback" not in server.read_log()


def test_bodies_beyond_the_memory_limit_are_a_503_and_the_others_are_served(small: Server) -> None:
    body = BODY + b" " * 900_000
    header = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(small)) for _ in range(3)]
        for number, connection in enumerate(held):
            caller = b"\r\nX-Forwarded-For: 192.0.2.%d\r\n\r\n" % number
            connection.sendall(header.replace(b"\r\n\r\n", caller) + body[:-1])
        time.sleep(0.5)
        for _ in range(3):
            response, _, _ = send(small, [header + body[:-1]])
            assert_refusal(response, 503, "Too many large bodies are arriving")
            assert b"\r\nretry-after: 1\r\n" in response
            assert b" 200 OK" in send(small, [WHOLE + b"Connection: close\r\n\r\n" + BODY])[0]
        for connection in held:
            connection.sendall(body[-1:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert_counted(small, "bodies_full")


def test_one_caller_leaves_memory_for_the_bodies_of_others(small: Server) -> None:
    body = BODY + b" " * 700_000
    header = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(small)) for _ in range(8)]
        for connection in held:
            connection.setblocking(False)
            with suppress(OSError):  # refused
                connection.sendall(header + body[:400_000])
        time.sleep(0.5)
        caller = b"Connection: close\r\nX-Forwarded-For: 192.0.2.7\r\n"
        parts = [POST + caller + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1], body[-1:]]
        assert b" 200 OK" in send(small, parts, pause=0.2)[0]


def assert_counted(server: Server, reason: str) -> None:
    metrics = httpx.get(f"{server.url}/metrics").text
    assert re.search(rf'fitserve_failures_total.*reason="{reason}"\}} [3-9]', metrics)


@pytest.mark.parametrize(
    "path", ["/v2/models/curve-tanh/infer", "/predict_curve", "/classify_points"]
)
@pytest.mark.parametrize("opening", [b"[", b'{"x":', b'{"inputs":[{"data":['])
def test_json_that_is_too_deep_is_a_400(path: str, opening: bytes, client: httpx.Client) -> None:
    """The limit is orjson's: 1,024 levels."""
    closing = bytes({91: 93, 123: 125}[c] for c in reversed(opening) if c in b"[{")
    for levels in (1_025, 1_000_000):
        body = opening * levels + b"1" + closing * levels
        headers = {"Content-Type": "application/json"}
        response = client.post(path, content=body, headers=headers)
        assert response.status_code == 400
        reason = response.json()["error"]
        assert "depth limit exceeded" in reason or (levels > 1_025 and "too many" in reason)


class Explosive:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


def test_the_protocol_reads_no_pickle(client: httpx.Client, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"inputs": Explosive(trace)})
    pickle.loads(content)  # noqa: S301 - the file is written if it is unpickled
    trace.unlink()
    for kind in ("application/vnd.bentoml+pickle", "application/octet-stream", ""):
        for start in ("", "0", str(len(content))):
            headers = {"Content-Type": kind, "Inference-Header-Content-Length": start}
            for ending in ("infer", "versions/1/infer"):
                path = f"/v2/models/curve-tanh/{ending}"
                assert client.post(path, content=content, headers=headers).status_code == 400
    assert not trace.exists()
