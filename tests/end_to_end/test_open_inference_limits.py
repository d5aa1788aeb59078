"""The V2 protocol under load: deadlines, compression, limits and invalid neighbours."""

import asyncio
import gzip
import http.client
import json
import re
import shutil
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from live_server import Server, serving, temporary_home
from messages import (
    CURVE,
    LENGTH,
    OF_A_MODEL,
    ONE_IMAGE,
    POINTS,
    X,
    assert_refused,
    binary,
    curve,
    infer,
    read,
    tensor,
)

from models.package.repository import ModelRepository

# Deadlines and concurrent requests.


def test_a_deadline_in_microseconds_holds_under_load(client: httpx.Client) -> None:
    many = np.random.default_rng(7).integers(0, 256, (2000, 28, 28), np.uint8)
    body = {"inputs": [binary("image", many)]}

    def ask(seconds: float) -> httpx.Response:
        parameters = {"timeout": round(seconds * 1e6)}
        sent = {"inputs": [tensor("image", ONE_IMAGE)], "parameters": parameters}
        return infer(client, sent, model="mnist-cnn")

    expected = read(ask(30))["probabilities"]
    late = 0
    with ThreadPoolExecutor(1) as others:
        for _ in range(20):
            busy = others.submit(infer, client, body, many.tobytes(), "mnist-cnn")
            while not busy.done():
                response = ask(0.001)
                if response.status_code == 504:
                    assert_refused(response, 504, "deadline")
                    late += 1
                    response = ask(30)
                if response.status_code == 503:  # on a slow machine, the queue takes too long
                    continue
                np.testing.assert_allclose(read(response)["probabilities"], expected, atol=1e-5)
            assert len(read(busy.result())["probabilities"]) == len(many)
            if late:
                return
    pytest.fail("no request was ever too late")


async def test_invalid_requests_do_not_affect_concurrent_ones(server: Server) -> None:
    values = np.linspace(0, 20, 40, dtype=np.float32)

    limits = httpx.Limits(max_connections=120)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
        path = f"/v2/models/{CURVE}/infer"
        posts = []
        for value in values:
            row = np.array([[value]], np.float32)
            posts.append(client.post(path, json={"inputs": [tensor("x", row)]}))
            posts.append(client.post(path, json={"inputs": [tensor("x", row, data=["1"])]}))
            content = {"x": [float(value)], "model": CURVE}
            posts.append(client.post("/predict_curve", json=content))
        responses = await asyncio.gather(*posts)
    for right, wrong, typed in zip(responses[::3], responses[1::3], responses[2::3], strict=True):
        assert_refused(wrong)
        np.testing.assert_allclose(read(right)["y"].ravel(), typed.json()["y"], atol=1e-5)
    assert len({response.text for response in responses[::3]}) > 30


def test_a_refused_request_leaves_its_connection_usable(server: Server) -> None:
    good = json.dumps({"inputs": [tensor("x", X)]}).encode()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    connection.connect()
    socket_of_it = connection.sock
    for method, path, content, status in (
        ("POST", f"/v2/models/{CURVE}/infer", b"x" * 100_000, 400),
        ("POST", "/v2/models/lenet/infer", good * 1000, 404),
        ("POST", f"/v2/models/{CURVE}/ready", good * 1000, 405),
        ("GET", f"/v2/models/{CURVE}/ready", good, 200),
        ("POST", f"/v2/models/{CURVE}/infer", good, 200),
    ):
        connection.request(method, path, content)
        response = connection.getresponse()
        json.loads(response.read())
        assert response.status == status
        assert connection.sock is socket_of_it
    connection.close()


def test_a_response_has_the_id_of_the_request(client: httpx.Client) -> None:
    for body, status in (({"inputs": [tensor("x", X)]}, 200), ({}, 400)):
        response = infer(client, body, **{"X-Request-Id": "call-7"})
        assert (response.status_code, response.headers["x-request-id"]) == (status, "call-7")
    assert client.get("/v2/none").headers["x-request-id"]


# Compressed bodies.


@pytest.mark.parametrize(
    "encoding", ["gzip", "x-gzip", "deflate", "GZIP", "identity", "", "gzip, identity", ",X-Gzip"]
)
def test_a_compressed_body_is_accepted(encoding: str, client: httpx.Client) -> None:
    pack = {"deflate": zlib.compress, "identity": bytes, "": bytes}.get(encoding, gzip.compress)
    header = json.dumps({"inputs": [binary("x", X)]}).encode()
    headers = {"Content-Encoding": encoding, LENGTH: str(len(header))}
    path = f"/v2/models/{CURVE}/infer"
    response = client.post(path, content=pack(header + X.tobytes()), headers=headers)
    np.testing.assert_array_equal(read(response)["y"], read(curve(client))["y"])


def test_a_body_that_does_not_match_its_encoding_is_refused(client: httpx.Client) -> None:
    content = json.dumps({"inputs": [tensor("x", X)]}).encode()
    packed, deflated = gzip.compress(content), zlib.compress(content)
    path = f"/v2/models/{CURVE}/infer"
    for encoding, wrong in (
        *(
            ("gzip", body)
            for body in (content, b"", packed[:-1], packed[:5], packed + b"x", deflated)
        ),
        *(("gzip", packed[:20] + bytes([packed[20] ^ 255]) + packed[21:]),),
        *(("deflate", body) for body in (content, b"", deflated[:-1], deflated + b"x", packed)),
    ):
        headers = {"Content-Encoding": encoding}
        assert_refused(client.post(path, content=wrong, headers=headers))
    for encoding in ("br", "zstd", "compress", "gzip, gzip", "x"):
        headers = {"Content-Encoding": encoding}
        response = client.post(path, content=packed, headers=headers)
        assert_refused(response, 415, "gzip or deflate")
        assert response.headers["accept-encoding"] == "gzip, deflate"


# Other limits, and an unavailable package.

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def narrow(root: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a repository with one broken package, with small limits."""
    copied = tmp_path_factory.mktemp("copy") / "models"
    shutil.copytree(shipped, copied)
    newest = copied / "moons-linear" / ModelRepository(copied).versions("moons-linear")[-1]
    (newest / "model.onnx").write_bytes(b"no model")
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(copied),
        "FITSERVE_MAX_BODY_BYTES": str(LIMIT),
        "FITSERVE_BODY_TIMEOUT_SECONDS": "1",
        "FITSERVE_MAX_BATCH_ROWS": "100",
        "FITSERVE_MAX_QUEUE_ROWS": "1000",
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_INTRA_OP_THREADS": "1",  # so the queue is slow on any machine
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture
def narrow_client(narrow: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=narrow.url, timeout=60) as opened:
        yield opened


def test_an_unavailable_package_is_a_503_and_the_others_serve(narrow_client: httpx.Client) -> None:
    client = narrow_client
    points = {"inputs": [tensor("point", np.zeros((1, 2), np.float32))]}
    for below in OF_A_MODEL:
        path = f"/v2/models/moons-linear{below}"
        response = client.post(path, json=points) if below == "/infer" else client.get(path)
        assert_refused(response, 503, "moons-linear")
        assert int(response.headers["retry-after"]) >= 1
    assert client.get("/v2/health/ready").status_code == 503  # it is about all models
    assert client.get("/readyz").status_code == 200
    assert "moons-linear" not in client.get("/v2/models").json()["models"]
    index = {entry["name"]: entry for entry in client.post("/v2/repository/index").json()}
    assert index["moons-linear"]["state"] == "UNAVAILABLE"
    assert "model.onnx" in index["moons-linear"]["reason"]
    assert infer(client, points, model=POINTS).status_code == 200


def test_a_body_over_the_limit_is_a_413_declared_or_not(narrow_client: httpx.Client) -> None:
    path = f"/v2/models/{CURVE}/infer"
    fits = json.dumps({"inputs": [tensor("x", X)]}).encode().ljust(LIMIT)
    over = fits + b" "
    for content, status in ((fits, 200), (over, 413)):
        chunked = (content[start : start + 99_991] for start in range(0, len(content), 99_991))
        for sent in (content, chunked):
            response = narrow_client.post(path, content=sent)
            assert response.status_code == status
            if status == 413:
                assert_refused(response, 413, "1,000,000 bytes")
    packed = narrow_client.post(
        path, content=gzip.compress(fits), headers={"Content-Encoding": "gzip"}
    )
    assert packed.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_a_413_in_bounded_memory(
    encoding: str, narrow: Server, narrow_client: httpx.Client
) -> None:
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(600)) + packer.flush()
    assert len(bomb) < LIMIT < 600 * 2**20
    workers, samples, ended = narrow.workers(), [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            samples.append(resident(workers))

    before = resident(workers)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for _ in range(3):
            headers = {"Content-Encoding": encoding}
            path = f"/v2/models/{CURVE}/infer"
            response = narrow_client.post(path, content=bomb, headers=headers)
            assert_refused(response, 413, "1,000,000 bytes")
    finally:
        ended.set()
        watching.join()
    assert max([before, *samples]) - before < 100 * 2**20


def resident(processes: Sequence[psutil.Process]) -> int:
    """Return the memory of the processes, in bytes."""
    return sum(process.memory_info().rss for process in processes)


def test_more_rows_than_the_queue_limit_are_a_413(narrow_client: httpx.Client) -> None:
    rows = np.zeros((1001, 1), np.float32)
    response = infer(narrow_client, {"inputs": [binary("x", rows)]}, rows.tobytes())
    assert_refused(response, 413, "1000 in one request")
    fits = rows[:1000]
    response = infer(narrow_client, {"inputs": [binary("x", fits)]}, fits.tobytes())
    assert read(response)["y"].shape == fits.shape


async def test_a_full_queue_is_a_503_with_retry_after(narrow: Server) -> None:
    rows = np.random.default_rng(6).integers(0, 256, (1000, 28, 28), np.uint8)
    header = json.dumps({"inputs": [binary("image", rows)]}).encode()
    sent = {"content": header + rows.tobytes(), "headers": {LENGTH: str(len(header))}}
    path = "/v2/models/mnist-cnn/infer"
    async with httpx.AsyncClient(base_url=narrow.url, timeout=60) as client:
        expected = read(await client.post(path, **sent))["probabilities"]
        responses = await asyncio.gather(*(client.post(path, **sent) for _ in range(8)))
    statuses = []
    for response in responses:
        statuses.append(response.status_code)
        if response.status_code == 200:
            np.testing.assert_allclose(read(response)["probabilities"], expected, atol=1e-5)
        else:
            assert_refused(response, 503)
            assert int(response.headers["retry-after"]) >= 1
    assert set(statuses) == {200, 503}


@pytest.mark.parametrize("path", [f"/v2/models/{CURVE}/infer", "/v2/repository/index"])
@pytest.mark.parametrize(
    "sending", ["stopped half way", "byte by byte", "never begun", "chunk by chunk"]
)
def test_a_body_that_does_not_arrive_times_out_and_the_others_are_served(
    path: str, sending: str, narrow: Server, narrow_client: httpx.Client
) -> None:
    port = int(narrow.url.rpartition(":")[2])
    length = "Transfer-Encoding: chunked" if sending == "chunk by chunk" else "Content-Length: 1000"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        started = time.monotonic()
        slow.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        if sending == "stopped half way":
            slow.sendall(b'{"inputs": [' + b" " * 500)
        response, sent_bytes = b"", 0
        slow.settimeout(0.05)
        while time.monotonic() - started < 10:
            try:
                response = slow.recv(65536)
                break
            except TimeoutError:
                pass
            if sending == "byte by byte":
                slow.sendall(b" ")
            elif sending == "chunk by chunk":
                slow.sendall(b"1\r\n \r\n")
            assert curve(narrow_client).status_code == 200
            sent_bytes += 1
        seconds = time.monotonic() - started
    assert 0.5 < seconds < 5, f"{seconds:.1f} s"
    assert sent_bytes > 5
    assert response == b"" or response.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_disconnects_during_its_body_does_not_affect_others(
    narrow: Server, narrow_client: httpx.Client
) -> None:
    port = int(narrow.url.rpartition(":")[2])
    header_bytes = (
        f"POST /v2/models/{CURVE}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    )
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as left:
            left.sendall(header_bytes.encode() + b'{"inputs": [')
    assert curve(narrow_client).status_code == 200
    assert not re.findall(r"request \S+ failed", narrow.read_log())
