"""Networks with the batch on any axis, or none, answer as ONNX Runtime does."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from layout_networks import FEATURES, NETWORKS, Arrays
from live_server import Server, serving, temporary_home
from split_networks import APART, LIT, YOLO, pictures
from v2_arrays import infer, post

from models.__main__ import main
from models.kinds.batch_axes import rows_first
from models.package.repository import ModelRepository

CALLERS = 8
DIVIDED = {"yolo": (YOLO, "detections:0"), "apart": (APART, "batch_ids"), "lit": (LIT, "places:0")}
"""Networks of as many entries as the values say, and the index of the rows."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder = tmp_path_factory.mktemp("layouts")
    for name, network in NETWORKS.items():
        file = folder / f"{name}.onnx"
        file.write_bytes(network.onnx)
        arguments = ["add", name, str(file), "--repository", str(folder / "models")]
        assert main([*arguments, *network.options]) == 0
    np.savez(folder / "pictures.npz", x=pictures(24))
    for name, (content, index) in DIVIDED.items():
        (folder / f"{name}.onnx").write_bytes(content)
        arguments = ["add", name, str(folder / f"{name}.onnx"), "--split-by", index]
        arguments += ["--sample", str(folder / "pictures.npz")]
        assert main([*arguments, "--repository", str(folder / "models")]) == 0
    return ModelRepository(folder / "models")


@pytest.fixture(scope="module")
def server(root: Path, repository: ModelRepository) -> Iterator[Server]:
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository.root),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MAX_QUEUE_DELAY_SECONDS": "0.01",  # so that requests meet in a batch
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


class Reference:
    """ONNX Runtime itself."""

    def __init__(self, name: str) -> None:
        content = NETWORKS[name].onnx if name in NETWORKS else DIVIDED[name][0]
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Arrays) -> Arrays:
        """Compute a request."""
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def require_equal(found: Arrays, wanted: Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_v2_answers_with_the_tensors_of_the_network(
    name: str, binary: bool, client: httpx.Client
) -> None:
    reference = Reference(name)
    for rows in (1, 2):
        inputs = NETWORKS[name].request(rows, np.random.default_rng(rows))
        require_equal(infer(client, name, inputs, binary=binary), reference(inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_concurrent_callers_get_the_answers_of_their_own_requests(
    name: str, client: httpx.Client
) -> None:
    reference = Reference(name)

    def ask(seed: int) -> None:
        inputs = NETWORKS[name].request(1 + seed % 3, np.random.default_rng(seed))
        require_equal(infer(client, name, inputs, binary=seed % 2 == 0), reference(inputs))

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(ask, range(3 * CALLERS)))


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_answered_one_by_one(
    name: str, client: httpx.Client, repository: ModelRepository
) -> None:
    axes, reference = repository.get(name).card.axes, Reference(name)
    inputs = NETWORKS[name].request(1, np.random.default_rng(5))
    (row,) = [
        {key: rows_first(array, axes.inputs[key], 1)[0].tolist() for key, array in inputs.items()}
    ]
    response = client.post(f"/models/{name}/predict", json={"instances": [row]})
    assert response.status_code == 200, response.text
    (found,) = response.json()["predictions"]
    wanted: Any = {
        key: rows_first(array, axes.outputs[key], 1)[0] for key, array in reference(inputs).items()
    }
    if len(wanted) == 1:
        found = {"y": found}
    for key, array in wanted.items():
        np.testing.assert_allclose(
            np.ravel(np.array(found[key], array.dtype)), np.ravel(array), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", ["gru", "threshold", "picture", "number", "detector"])
def test_columns_of_tensorflow_serving_are_the_tensors_of_the_network(
    name: str, client: httpx.Client
) -> None:
    inputs = NETWORKS[name].request(1, np.random.default_rng(6))
    columns = {key: array.tolist() for key, array in inputs.items()}
    response = client.post(f"/v1/models/{name}:predict", json={"inputs": columns})
    assert response.status_code == 200, response.text
    outputs, wanted = response.json()["outputs"], Reference(name)(inputs)
    found = outputs if len(wanted) > 1 else {next(iter(wanted)): outputs}
    require_equal({key: np.array(value) for key, value in found.items()}, wanted)


def test_rows_that_share_a_value_are_one_request(client: httpx.Client) -> None:
    rows = [{"x": [0.0, 1, 2, 3], "t": 1.5}, {"x": [2.0, 1, 2, 3], "t": 1.5}]
    response = client.post("/models/threshold/predict", json={"instances": rows})
    assert response.json()["predictions"] == [[0, 0, 1, 1], [1, 0, 1, 1]]
    rows[1]["t"] = 0.5
    response = client.post("/models/threshold/predict", json={"instances": rows})
    assert response.status_code == 400
    assert "different values of 't'" in response.text


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("gru", {"h": np.zeros((2, 3, 3), np.float32)}, "1 in axis 0 of 'x', 3 in axis 1 of 'h'"),
        ("gru", {"h": np.zeros((1, 2, 3), np.float32)}, "the model takes [2, -1, 3]"),
        ("threshold", {"t": np.zeros(1, np.float32)}, "has the shape [1]; the model takes []"),
        ("picture", {"x": np.zeros((1, 3, 8, 8), np.float32)}, "the model takes [3, 8, 8]"),
    ],
)
def test_a_tensor_of_another_layout_is_refused_with_its_shape(
    name: str, changed: Arrays, message: str, client: httpx.Client
) -> None:
    inputs = {**NETWORKS[name].request(1, np.random.default_rng(0)), **changed}
    for binary in (False, True):
        response = post(client, name, inputs, binary=binary)
        assert response.status_code == 400
        assert message in response.json()["error"]


def test_a_request_without_rows_is_refused(client: httpx.Client) -> None:
    inputs = NETWORKS["gru"].request(0, np.random.default_rng(0))
    response = post(client, "gru", inputs)
    assert response.status_code == 400
    assert "The request has no rows" in response.json()["error"]


def test_nested_data_for_a_single_value_are_refused(client: httpx.Client) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [], "data": [[1.0]]}
    response = client.post("/v2/models/number/infer", json={"inputs": [tensor]})
    assert response.status_code == 400
    assert "does not have the shape []" in response.json()["error"]


def test_several_rows_without_outputs_of_their_own_are_refused(client: httpx.Client) -> None:
    for name, rows in (("sum", [[1.0] * FEATURES] * 2), ("number", [1.0, 2.0])):
        response = client.post(f"/models/{name}/predict", json={"instances": rows})
        assert response.status_code == 400
        assert f"Model '{name}' computes one row at a time, since y does not" in response.text


def test_a_raw_body_is_the_whole_input(client: httpx.Client) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    response = client.post(
        "/v2/models/picture/infer",
        content=x.tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    length = int(response.headers["inference-header-content-length"])
    found = np.frombuffer(response.content[length:], np.float32)
    np.testing.assert_allclose(found, Reference("picture")({"x": x})["y"], rtol=1e-5)


def test_metadata_and_configuration_have_the_shapes_of_the_network(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/gru").json()
    assert [tensor["shape"] for tensor in metadata["inputs"]] == [[-1, 5, FEATURES], [2, -1, 3]]
    for name in ("gru", "picture", "detector", "threshold"):
        configuration = client.get(f"/v2/models/{name}/config").json()
        shapes = [tensor["shape"] for tensor in client.get(f"/v2/models/{name}").json()["outputs"]]
        assert configuration["max_batch_size"] == 0
        assert [tensor["dims"] for tensor in configuration["output"]] == shapes
        assert "dynamic_batching" not in configuration
    parameters = client.get("/v2/models/threshold/config").json()["parameters"]
    assert parameters["batch_axis.t"] == {"string_value": "none"}
    assert parameters["batch_axis.x"] == {"string_value": "0"}


def test_requests_of_equal_values_share_batches(server: Server) -> None:
    rows = np.zeros((1, FEATURES), np.float32)
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def executions() -> int:
            statistics = client.get("/v2/models/threshold/stats").json()["model_stats"][0]
            return int(statistics["execution_count"])

        before = executions()
        with ThreadPoolExecutor(CALLERS) as callers:
            inputs = {"x": rows, "t": np.asarray(0.5, np.float32)}
            list(callers.map(lambda _: infer(client, "threshold", inputs), range(5 * CALLERS)))
        assert executions() - before < 5 * CALLERS


def test_openapi_has_an_example_that_works(client: httpx.Client) -> None:
    paths = client.get("/docs.json").json()["paths"]
    for name in NETWORKS:
        body = paths[f"/models/{name}/predict"]["post"]["requestBody"]["content"]
        example = body["application/json"]["schema"].get("example")
        if example is not None:
            response = client.post(f"/models/{name}/predict", content=json.dumps(example))
            assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", ["gru", "threshold", "picture", "detector"])
def test_the_request_that_check_prints_works(
    name: str,
    client: httpx.Client,
    repository: ModelRepository,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check", name, "--repository", str(repository.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (command,) = [line for line in lines if "curl" in line]
    printed = command.partition(" -d ")[2].strip("'")
    response = client.post(f"/v2/models/{name}/infer", content=printed)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", DIVIDED)
def test_callers_that_share_a_batch_get_the_entries_of_their_own_rows(
    name: str, client: httpx.Client
) -> None:
    """Each request is answered as ONNX Runtime answers it alone, with its index from 0."""
    reference = Reference(name)

    def ask(seed: int) -> None:
        inputs = {"x": pictures(1 + seed % 3, seed)}
        require_equal(infer(client, name, inputs, binary=seed % 2 == 0), reference(inputs))

    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(ask, range(6 * CALLERS)))
    (stats,) = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    assert stats["execution_count"] < stats["inference_count"]  # rows shared batches


def test_rows_with_entries_are_lists_of_unlike_lengths(client: httpx.Client) -> None:
    rows = pictures(4, seed=8)
    response = client.post("/models/yolo/predict", json={"instances": rows.tolist()})
    found = response.json()["predictions"]
    alone = [Reference("yolo")({"x": rows[at : at + 1]})["detections"] for at in range(4)]
    assert [len(row) for row in found] == [len(row) for row in alone]
    for row, wanted in zip(found, alone, strict=True):
        np.testing.assert_allclose(np.reshape(row, wanted.shape), wanted, rtol=1e-5)
    columns = client.post("/v1/models/yolo:predict", json={"inputs": {"x": rows.tolist()}})
    np.testing.assert_allclose(
        columns.json()["outputs"], Reference("yolo")({"x": rows})["detections"], rtol=1e-5
    )
    configuration = client.get("/v2/models/yolo/config").json()
    assert configuration["parameters"]["split_by"] == {"string_value": "detections:0"}


@pytest.mark.parametrize("name", DIVIDED)
def test_no_entries_are_an_empty_list(name: str, client: httpx.Client) -> None:
    dark = {"x": np.zeros((2, 1, 4, 4), np.float32)}
    require_equal(infer(client, name, dark, binary=True), Reference(name)(dark))
    response = client.post("/models/lit/predict", json={"instances": dark["x"].tolist()})
    assert response.json()["predictions"] == [{"places": [], "levels": []}] * 2
