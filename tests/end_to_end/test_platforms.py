"""The server in the environments of Vertex AI and SageMaker."""

import sys
from pathlib import Path

import httpx
import pytest
from live_server import BIN, Server, free_port, serving, temporary_home
from tiny import write_tiny

LINE = {"instances": [1, 2.5], "parameters": {}}
HEALTH, PREDICT = "/v1/endpoints/12/deployedModels/34", "/v1/endpoints/12/deployedModels/34:predict"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model, 2 x + 1."""
    folder = tmp_path_factory.mktemp("line")
    write_tiny(folder, "line", runtimes=("onnx",))
    return folder


def test_vertex_ai_sets_the_port_and_the_paths(root: Path, line: Path) -> None:
    port = free_port()
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(line),
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": HEALTH,
        "AIP_PREDICT_ROUTE": PREDICT,
        "PYTHONPATH": str(root),
    }
    command = ("/bin/sh", "-c", 'exec "$0" -m service', sys.executable)
    with (
        temporary_home() as home,
        serving(home, root, command=command, port=port, settings=settings, until=HEALTH) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        answer = client.post(PREDICT, json=LINE)
        assert (answer.status_code, answer.json()) == (200, {"predictions": [3.0, 6.0]})
        wrong = client.post(PREDICT, json={"rows": [1]})
        assert wrong.status_code == 400
        assert "'instances'" in wrong.json()["error"]
        assert client.post("/v1/models/line:predict", json=LINE).status_code == 200


def test_sagemaker_gives_the_argument_serve(root: Path, line: Path) -> None:
    """The entry point of the image is `bentoml`, its environment has the host."""
    dockerfile = (root / "deploy/container/Dockerfile").read_text()
    assert 'ENTRYPOINT ["bentoml"]' in dockerfile
    assert "BENTOML_HOST=0.0.0.0" in dockerfile
    port = free_port()
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(line),
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
    }
    command = ("/bin/sh", "-c", 'exec "$0" serve', str(BIN / "bentoml"))
    with (
        temporary_home() as home,
        serving(home, root, command=command, port=port, settings=settings, until="/ping") as server,
    ):
        check_sagemaker(server)


def check_sagemaker(server: Server) -> None:
    """Send what SageMaker's runtime sends: JSON and CSV, without the name of a model."""
    url = f"{server.url}/invocations"
    answer = httpx.post(url, json={"instances": [[1], [2.5]]})
    assert answer.json() == {"predictions": [[3.0], [6.0]]}
    csv = {"Content-Type": "text/csv", "Accept": "text/csv"}
    assert httpx.post(url, content="1\n2.5\n", headers=csv).text == "3.0\n6.0\n"
