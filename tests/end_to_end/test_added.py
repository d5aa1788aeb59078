"""Networks of other libraries, added and served without changes to the code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import onnx
import pytest
from exported_networks import Added
from live_server import serving, temporary_home
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_packages import bfloat16_onnx

from models.adding.add import add
from models.kinds.tensor_spec import NUMPY_DTYPES
from models.package.card import WEIGHTS_FILE


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with the input of a curve and another output."""
    folder = tmp_path_factory.mktemp("impostor")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    sine = helper.make_tensor_value_info("sine", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["sine"])], "g", [info], [sine])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "sine.onnx")
    return add(folder / "added", "sine", folder / "sine.onnx").path.parent


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose weights are in a file of their own."""
    folder = tmp_path_factory.mktemp("beside")
    weights = numpy_helper.from_array(np.full((1, 2048), 3, np.float32), "weights")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    wide = helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["batch", 2048])
    product = helper.make_node("MatMul", ["x", "weights"], ["wide"])
    graph = helper.make_graph([product], "g", [info], [wide], [weights])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, folder / "wide.onnx", save_as_external_data=True, location="w")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.sources.external_weights.LARGEST_INSIDE", 0)
        package = add(folder / "added", "wide", folder / "wide.onnx")
    assert WEIGHTS_FILE in package.card.files
    return package.path.parent


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that doubles numbers of BF16."""
    folder = tmp_path_factory.mktemp("brain")
    file = folder / "net.onnx"
    file.write_bytes(bfloat16_onnx())
    return add(folder / "added", "brain", file).path.parent


@pytest.fixture(scope="module")
def client(
    root: Path,
    added_repository: Added,
    impostor: Path,
    beside: Path,
    brain: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """A client of a server whose repository has the added networks and the impostor."""
    repository = tmp_path_factory.mktemp("served")
    for package in (
        impostor,
        beside,
        brain,
        *(added_repository.root / name for name in added_repository.networks),
    ):
        (repository / package.name).symlink_to(package)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(repository)}
    with (
        temporary_home() as home,
        serving(home, root, settings=settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as opened,
    ):
        yield opened


def test_every_added_network_serves(client: httpx.Client, added_repository: Added) -> None:
    assert client.get("/readyz").status_code == 200
    content = client.get("/models").json()
    assert content["refused"] == {}
    assert {model["name"] for model in content["models"]} == {
        "sine",
        "wide",
        "brain",
        *added_repository.networks,
    }


def test_weights_beside_the_graph_are_served(client: httpx.Client) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}
    (output,) = client.post("/v2/models/wide/infer", json=body).json()["outputs"]
    assert output["shape"] == [2, 2048]
    assert set(output["data"][:2048]) | set(output["data"][2048:]) == {3, 6}


def test_bfloat16_is_served_in_binary_and_as_rows(client: httpx.Client) -> None:
    numbers = np.array([[1.5, -3], [0.1, 1e38]], ml_dtypes.bfloat16)
    tensor = {"name": "x", "shape": [2, 2], "datatype": "BF16"}
    outputs = {"parameters": {"binary_data_output": True}}
    sent = {"inputs": [{**tensor, "parameters": {"binary_data_size": 8}}], **outputs}
    header = json.dumps(sent).encode()
    response = client.post(
        "/v2/models/brain/infer",
        content=header + numbers.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    size = int(response.headers["inference-header-content-length"])
    answered = np.frombuffer(response.content[size:], ml_dtypes.bfloat16).reshape(2, 2)
    assert answered.tolist() == (numbers * 2).tolist()
    in_json = {"inputs": [{**tensor, "data": [1.5, -3, 0.1, 1]}], **outputs}
    refused = client.post("/v2/models/brain/infer", json=in_json)
    assert refused.status_code == 400
    assert "Receiving BF16 data via JSON is not supported" in refused.json()["error"]
    rows = {"instances": [[1.5, -3], [0.1, 0]]}
    predictions = client.post("/models/brain/predict", json=rows).json()["predictions"]
    np.testing.assert_allclose(predictions, [[3, -6], [0.2, 0]], rtol=2**-7)
    assert predictions[1][0] != 0.2  # it is rounded to eight bits


def test_the_served_cards_describe_the_inputs(
    client: httpx.Client, added_repository: Added
) -> None:
    for name, network in added_repository.networks.items():
        card = client.get(f"/models/{name}").json()
        assert {spec["name"] for spec in card["inputs"]} == set(network.inputs)
        assert {spec["name"] for spec in card["outputs"]} == set(network.outputs)
        for spec in card["inputs"]:
            assert spec["shape"][1:] == list(network.inputs[spec["name"]].shape[1:])


def test_the_curve_endpoint_reports_a_network_without_a_curve(
    client: httpx.Client,
) -> None:
    response = client.post("/predict_curve", json={"x": [1], "model": "sine"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Model 'sine' has no output y in rows; call /v2/models/sine/infer."
    }


# Predictions over the protocol.


def infer(
    client: httpx.Client, name: str, inputs: dict[str, NDArray[Any]], *, binary: bool
) -> dict[str, NDArray[Any]]:
    """Request every output, as JSON or with binary tensors, and parse the response."""
    described = {
        entry["name"]: entry for entry in client.get(f"/v2/models/{name}").json()["inputs"]
    }
    tensors: list[dict[str, Any]] = []
    for key, array in inputs.items():
        tensor = {"name": key, "shape": array.shape, "datatype": described[key]["datatype"]}
        size = {"parameters": {"binary_data_size": array.nbytes}}
        tensors.append(tensor | (size if binary else {"data": array.ravel().tolist()}))
    header = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": binary}}).encode()
    body = header + (b"".join(array.tobytes() for array in inputs.values()) if binary else b"")
    headers = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
    response = client.post(f"/v2/models/{name}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text
    end = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    outputs = {}
    for entry in json.loads(response.content[:end])["outputs"]:
        dtype = NUMPY_DTYPES[entry["datatype"]]
        if binary:
            size = entry["parameters"]["binary_data_size"]
            values = np.frombuffer(response.content[end : end + size], dtype)
            end += size
        else:
            values = np.array(entry["data"], dtype)
        outputs[entry["name"]] = values.reshape(entry["shape"])
    return outputs


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["keras-digits", "resnet", "iris", "two-inputs", "one-at-a-time"])
def test_each_network_predicts_as_its_own_library(
    client: httpx.Client, added_repository: Added, name: str, binary: bool
) -> None:
    network = added_repository.networks[name]
    (rows,) = {len(array) for array in network.inputs.values()}
    size = 1 if name == "one-at-a-time" else rows
    for start in range(0, rows, size):
        part = {key: array[start : start + size] for key, array in network.inputs.items()}
        answered = infer(client, name, part, binary=binary)
        assert set(answered) == set(network.outputs)
        for key, expected in network.outputs.items():
            expected_rows = expected[start : start + size]
            assert answered[key].shape == expected_rows.shape
            assert answered[key].dtype == expected_rows.dtype
            np.testing.assert_allclose(answered[key], expected_rows, rtol=1e-3, atol=1e-3)


def test_a_network_with_a_fixed_batch_of_one_row_accepts_one_row(
    client: httpx.Client, added_repository: Added
) -> None:
    ((key, array),) = added_repository.networks["one-at-a-time"].inputs.items()
    two = np.concatenate([array[:1], array[:1]])
    tensor = {"name": key, "shape": two.shape, "datatype": "FP32", "data": two.ravel().tolist()}
    response = client.post("/v2/models/one-at-a-time/infer", json={"inputs": [tensor]})
    assert response.status_code == 400
    assert "the model takes [1, " in response.json()["error"]
    assert client.get("/v2/models/one-at-a-time/config").json()["max_batch_size"] == 0
