"""Networks whose rows depend on each other: concurrent requests are computed alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from live_server import Server, serving, temporary_home
from mixing_networks import MIXED, write
from numpy.typing import NDArray

from models.adding.add import add
from models.package.repository import ModelRepository
from models.runtimes.runtime import OnnxRuntime

CALLERS = 8
REQUESTS = 12  # of each client
NAMES = {f"net-{number}": name for number, name in enumerate(MIXED)}

Rows = NDArray[np.float32]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixing")
    for name, shown in NAMES.items():
        network_file = folder / name
        network_file.mkdir()
        file = write(network_file, MIXED[shown])
        np.savez(network_file / "sample.npz", x=np.ones((8, 4), np.float32))
        add(folder / "repository", name, file, sample=network_file / "sample.npz")
    return folder / "repository"


@pytest.fixture(scope="module")
def server(root: Path, repository: Path) -> Iterator[Server]:
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.mark.parametrize("name", NAMES, ids=NAMES.get)
def test_each_request_gets_the_outputs_of_the_network_alone(
    name: str, server: Server, repository: Path
) -> None:
    card = ModelRepository(repository).get(name).card
    content = (repository / name / "1" / "model.onnx").read_bytes()
    network = OnnxRuntime(content, optimized=card.optimized)  # subnormal numbers count as zero
    random = np.random.default_rng(3)
    requests = [
        (random.normal(size=(random.integers(1, 6), 4)) * 4.0 ** random.integers(-3, 5)).astype(
            np.float32
        )
        for _ in range(CALLERS * REQUESTS)
    ]

    with ThreadPoolExecutor(CALLERS) as callers, httpx.Client(timeout=60) as client:
        responses = list(callers.map(lambda rows: ask(client, server, name, rows), requests))
    for rows, outputs in zip(requests, responses, strict=True):
        (wanted,) = network({"x": rows}).values()
        np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def ask(client: httpx.Client, server: Server, name: str, rows: Rows) -> Rows:
    tensor = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
    response = client.post(f"{server.url}/v2/models/{name}/infer", json={"inputs": [tensor]})
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_a_request_of_a_thousand_rows_is_one_compute(server: Server, repository: Path) -> None:
    (name,) = (name for name, shown in NAMES.items() if shown == "the batch's mean")
    rows = np.random.default_rng(4).normal(size=(1_000, 4)).astype(np.float32)
    with httpx.Client(timeout=60) as client:
        before = executions(client, server, name)
        outputs = ask(client, server, name, rows)
        assert executions(client, server, name) == before + 1
    np.testing.assert_allclose(outputs, rows - rows.mean(axis=0), atol=1e-5)


def executions(client: httpx.Client, server: Server, name: str) -> int:
    stats = client.get(f"{server.url}/v2/models/{name}/stats").json()["model_stats"][0]
    return int(stats["execution_count"])


def test_the_batching_is_documented_in_every_description(
    server: Server, repository: Path, root: Path
) -> None:
    name = "net-0"
    config = httpx.get(f"{server.url}/v2/models/{name}/config").json()
    assert "dynamic_batching" not in config
    assert config["parameters"]["batching"] == {"string_value": "none"}
    assert f"{name}/1 with onnx on cpu, each request alone (batching: none)" in server.read_log()
    card = json.loads((repository / name / "1" / "card.json").read_text(encoding="utf-8"))
    assert card["batching"] == "none"
    listed = subprocess.run(
        [sys.executable, "-m", "models", "--repository", str(repository), "list"],
        cwd=root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.stdout.count("each request alone (batching: none)") == len(NAMES)
