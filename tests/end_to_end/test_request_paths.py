"""The response does not depend on how the bytes of a request arrive."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from live_server import Server, serving, temporary_home

TENSOR = {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2.5]}


def request(
    *, model: str = "curve-tanh", identity: str = "7", headers: str = "", version: str = "1.1"
) -> bytes:
    """Return the bytes of an inference request."""
    body = json.dumps({"id": identity, "inputs": [TENSOR]}).encode()
    return (
        f"POST /v2/models/{model}/infer HTTP/{version}\r\nHost: localhost\r\nX-Request-Id: mine\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def read_responses(connection: socket.socket, count: int) -> list[tuple[bytes, bytes]]:
    """Return the headers, without dates, and bodies of this number of responses."""
    responses, received = [], b""
    while len(responses) < count:
        header, end, rest = received.partition(b"\r\n\r\n")
        length = int(match[1]) if (match := re.search(rb"content-length: (\d+)", header)) else 0
        if end and len(rest) >= length:
            responses.append((re.sub(rb"date: [^\r]*\r\n", b"", header), rest[:length]))
            received = rest[length:]
        else:
            more = connection.recv(65536)
            assert more, f"the connection ended after {responses}, {received!r}"
            received += more
    assert received == b""
    return responses


def ask(server: Server, *parts: bytes, answers: int = 1) -> list[tuple[bytes, bytes]]:
    """Send the parts one after the other on one connection."""
    with connected(server) as connection:
        for number, part in enumerate(parts):
            if number:
                time.sleep(0.05)  # so that they arrive separately
            connection.sendall(part)
        return read_responses(connection, answers)


def test_a_request_in_two_parts_gets_the_same_response_as_in_one_part(server: Server) -> None:
    whole = request()
    (expected,) = ask(server, whole)
    assert expected[0].startswith(b"HTTP/1.1 200 OK\r\n")
    header = whole.index(b"\r\n\r\n") + 4
    for cut in (1, 20, header - 2, header, header + 1, len(whole) - 1):
        assert ask(server, whole[:cut], whole[cut:]) == [expected]
    assert ask(server, *(whole[i : i + 97] for i in range(0, len(whole), 97))) == [expected]


@pytest.mark.parametrize(
    "headers",
    [
        "Connection: keep-alive\r\n",
        "Content-Type: text/plain\r\n",
        "Expect: 100-continue\r\n",
        "Content-Encoding: identity\r\n",
    ],
)
def test_headers_that_change_the_path_do_not_change_the_response(
    server: Server, headers: str
) -> None:
    (expected,) = ask(server, request())
    with connected(server) as connection:
        connection.sendall(request(headers=headers))
        if headers.startswith("Expect"):
            assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert read_responses(connection, 1) == [expected]


def test_a_query_is_not_part_of_the_path(server: Server) -> None:
    (expected,) = ask(server, request())
    queried = request().replace(b"/infer HTTP", b"/infer?to=/infer HTTP", 1)
    assert ask(server, queried) == [expected]


def test_a_chunked_body_in_one_part_is_joined(server: Server) -> None:
    (expected,) = ask(server, request())
    header, _, body = request().partition(b"\r\n\r\n")
    header = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", header)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    assert ask(server, header + b"\r\n\r\n" + chunks + b"0\r\n\r\n") == [expected]


def test_requests_sent_together_get_responses_in_order(server: Server) -> None:
    sent = [request(identity=str(number)) for number in range(20)]
    sent[5] = request(identity="5", model="mnist-mlp")  # its input has another name
    sent[6] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    responses = ask(server, b"".join(sent), answers=20)
    for number, (header, body) in enumerate(responses):
        if number == 5:
            assert header.startswith(b"HTTP/1.1 400")
        elif number == 6:
            assert body == b"\n"
        else:
            assert json.loads(body)["id"] == str(number)


def test_a_connection_is_reusable_after_a_response_of_either_path(server: Server) -> None:
    with connected(server) as connection:
        for _ in range(3):
            for part in (
                request(),
                request(model="nobody"),
                b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ):
                connection.sendall(part)
                read_responses(connection, 1)


@pytest.mark.parametrize("sent", [request(headers="Connection: close\r\n"), request(version="1.0")])
def test_a_connection_is_closed_on_request(server: Server, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        ((header, body),) = read_responses(connection, 1)
        assert b"connection: close" in header
        assert json.loads(body)["id"] == "7"
        assert connection.recv(1) == b""


def test_a_malformed_body_after_the_headers_is_refused(server: Server) -> None:
    header = request().partition(b"\r\n\r\n")[0]
    header = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", header)
    with connected(server) as connection:
        connection.sendall(header + b"\r\n\r\nnot a size\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 400")
        assert httpx.get(f"{server.url}/livez").status_code == 200


@pytest.fixture(scope="module")
def delayed(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A server in which each batch waits a second for more requests."""
    settings = chosen | {"FITSERVE_MAX_QUEUE_DELAY_SECONDS": "1"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def counts(server: Server) -> Counter[str]:
    """Return how many rows were computed, and how many requests failed and were cancelled."""
    (stats,) = httpx.get(f"{server.url}/v2/models/curve-tanh/stats").json()["model_stats"]
    metrics = httpx.get(f"{server.url}/metrics").text
    cancelled = re.findall(r'request_seconds_count\{.*status="499"\} (\d+)', metrics)
    return Counter(
        computed=stats["inference_count"],
        failed=stats["inference_stats"]["fail"]["count"],
        cancelled=sum(map(int, cancelled)),
    )


TYPED = (
    b"POST /predict_curve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 13\r\n\r\n{"x": [1, 2]}'
)


@pytest.mark.parametrize("on_asgi", [False, True], ids=["fast path", "ASGI path"])
@pytest.mark.parametrize("sent", [request(), TYPED], ids=["protocol", "typed"])
def test_requests_of_a_disconnected_client_are_not_computed(
    delayed: Server, sent: bytes, on_asgi: bool
) -> None:
    if on_asgi:  # a request with a query
        sent = sent.replace(b" HTTP/1.1", b"?on=asgi HTTP/1.1", 1)
    before = counts(delayed)
    for _ in range(5):
        with connected(delayed) as connection:
            connection.sendall(sent)
            time.sleep(0.02)
    ((header, _),) = ask(delayed, sent)  # its batch would have the other requests too
    assert header.startswith(b"HTTP/1.1 200 ")
    assert counts(delayed) - before == {"computed": 2, "failed": 5, "cancelled": 5}
