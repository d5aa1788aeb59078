"""Framing: the boundaries of requests are unambiguous, whatever a client or proxy sends."""

import gzip
import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from faulty_networks import write_slow, write_sound
from live_server import Server, free_port, serving, temporary_home
from waiting import wait_until

SETTINGS = {
    "FITSERVE_DEVICE": "cpu",
    "FITSERVE_MAX_BATCH_ROWS": "4",  # for a fast start
    "FITSERVE_MAX_QUEUE_SECONDS": "600",
    "FITSERVE_TIMEOUT_SECONDS": "600",
}
STEPS = 5_000  # iterations of a loop: some milliseconds, on a thread


@pytest.fixture(scope="module")
def networks(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two networks: `sound` computes on the event loop, `slow` on a thread."""
    repository = tmp_path_factory.mktemp("networks")
    write_sound(repository, "sound")
    write_slow(repository, "slow", STEPS)
    settings = {**SETTINGS, "FITSERVE_MODEL_REPOSITORY": str(repository)}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def post(model: str, x: float, *headers: str, content: bytes | None = None) -> bytes:
    """Return the bytes of a prediction request."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [x]}
    body = json.dumps({"inputs": [tensor], "id": f"x={x:g}"}).encode()
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        *(headers or ("Host: localhost",)),
        *([] if content is not None else [f"Content-Length: {len(body)}"]),
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body if content is None else content)


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def responses_to(server: Server, *parts: bytes, half_close: bool = False) -> list[tuple[int, str]]:
    """Send the parts; return the status and body of each response, until the close or the last."""
    with connect(server) as connection:
        for part in parts:
            connection.sendall(part)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while more := connection.recv(65_536):
            received += more
    return parse_responses(received)


def parse_responses(received: bytes) -> list[tuple[int, str]]:
    responses = []
    while received:
        header, ended, rest = received.partition(b"\r\n\r\n")
        assert ended, received
        fields = dict(line.lower().split(b": ", 1) for line in header.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        assert len(rest) >= length, received
        responses.append((int(header[9:12]), rest[:length].decode()))
        received = rest[length:]
    return responses


LAST = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


# An offer to upgrade.


@pytest.mark.parametrize("model", ["sound", "slow"])
@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.0", "foo/2, bar"])
def test_an_offer_to_upgrade_is_ignored_and_the_connection_stays_usable(
    offer: str, model: str, networks: Server
) -> None:
    upgrade = ("Host: localhost", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}")
    smuggled = b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with_a_body = post(model, 2, *upgrade, f"Content-Length: {len(smuggled)}", content=smuggled)
    chunked = b'5\r\n{"x":\r\n0\r\n\r\n'
    in_chunks = post(model, 2, *upgrade, "Transfer-Encoding: chunked", content=chunked)
    whole = post(model, 3, *upgrade)
    responses = responses_to(networks, whole, with_a_body, in_chunks, whole, LAST)
    assert [status for status, _ in responses] == [200, 400, 400, 200, 200]
    assert [json.loads(responses[n][1])["id"] for n in (0, 3)] == ["x=3", "x=3"]
    # In pieces, at every relevant boundary.
    sent = whole + with_a_body + LAST
    for cut in (10, len(whole) - 5, len(whole), len(whole) + 60, len(sent) - len(LAST) - 3):
        with connect(networks) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(sent[:cut])
            connection.sendall(sent[cut:])
            received = b""
            while more := connection.recv(65_536):
                received += more
        assert [status for status, _ in parse_responses(received)] == [200, 400, 200], cut


def test_a_get_with_an_upgrade_offer_and_the_next_request_get_responses(networks: Server) -> None:
    offer = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    get = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    responses = responses_to(networks, get % offer + get % offer + post("sound", 2) + LAST)
    assert [status for status, _ in responses] == [200] * 4


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] given) throws Exception {
        var client = HttpClient.newHttpClient();  // offers h2c with each request
        for (int i = 1; i < given.length; i++) {
            var request = HttpRequest.newBuilder(URI.create(given[0]))
                .POST(HttpRequest.BodyPublishers.ofString(given[i])).build();
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
"""


@pytest.mark.skipif(not shutil.which("javac"), reason="there is no Java (openjdk-17-jdk-headless)")
def test_the_client_of_java_is_served(networks: Server, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    bodies = [post("sound", x).partition(b"\r\n\r\n")[2].decode() for x in (1, 2, 3)]
    completed = subprocess.run(
        ["java", tmp_path / "Ask.java", f"{networks.url}/v2/models/sound/infer", *bodies],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = completed.stdout.splitlines()
    assert [line[:4] for line in lines] == ["200 "] * 3, completed.stdout
    assert [json.loads(line[4:])["id"] for line in lines] == ["x=1", "x=2", "x=3"]


def test_curl_with_an_http_2_offer_is_served(networks: Server) -> None:
    body = post("sound", 7).partition(b"\r\n\r\n")[2].decode()
    completed = subprocess.run(
        ["curl", "-s", "--http2", f"{networks.url}/v2/models/sound/infer", "-d", body],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(completed.stdout)["id"] == "x=7"


NGINX = """
daemon off; worker_processes 1; error_log stderr; pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream service {{ server {address}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service; proxy_http_version 1.1;
      client_max_body_size 1m; client_body_buffer_size 1m;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
      proxy_set_header Host localhost;
    }}
  }}
}}
"""


@pytest.mark.skipif(not shutil.which("nginx"), reason="there is no nginx")
def test_behind_a_proxy_that_forwards_upgrades_clients_get_their_own_responses(
    networks: Server, tmp_path: Path
) -> None:
    port = free_port()
    address = networks.url.removeprefix("http://")
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, address=address))
    proxy = subprocess.Popen(["nginx", "-c", tmp_path / "nginx.conf"], stderr=subprocess.DEVNULL)
    behind = Server(f"http://127.0.0.1:{port}", proxy, networks.log)
    try:
        wait_until(lambda: listens(port), what="nginx does not listen")
        # More than the server reads at once: a later read would begin with a request.
        smuggled = b"\r\n" * 150_000 + b"GET /models/none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        attack = post(
            "sound", 1, "Host: localhost", "Upgrade: h2c", "Connection: upgrade",
            f"Content-Length: {len(smuggled)}", content=smuggled,
        )  # fmt: skip
        plain = post("sound", 5, "Host: localhost", "Connection: close")
        for _ in range(10):
            with connect(behind) as attacker:
                attacker.sendall(attack)
                assert attacker.recv(65_536).startswith(b"HTTP/1.1 400 ")
                ((status, body),) = responses_to(behind, plain)
                assert (status, json.loads(body)["id"]) == (200, "x=5")
    finally:
        proxy.terminate()
        proxy.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as trial:
        trial.settimeout(0.1)
        return trial.connect_ex(("127.0.0.1", port)) == 0


# Required headers.

GZIP = "Transfer-Encoding: gzip"
JSON = post("sound", 4).partition(b"\r\n\r\n")[2]
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(JSON), JSON)


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "words"),
    [
        ("HTTP/1.1", "", 400, "Send the header Host, which"),
        ("HTTP/1.1", "Host: localhost\r\nHost: localhost", 400, "once, not 2 times"),
        ("HTTP/1.1", "Host: local host", 400, "must be a host"),
        ("HTTP/1.1", "Host: a@b/c", 400, "must be a host"),
        ("HTTP/1.0", "Host: a\r\nHost: b", 400, "once, not 2 times"),
        ("HTTP/1.1", "Host: LOCALHOST:80\r\nHost:localhost", 400, "once, not 2 times"),
        ("HTTP/2.0", "Host: localhost", 505, "send HTTP/1.1"),
        ("HTTP/0.9", "Host: localhost", 400, "not a readable HTTP/1.1 request"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: gzip", 501, "is chunked"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: gzip, chunked", 501, "is chunked"),
        ("HTTP/1.1", f"Host: localhost\r\n{GZIP}\r\nTransfer-Encoding: chunked", 501, "is chunked"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: identity", 501, "is chunked"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: xchunked", 501, "is chunked"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: chunked;q=1", 501, "is chunked"),
        ("HTTP/1.1", "Host: localhost\r\nTransfer-Encoding: chunked, gzip", 400, "not a readable"),
        ("HTTP/1.0", "Host: localhost\r\nTransfer-Encoding: chunked", 400, "send a Content-Length"),
        ("HTTP/1.0", "Transfer-Encoding: chunked", 400, "send a Content-Length"),
    ],
)  # fmt: skip
def test_an_ambiguous_request_is_refused_and_the_connection_closed(
    request_line: str, headers: str, status: int, words: str, networks: Server
) -> None:
    lines = (
        f"POST /v2/models/sound/infer {request_line}\r\n{headers}\r\n"
        if headers
        else (f"POST /v2/models/sound/infer {request_line}\r\n")
    )
    body = CHUNKED if "ransfer" in headers else JSON
    if body is JSON:
        lines += f"Content-Length: {len(JSON)}\r\n"
    ((found, message),) = responses_to(networks, lines.encode() + b"\r\n" + body + LAST)
    assert found == status
    assert words in json.loads(message)["error"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/v2", 200),
        ("HTTP://LOCALHOST/v2", 200),
        ("http://evil.example/v2", 400),
        ("http://localhost@evil.example/v2", 400),
        ("http://localhost:99/v2", 400),
        ("https://evil.example?/v2", 400),
        ("*", 404),
    ],
)
def test_the_request_line_and_the_header_must_name_the_same_host(
    target: str, status: int, networks: Server
) -> None:
    sent = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ((found, _),) = responses_to(networks, sent.encode())
    assert found == status


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED", " chunked ", ",chunked"])
def test_a_chunked_body_is_accepted(coding: str, networks: Server) -> None:
    sent = post("sound", 4, "Host: LOCALHOST:80", f"Transfer-Encoding:{coding}", content=CHUNKED)
    assert [status for status, _ in responses_to(networks, sent, LAST)] == [200, 200]


def test_a_refusal_follows_the_responses_to_earlier_requests(networks: Server) -> None:
    """A proxy would otherwise give the refusal to the first client."""
    for broken in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"A" * 70_000):
        for model in ("slow", "sound"):
            responses = responses_to(networks, post(model, 1) + post(model, 2) + broken)
            assert [status for status, _ in responses[:2]] == [200, 200]
            assert [json.loads(body)["id"] for _, body in responses[:2]] == ["x=1", "x=2"]
            assert [status // 100 for status, _ in responses[2:]] == [4]


# Pipelined requests.


def many_rows(model: str, rows: int) -> bytes:
    tensor = {"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [1.0] * rows}
    body = json.dumps({"inputs": [tensor], "id": "many"}).encode()
    header = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
    return f"{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


def waiting_rows(server: Server, model: str) -> float:
    match = re.search(rf'fitserve_queue_rows{{model="{model}"}} (\S+)', metrics(server))
    assert match
    return float(match[1])


def metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=60).text


def test_pipelined_requests_use_little_memory_and_are_cancelled_with_their_client(
    networks: Server,
) -> None:
    (worker,) = [process for process in networks.workers() if "--worker-id" in process.cmdline()]
    counted = cancelled(networks)
    before = worker.memory_info().rss
    ahead = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 7_000  # 300 kB
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(networks)) for _ in range(40)]
        for client in clients:  # together they take longer than this test
            client.setblocking(False)
            client.send(many_rows("slow", 200) + ahead)
        wait_until(lambda: waiting_rows(networks, "slow") > 200 * 30)
        assert worker.memory_info().rss - before < 40 * 2**20, "a client's 300 kB take megabytes"
        assert "x=1" in responses_to(networks, post("sound", 1), LAST)[0][1]
    wait_until(lambda: waiting_rows(networks, "slow") == 0)
    wait_until(lambda: cancelled(networks) >= counted + 40)


@pytest.mark.parametrize("behind", [b"", LAST, post("slow", 1), post("slow", 1)[:-5]])
def test_requests_of_a_disconnected_client_are_not_computed(
    behind: bytes, networks: Server
) -> None:
    counted = cancelled(networks)
    for reset in (False, True):
        with connect(networks) as client:
            client.sendall(many_rows("slow", 4_000) + behind)
            wait_until(lambda: waiting_rows(networks, "slow") > 0)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: waiting_rows(networks, "slow") == 0)
    wait_until(lambda: cancelled(networks) >= counted + 2)


def cancelled(server: Server) -> int:
    matches = re.findall(r'fitserve_failures_total{.*reason="cancelled"} (\d+)', metrics(server))
    return sum(map(int, matches))


def test_pipelined_requests_get_responses_in_order(networks: Server) -> None:
    sent = [post(("slow", "sound")[n % 7 > 0], n) for n in range(400)]  # 60 kB
    responses = responses_to(networks, b"".join(sent) + LAST)
    assert [json.loads(body)["id"] for _, body in responses[:-1]] == [f"x={n}" for n in range(400)]


# A client that closes its sending side.


@pytest.mark.parametrize("model", ["sound", "slow"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_client_that_closes_its_sending_side_gets_its_response(
    model: str, pieces: int, networks: Server
) -> None:
    sent = post(model, 6)
    parts = (sent,) if pieces == 1 else (sent[:-3], sent[-3:])
    for _ in range(20 if model == "sound" else 3):
        ((status, body),) = responses_to(networks, *parts, half_close=True)
        assert (status, json.loads(body)["id"]) == (200, "x=6")


def test_a_client_that_closes_its_sending_side_gets_all_responses_in_order(
    networks: Server,
) -> None:
    sent = b"".join(post(("slow", "sound")[n % 2], n) for n in range(6))
    responses = responses_to(networks, sent, half_close=True)
    assert [json.loads(body)["id"] for _, body in responses] == [f"x={n}" for n in range(6)]


def test_an_incomplete_request_of_a_closed_sending_side_is_dropped(networks: Server) -> None:
    responses = responses_to(networks, post("slow", 1) + post("slow", 2)[:-3], half_close=True)
    assert [json.loads(body)["id"] for _, body in responses] == ["x=1"]
    assert responses_to(networks, post("slow", 2)[:-3], half_close=True) == []


PICTURE = (Path(__file__).parents[2] / "docs" / "three.png").read_bytes()
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="images"; filename="three.png"\r\n'
    b"Content-Type: image/png\r\n\r\n%b\r\n--b--\r\n"
)


LARGE_X = b'{"x": [%b1]}' % (b"1.50000000," * 16_000)
MANY_POINTS = b'{"points": [%b[0, 1]]}' % (b"[1,2]," * 9_000)
LARGE_V2 = many_rows("curve-tanh", 16_000).partition(b"\r\n\r\n")[2].ljust(200_000)


@pytest.mark.parametrize(
    ("request_line", "kind", "body"),
    [
        ("POST /predict_curve", "application/json", b'{"x": [1]}'),
        ("POST /classify_points", "application/json", b'{"points": [[0, 1]]}'),
        ("POST /classify_image", "multipart/form-data; boundary=b", FORM % PICTURE),
        ("GET /metrics", "text/plain", b""),
        ("GET /models", "text/plain", b""),
        ("GET /models/curve-tanh/report/fitted-curve.png", "text/plain", b""),
        ("GET /readyz", "text/plain", b""),
        # Read or written in another process.
        ("POST /predict_curve", "application/json", LARGE_X),
        ("POST /classify_points", "application/json", MANY_POINTS),
        ("POST /v2/models/curve-tanh/infer", "application/json", LARGE_V2),
        (
            "POST /predict_curve",
            "application/json\r\nContent-Encoding: gzip\r\nAccept-Encoding: gzip",
            gzip.compress(LARGE_X),
        ),
    ],
    ids=range(11),
)
def test_every_endpoint_serves_a_client_that_closes_its_sending_side(
    request_line: str, kind: str, body: bytes, server: Server
) -> None:
    header = (
        f"{request_line} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sent = header.encode() + body
    for cut in (len(sent), len(sent) - 1, len(header)):
        with connect(server) as connection:
            for part in (sent[:cut], sent[cut:]):
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while more := connection.recv(65_536):
                received += more
        assert received.startswith(b"HTTP/1.1 200 "), received[:300]
