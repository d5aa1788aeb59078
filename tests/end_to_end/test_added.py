"""Networks that this project did not train, added and then served with no code changed."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import onnx
import pytest
from foreign_networks import Added
from live_server import serving, temporary_home
from onnx import TensorProto, helper

from models.add import add


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that takes what a curve takes, and gives something else."""
    folder = tmp_path_factory.mktemp("impostor")
    place = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    sine = helper.make_tensor_value_info("sine", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["sine"])], "g", [place], [sine])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "sine.onnx")
    return add(folder / "added", "sine", folder / "sine.onnx").path.parent


@pytest.fixture(scope="module")
def client(
    root: Path,
    added_repository: Added,
    impostor: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """A client of a server whose repository holds the added networks, and the impostor."""
    repository = tmp_path_factory.mktemp("served")
    for package in (
        impostor,
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


def test_every_added_network_serves_and_none_is_refused(
    client: httpx.Client, added_repository: Added
) -> None:
    assert client.get("/readyz").status_code == 200
    content = client.get("/models").json()
    assert content["refused"] == {}
    assert {model["name"] for model in content["models"]} == {
        "sine",
        *added_repository.networks,
    }


def test_the_cards_that_are_served_say_what_to_send(
    client: httpx.Client, added_repository: Added
) -> None:
    for name, network in added_repository.networks.items():
        card = client.get(f"/models/{name}").json()
        assert {spec["name"] for spec in card["inputs"]} == set(network.inputs)
        assert {spec["name"] for spec in card["outputs"]} == set(network.outputs)
        for spec in card["inputs"]:
            assert spec["shape"][1:] == list(network.inputs[spec["name"]].shape[1:])


def test_an_endpoint_for_curves_says_so_where_a_network_gives_no_curve(
    client: httpx.Client,
) -> None:
    response = client.post("/predict_curve", json={"x": [1], "model": "sine"})
    assert response.status_code == 400
    assert response.json() == {
        "error": "Model 'sine' gives no y in rows; ask it at /v2/models/sine/infer."
    }
