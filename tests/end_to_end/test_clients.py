"""The protocols through unmodified clients of other projects."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import BIN, Server

from models.package.repository import ModelRepository

SCRIPTS = Path(__file__).parent / "clients"
CLIENTS = BIN.parent / "clients" / "bin"
MISSING = f"{CLIENTS.parent} lacks the clients: `make test` builds it from requirements/clients.txt"
ROWS = (1, 7, 300)
PATHS = {
    "image": ("/classify_digits", "images"),
    "x": ("/predict_curve", "x"),
    "point": ("/classify_points", "points"),
}


@pytest.fixture(scope="module")
def questions(
    server: Server, repository: ModelRepository, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The requests of every client, and the responses of the typed endpoints; read by `given`."""
    rng = np.random.default_rng(5)
    arrays = {}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name in repository.names():
            card = repository.get(name).card
            spec, output = card.inputs[0], card.outputs[0]
            if spec.name not in PATHS:  # the network has no typed endpoint
                continue
            path, field = PATHS[spec.name]
            for count in ROWS:
                shape = (count, *spec.shape[1:])
                if spec.datatype == "UINT8":
                    rows = rng.integers(0, 256, shape, np.uint8)
                else:
                    rows = rng.uniform(-2, 12, shape).astype(np.float32)
                sent = rows[:, 0] if spec.name == "x" else rows
                response = client.post(path, json={field: sent.tolist(), "model": name})
                assert response.status_code == 200, response.text
                arrays[f"{name}/{count}/takes/{spec.name}"] = rows
                arrays[f"{name}/{count}/gives/{output.name}"] = numbers(response.json())
    file = tmp_path_factory.mktemp("questions") / "questions.npz"
    np.savez(file, **arrays)
    return file


def numbers(response: dict[str, Any]) -> np.ndarray:
    """Return the numbers of a typed response, [rows, columns]."""
    if "y" in response:
        return np.array(response["y"], np.float64)[:, None]
    return np.array([row["probabilities"] for row in response["predictions"]], np.float64)


@pytest.mark.parametrize(
    "script",
    [
        *("triton_http", "triton_asyncio", "kserve_rest", "mlserver_codecs"),
        *("kserve_v1", "pandas_frames"),
    ],
)
def test_a_client_gets_the_numbers_of_the_typed_endpoints(
    script: str, server: Server, questions: Path
) -> None:
    if not (CLIENTS / "mlserver").exists():
        pytest.skip(MISSING)
    completed = subprocess.run(
        [CLIENTS / "python", SCRIPTS / f"{script}.py", address(server), questions],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert completed.returncode == 0, f"{completed.stdout}{completed.stderr}\n{server.tail()}"


def address(server: Server) -> str:
    """Return `host:port`."""
    return server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def perf_analyzer() -> str:
    """The program, if it runs: its wheels are for Linux with glibc 2.38 or later."""
    program = shutil.which("perf_analyzer", path=f"{CLIENTS}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("perf_analyzer is not here: its wheels are for Linux with glibc 2.38 or later")
    completed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    if "Version" not in completed.stdout + completed.stderr:
        pytest.skip(f"perf_analyzer does not run here: {completed.stderr.strip()}")
    return program


RANDOM = ("--input-data", "random")
MEASURED = {
    "mnist-mlp": RANDOM,
    "mnist-cnn": ("--input-data", "zero"),
    "curve-linear": RANDOM,
    "curve-mlp": ("--input-data", "zero"),
    "curve-tanh": (*RANDOM, "--input-tensor-format", "json"),
    "moons-linear": (*RANDOM, "--output-tensor-format", "json"),
    "moons-tanh": (*RANDOM, "--input-tensor-format", "json", "--output-tensor-format", "json"),
}


# Short windows, which all count as stable. With --request-count, version 2.60 hangs in one run of
# ten, although each of its requests got a response and its threads have ended.
WINDOWS = ("--measurement-interval", "200", "--stability-percentage", "999")


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("model", list(MEASURED))
def test_perf_analyzer_measures_a_model(
    model: str, rows: int, perf_analyzer: str, server: Server
) -> None:
    completed = subprocess.run(
        [
            *(perf_analyzer, "-m", model, "-u", address(server), "-i", "http", "-b", str(rows)),
            *("--concurrency-range", "4", *WINDOWS, *MEASURED[model]),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = f"{completed.stdout}{completed.stderr}"
    measured = re.search(r"Client:\s+Request count: (\d+)", output)
    assert measured is not None, output
    assert int(measured[1]) >= 10, output
    counted = re.search(r"Inference count: (\d+).*?Successful request count: (\d+)", output, re.S)
    assert counted is not None, output
    assert int(counted[1]) == rows * int(counted[2]), output
    assert "Failed" not in output, output
