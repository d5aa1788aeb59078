"""A request that takes long to read or to write does not hold up the others.

The requests are those of `benchmarks/neighbours`, which measures the waits.
"""

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from live_server import Server, runs_jobs, serving, temporary_home
from PIL import Image

from benchmarks.neighbours.attacks import ATTACKS
from benchmarks.neighbours.pictures import digit, rle_bmp
from service.api.pictures import decoded

LONGER = 4
"""The long request takes this many times the longest wait of the others, or more. On the event loop
it would take as long as the wait."""

STATUSES = {
    "empty lists, gzip": 400,
    "empty lists to V2": 400,
    "JSON images": 200,
    "JSON floats": 413,
    "RLE BMP, 3.5 kB": 413,
    "large WEBP": 200,
}


@pytest.fixture(scope="module")
def server(root: Path, chosen: dict[str, str]) -> Iterator[Server]:
    """A server whose limit of time ends the slowest picture."""
    # On a busy machine, seconds of a processor take many times as long.
    limits = {
        "FITSERVE_MAX_PARSE_SECONDS": _half_of_the_slowest(),
        "FITSERVE_TIMEOUT_SECONDS": "120",
    }
    settings = chosen | limits
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


def _half_of_the_slowest() -> str:
    """Half the time of the slowest picture on this machine, which a tenth of its rows tell."""
    started = time.process_time()
    decoded(rle_bmp(65_535, 61), 65_535 * 61)
    return f"{5 * (time.process_time() - started):.1f}"


def _ask(server: Server, request: bytes) -> int:
    """Send the bytes of a request, read the whole response, and return its status."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(request.replace(b"\r\nHost:", b"\r\nConnection: close\r\nHost:", 1))
        received = b""
        while more := connection.recv(2**20):
            received = (received + more)[:100]
    return int(received[9:12])


@pytest.mark.parametrize("name", STATUSES)
def test_others_are_answered_while_a_long_request_is_read(name: str, server: Server) -> None:
    request, waits, over = ATTACKS[name].request(), [0.0], threading.Event()
    body = b'{"x": [1, 2]}'

    def visit() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while not over.is_set():
                started = time.monotonic()
                assert client.post("/predict_curve", content=body).status_code == 200
                waits.append(time.monotonic() - started)

    visitor = threading.Thread(target=visit)
    visitor.start()
    started = time.monotonic()
    try:
        status = _ask(server, request)
    finally:
        seconds = time.monotonic() - started
        over.set()
        visitor.join()
    assert status == STATUSES[name]
    assert max(waits) < seconds / LONGER, f"{seconds:.2f} s, and others waited {max(waits):.3f} s"


def test_a_long_response_is_the_same_as_many_short_ones(server: Server) -> None:
    x = np.random.default_rng(1).uniform(0, 20, 12_000).astype(np.float32)
    url = f"{server.url}/v2/models/curve-tanh/infer"

    def ask(values: np.ndarray) -> list[float]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(values), 1]}
        tensor["data"] = [float(value) for value in values]
        response = httpx.post(url, json={"inputs": [tensor]}, timeout=60)
        assert response.status_code == 200, response.text[:300]
        outputs: list[float] = response.json()["outputs"][0]["data"]
        return outputs

    short = [value for start in range(0, len(x), 500) for value in ask(x[start : start + 500])]
    np.testing.assert_allclose(ask(x), short, rtol=1e-5)
    body = {"points": np.stack([x, x], axis=1)[:10_000].tolist()}
    response = httpx.post(f"{server.url}/classify_points", json=body, timeout=60).json()
    assert len(response["predictions"]) == 10_000
    assert set(response["predictions"][0]) == {"label", "confidence", "probabilities"}


def test_a_client_that_leaves_ends_the_work_for_its_picture(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")

    def computing() -> list[psutil.Process]:
        waits = []
        for process in server.processes():
            with suppress(psutil.NoSuchProcess):  # it ends now
                is_busy = process.cpu_times().user > 0.3
                if runs_jobs(process) and is_busy and process.status() == psutil.STATUS_RUNNING:
                    waits.append(process)
        return waits

    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(ATTACKS["RLE BMP, 3.5 kB"].request())
        while not computing():
            time.sleep(0.02)
        started = time.monotonic()
    while computing():
        assert time.monotonic() - started < 4, "it is decoded for nobody"
        time.sleep(0.02)


def test_pictures_in_one_form_keep_their_order(server: Server) -> None:
    files = []
    for width in (12, 90):
        pixels = np.full((120, 120), 255, np.uint8)
        pixels[20:100, 60 - width // 2 : 60 + width // 2] = 0
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(("images", ("digit.png", file.getvalue(), "image/png")))
    both = httpx.post(f"{server.url}/classify_image", files=files, timeout=60).json()
    alone = [
        httpx.post(f"{server.url}/classify_image", files=[file], timeout=60).json()
        for file in files
    ]
    pixels_seen = [prediction["pixels"] for prediction in both["predictions"]]
    assert pixels_seen == [response["predictions"][0]["pixels"] for response in alone]
    assert pixels_seen[0] != pixels_seen[1]


def test_a_form_of_many_pictures_has_the_time_of_one_request(
    root: Path, chosen: dict[str, str]
) -> None:
    file = ("images", ("digit.png", digit(200, "PNG"), "image/png"))
    settings = chosen | {"FITSERVE_TIMEOUT_SECONDS": "1"}
    with temporary_home() as home, serving(home, root, settings=settings) as hasty:
        response = httpx.post(f"{hasty.url}/classify_image", files=[file] * 900, timeout=120)
    assert response.status_code == 504
    assert "within 1 seconds" in response.json()["error"]
