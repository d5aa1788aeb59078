"""An attention layer of any length: the longest request is answered, longer ones are refused.

Its memory is quadratic in the length: a row of 30,000 takes 3.6 GB and more.
"""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from attention import WIDTH, rows_of, write_attention
from live_server import Server, serving, temporary_home
from numpy.typing import NDArray

from models.adding.add import add
from models.package.model_package import ModelPackage, write_package
from models.sources.max_length import MaxLength

LIMIT = 2**28
LONGEST = 3000  # a row takes 36 MB, or twice that
HUGE = 30_000

Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The network as `limited`, and as `old` with a card of an earlier version: no maximum."""
    folder = tmp_path_factory.mktemp("attention")
    longest = [MaxLength("length", LONGEST)]
    package = add(folder / "all", "limited", write_attention(folder), max_lengths=longest)
    inputs = tuple(replace(spec, max_shape=None) for spec in package.card.inputs)
    card = package.card.model_copy(update={"name": "old", "inputs": inputs})
    write_package(folder / "all", card, {"model.onnx": package.load("model.onnx")})
    return package


@pytest.fixture(scope="module")
def server(root: Path, package: ModelPackage) -> Iterator[Server]:
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(package.path.parents[1]),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MAX_COMPUTE_BYTES": str(LIMIT),
        "FITSERVE_MAX_QUEUE_SECONDS": "30",  # refused requests are computed for a moment, too
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as opened:
        yield opened


@pytest.fixture(scope="module")
def network(package: ModelPackage) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(package.load("model.onnx"))


def post(client: httpx.Client, name: str, rows: Rows) -> httpx.Response:
    tensor = {
        "name": "x", "datatype": "FP32", "shape": rows.shape,
        "parameters": {"binary_data_size": rows.nbytes},
    }  # fmt: skip
    content = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(content).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    url = f"/v2/models/{name}/infer"
    return client.post(url, content=header + rows.tobytes(), headers=length)


def answer(response: httpx.Response) -> Rows:
    assert response.status_code == 200, response.text
    start = int(response.headers["Inference-Header-Content-Length"])
    return np.frombuffer(response.content[start:], np.float32).reshape(-1, WIDTH)


def assert_right(outputs: Rows, rows: Rows, network: onnxruntime.InferenceSession) -> None:
    (wanted,) = network.run(None, {"x": rows})
    np.testing.assert_allclose(outputs, wanted.reshape(-1, WIDTH), rtol=1e-4, atol=1e-5)


def executions(client: httpx.Client, name: str) -> int:
    stats = client.get(f"/v2/models/{name}/stats").json()["model_stats"][0]
    return int(stats["execution_count"])


def test_the_longest_is_answered_and_a_longer_one_is_refused_before_its_compute(
    client: httpx.Client, network: onnxruntime.InferenceSession
) -> None:
    rows = rows_of(LONGEST)
    assert_right(answer(post(client, "limited", rows)), rows, network)
    before = executions(client, "limited")
    for length in (LONGEST + 1, HUGE):
        response = post(client, "limited", rows_of(length))
        assert response.status_code == 400
        assert response.json() == {
            "error": f"Tensor 'x' has the size {length} in axis 1; the model takes at most 3000: "
            "send less, or have the model added again with --max-length x.1=N."
        }
    assert executions(client, "limited") == before


def test_the_descriptions_say_the_maximum(client: httpx.Client) -> None:
    (spec,) = client.get("/models/limited").json()["inputs"]
    assert spec["max_shape"] == [-1, LONGEST, WIDTH]
    parameters = client.get("/v2/models/limited/config").json()["parameters"]
    assert parameters["max_dims.x"] == {"string_value": f"{LONGEST},{WIDTH}"}
    (spec,) = client.get("/models/old").json()["inputs"]
    assert spec["max_shape"] is None


@contextmanager
def watched(server: Server) -> Iterator[list[int]]:
    """Record the memory of the worker until the end of the block."""
    (worker,) = server.workers()
    sizes, ended = [worker.memory_info().rss], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            sizes.append(worker.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def test_neighbours_are_answered_while_requests_of_too_much_memory_are_refused(
    server: Server, client: httpx.Client, network: onnxruntime.InferenceSession
) -> None:
    small = [rows_of(length, 2, seed=length) for length in range(1, 60)]
    huge, many = rows_of(HUGE), rows_of(1001, 100)  # of a size that is not batched
    end = time.monotonic() + 3

    def refused(rows: Rows) -> int:
        count = 0
        while time.monotonic() < end or not count:
            response = post(client, "old", rows)
            assert response.status_code in (413, 503), response.text
            assert "FITSERVE_MAX_COMPUTE_BYTES" in response.json()["error"]
            count += response.status_code == 413
        return count

    with watched(server) as sizes, ThreadPoolExecutor(6) as callers:
        refusals = [callers.submit(refused, rows) for rows in (huge, many)]
        for name in ("limited", "old"):
            responses = list(callers.map(lambda rows, name=name: post(client, name, rows), small))
            for rows, response in zip(small, responses, strict=True):
                assert_right(answer(response), rows, network)
        assert all(refusal.result() for refusal in refusals)
    assert max(sizes) - sizes[0] < LIMIT + 2**27  # the bodies and outputs take some
    rows = rows_of(LONGEST, seed=1)
    assert_right(answer(post(client, "old", rows)), rows, network)
    assert client.get("/readyz").status_code == 200
