"""The requests in TensorFlow Serving's documentation of its REST API.

https://www.tensorflow.org/tfx/serving/api_rest, with its model half_plus_two: x / 2 + 2.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from live_server import serving, temporary_home
from torch import Tensor, nn

import fitserve

MODEL = "/v1/models/half_plus_two"


class _HalfPlusTwo(nn.Module):
    """A row is a number, not a list of one."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2 + 2


class _Two(nn.Module):
    """Two inputs and two outputs, as in the documentation's model of a tag and a signal."""

    def forward(self, signal: Tensor, gain: Tensor) -> dict[str, Tensor]:
        return {"scaled": signal * gain, "total": signal.sum(dim=1)}


@pytest.fixture(scope="module")
def client(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("half")
    fitserve.save("half_plus_two", _HalfPlusTwo(), np.float32([1, 2, 5]), repository=folder)
    rows = {"signal": torch.rand(4, 3), "gain": torch.rand(4, 1)}
    fitserve.save("two", _Two(), rows, repository=folder)
    settings = {"FITSERVE_MODEL_REPOSITORY": str(folder), "FITSERVE_DEVICE": "cpu"}
    with (
        temporary_home() as home,
        serving(home, root, settings=settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ({"inputs": [1.0, 2.0, 5.0]}, {"outputs": [2.5, 3.0, 4.5]}),
        ({"inputs": {"x": [1.0, 2.0, 5.0]}}, {"outputs": [2.5, 3.0, 4.5]}),
        ({"instances": [{"x": 1.0}, {"x": 2.0}]}, {"predictions": [2.5, 3.0]}),
        (
            {"signature_name": "serving_default", "instances": [1.0]},
            {"predictions": [2.5]},
        ),
    ],
)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_half_plus_two(version: str, body: Any, answer: Any, client: httpx.Client) -> None:
    response = client.post(f"{MODEL}{version}:predict", json=body)
    assert (response.status_code, response.json()) == (200, answer)


def test_several_inputs_and_outputs_have_names(client: httpx.Client) -> None:
    rows = {"instances": [{"signal": [1, 2, 3], "gain": [2]}, {"signal": [4, 5, 6], "gain": [1]}]}
    assert client.post("/v1/models/two:predict", json=rows).json() == {
        "predictions": [{"scaled": [2, 4, 6], "total": 6}, {"scaled": [4, 5, 6], "total": 15}]
    }
    columns = {"inputs": {"signal": [[1, 2, 3], [4, 5, 6]], "gain": [[2], [1]]}}
    assert client.post("/v1/models/two:predict", json=columns).json() == {
        "outputs": {"scaled": [[2, 4, 6], [4, 5, 6]], "total": [6, 15]}
    }


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_status_of_a_model(version: str, client: httpx.Client) -> None:
    state = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    assert client.get(f"{MODEL}{version}").json()["model_version_status"] == [state]


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_metadata_of_a_model(version: str, client: httpx.Client) -> None:
    content = client.get(f"{MODEL}{version}/metadata").json()
    assert content["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    (signature,) = content["metadata"]["signature_def"]["signature_def"].values()
    assert signature["method_name"] == "tensorflow/serving/predict"
    for tensor in (signature["inputs"]["x"], *signature["outputs"].values()):
        assert tensor["dtype"] == "DT_FLOAT"
        assert tensor["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{MODEL}/versions/2:predict", {"instances": [1.0]}, 404),
        (f"{MODEL}/versions/2", None, 404),
        (f"{MODEL}/versions/2/metadata", None, 404),
        ("/v1/models/half_plus_three", None, 404),
        (f"{MODEL}:predict", {"instances": ["one"]}, 400),
        (f"{MODEL}:predict", {"instances": [1.0], "inputs": [1.0]}, 400),
        (f"{MODEL}:predict", {"inputs": {"y": [1.0]}}, 400),
    ],
)
def test_an_error_has_the_field_error(
    path: str, body: Any, status: int, client: httpx.Client
) -> None:
    response = client.post(path, json=body) if body else client.get(path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
