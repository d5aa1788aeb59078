"""Networks that this project did not train, added and then served with no code changed."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from foreign_networks import Added
from live_server import serving, temporary_home


@pytest.fixture(scope="module")
def client(root: Path, added_repository: Added) -> Iterator[httpx.Client]:
    """A client of a server whose repository holds the added networks alone."""
    settings = {"FITSERVE_MODEL_REPOSITORY": str(added_repository.root)}
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
    assert {model["name"] for model in content["models"]} == set(added_repository.networks)


def test_the_cards_that_are_served_say_what_to_send(
    client: httpx.Client, added_repository: Added
) -> None:
    for name, network in added_repository.networks.items():
        card = client.get(f"/models/{name}").json()
        assert {spec["name"] for spec in card["inputs"]} == set(network.inputs)
        assert {spec["name"] for spec in card["outputs"]} == set(network.outputs)
        for spec in card["inputs"]:
            assert spec["shape"][1:] == list(network.inputs[spec["name"]].shape[1:])
