"""Networks of other people: saved by one call, served, and compared with their own library.

Each is asked over V2 and in rows, alone and by 8 concurrent callers with requests of mixed sizes.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from live_server import Server, serving, temporary_home
from own_networks import SKLEARN, TORCH, Own

import fitserve
from fitserve.torch_networks import flattened
from models.package.repository import ModelRepository

CALLERS = 8
REQUESTS = 6  # of each caller
NAMES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_}
EVERY = {**TORCH, **SKLEARN}

pytestmark = pytest.mark.timeout(1200)  # the first test saves every network


class Saved:
    """The repository, and the networks in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.networks: dict[str, Own] = {}
        self.errors: dict[str, Exception] = {}

    def save(self, name: str) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = EVERY[name]()
            sample = own.rows if own.shorter is None else [own.rows, own.shorter]
            if name in SKLEARN:
                sample = own.rows[::5]
            try:
                fitserve.save(name, own.network, sample, repository=self.folder)
            except fitserve.ExportError as error:
                self.errors[name] = error
        self.networks[name] = own


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    found = Saved(tmp_path_factory.mktemp("own"))
    for name in EVERY:
        found.save(name)
    return found


@pytest.fixture(scope="module")
def server(root: Path, saved: Saved) -> Iterator[Server]:
    settings = {"FITSERVE_MODEL_REPOSITORY": str(saved.folder), "FITSERVE_DEVICE": "cpu"}
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


def rows_of(own: Own, shorter: bool) -> dict[str, Any]:
    rows = own.shorter if shorter and own.shorter is not None else own.rows
    if isinstance(rows, dict):
        return {name: np.asarray(array) for name, array in rows.items()}
    if isinstance(rows, torch.Tensor):
        return {"": np.asarray(rows)}
    return {"X": np.float32(rows[:40])}


def expected(own: Own, rows: dict[str, Any]) -> list[Any]:
    """Return what the network computes in its own library: of an estimator, its last method."""
    if isinstance(own.network, torch.nn.Module):
        tensors = [torch.from_numpy(array) for array in rows.values()]
        network = own.network.eval()
        with torch.inference_mode():
            return [np.asarray(tensor) for tensor in flattened(network(*tensors)).values()]
    given = own.rows[: len(rows["X"])]
    for method in ("predict_proba", "predict", "transform"):
        if hasattr(own.network, method):
            found = np.asarray(getattr(own.network, method)(given))
            return [found.reshape(len(found), -1)]
    raise AssertionError("the estimator has no method")


def ask(client: httpx.Client, url: str, name: str, rows: dict[str, Any], names: list[str]) -> Any:
    """Return the outputs by V2, in the order of the card."""
    tensors = [
        {
            "name": label,
            "shape": array.shape,
            "datatype": next(kind for kind, dtype in NAMES.items() if array.dtype == dtype),
            "data": array.ravel().tolist(),
        }
        for label, array in zip(names, rows.values(), strict=True)
    ]
    response = client.post(f"{url}/v2/models/{name}/infer", json={"inputs": tensors})
    assert response.status_code == 200, response.text
    return [np.reshape(output["data"], output["shape"]) for output in response.json()["outputs"]]


def compare(found: list[Any], wanted: list[Any]) -> None:
    for array, other in zip(found[-len(wanted) :], wanted, strict=True):
        scale = float(np.abs(other).max()) or 1.0
        np.testing.assert_allclose(array, other, rtol=2e-3, atol=2e-4 * scale)


@pytest.mark.parametrize("name", EVERY)
def test_a_network_is_served_as_its_own_library_answers(
    name: str, saved: Saved, server: Server
) -> None:
    assert name not in saved.errors, saved.errors[name]
    own, card = saved.networks[name], ModelRepository(saved.folder).get(name).card
    labels = [spec.name for spec in card.inputs]
    random = np.random.default_rng(0)
    with httpx.Client(timeout=120) as client:
        for shorter in (False, True):
            rows = rows_of(own, shorter)
            compare(ask(client, server.url, name, rows, labels), expected(own, rows))
        whole, wanted = rows_of(own, False), expected(own, rows_of(own, False))
        count = len(next(iter(whole.values())))

        def once(number: int) -> None:
            chosen = random_rows[number]
            part = {label: array[chosen] for label, array in whole.items()}
            found = ask(client, server.url, name, part, labels)
            compare(found, [array[chosen] for array in wanted])

        random_rows = [
            random.choice(count, random.integers(1, min(count, 9)), replace=False)
            for _ in range(CALLERS * REQUESTS)
        ]
        with ThreadPoolExecutor(CALLERS) as callers:
            list(callers.map(once, range(CALLERS * REQUESTS)))
        in_rows(client, server.url, name, card, whole, wanted)


def in_rows(
    client: httpx.Client, url: str, name: str, card: Any, rows: dict[str, Any], wanted: list[Any]
) -> None:
    """Compare `/models/{name}/predict`."""
    named = dict(zip([spec.name for spec in card.inputs], rows.values(), strict=True))
    instances = [{label: array[at].tolist() for label, array in named.items()} for at in range(3)]
    response = client.post(f"{url}/models/{name}/predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    predictions = response.json()["predictions"]
    labelled = [spec for spec in card.outputs if spec.labels]
    for at, row in enumerate(predictions):
        if labelled:
            scores = wanted[-1][at]
            best = labelled[0].labels[int(np.argmax(scores))]
            assert row["score"] == pytest.approx(float(np.max(scores)), rel=2e-3, abs=1e-4)
            assert row["label"] == best or np.sort(scores)[-2] > row["score"] - 1e-4
        elif len(card.outputs) == 1:
            scale = float(np.abs(wanted[0]).max()) or 1.0
            np.testing.assert_allclose(
                np.ravel(row), np.ravel(wanted[0][at]), rtol=2e-3, atol=2e-4 * scale
            )
