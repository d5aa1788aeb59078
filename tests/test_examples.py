"""The programs in examples/, as a user runs them against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import TIMED, free_port, serving, temporary_home

SETTINGS = {"FITSERVE_DEVICE": "cpu", **TIMED}


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with temporary_home() as home, serving(home, root, settings=SETTINGS) as server:
        yield server.url


def run(root: Path, *command: str | Path, **environment: str) -> str:
    """Run a program in the checkout; what it prints."""
    with temporary_home() as home:
        completed = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, **SETTINGS, "BENTOML_HOME": str(home), **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_requests_with_curl(root: Path, url: str) -> None:
    output = run(root, "sh", "examples/requests.sh", FITSERVE_URL=url).splitlines()
    assert len(output) == 3
    assert '"y":[' in output[0]
    assert '"model_name":"curve-tanh"' in output[1]
    assert '"inputs":[{"name":"x","datatype":"FP32","shape":[-1,1]}]' in output[2]


def test_the_python_client_gets_the_same_as_json_and_as_bytes(root: Path, url: str) -> None:
    output = run(root, sys.executable, "examples/python_client.py", FITSERVE_URL=url)
    as_json, as_bytes = (
        [float(number) for number in line.split("[")[1].rstrip("]").split(",")]
        for line in output.splitlines()
    )
    assert as_bytes == pytest.approx(as_json, rel=1e-6)


def test_triton_s_client(root: Path, url: str) -> None:
    python = Path(sys.prefix) / "clients" / "bin" / "python"
    if not python.exists():
        pytest.skip("Triton's client is not installed: `make .venv/.clients`")
    output = run(root, python, "examples/triton_client.py", FITSERVE_URL=url)
    assert len(re.findall(r"\d\.\d+", output.splitlines()[0])) == 10
    assert output.count(":") == 2 + 3 * 2  # three classes, each `value:index:label`


def test_an_own_network_is_trained_added_served_and_asked(root: Path) -> None:
    output = run(root, sys.executable, "examples/own_network.py", PORT=str(free_port()))
    assert "[0.0, 0.0] is inside" in output
    assert "[0.5, -0.5] is inside" in output
    assert "[1.5, 1.5] is outside" in output


def test_a_network_of_timm_is_saved_served_and_asked(root: Path) -> None:
    output = run(root, sys.executable, "examples/timm_network.py", PORT=str(free_port()))
    assert re.search(r"three\.png is a (cat|dog)", output)


def test_a_folder_of_hugging_face_is_added_served_and_asked(root: Path) -> None:
    output = run(root, sys.executable, "examples/hugging_face_folder.py", PORT=str(free_port()))
    assert len(re.findall(r"' is (bad|good)", output)) == 3


def test_the_load_test_measures_a_running_service(root: Path, url: str) -> None:
    options = ("--clients", "2", "--seconds", "1")
    output = run(root, sys.executable, "examples/load_test.py", *options, FITSERVE_URL=url)
    assert re.fullmatch(r"2 clients: [\d,]+ requests/s, p50 [\d.]+ ms, p99 [\d.]+ ms\n", output)


def test_the_load_test_measures_several_workers(root: Path) -> None:
    options = ("--clients", "2", "--seconds", "1", "--workers", "2", "--port", str(free_port()))
    output = run(root, sys.executable, "examples/load_test.py", *options)
    assert re.search(r"2 clients: [\d,]+ requests/s", output)
