"""A server that loads its models: it is live from the start, and loaded models answer."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from faulty_networks import answer, write_slow, write_sound
from live_server import Server, serving, temporary_home

FOREVER = 10**11  # iterations of a loop
STEPS = 300_000  # a fifth of a second on an idle machine
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3.0]}]}


def settings(repository: Path, workers: int = 1, timeout: float = 30) -> dict[str, str]:
    return {
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_TIMEOUT_SECONDS": str(timeout),
        "BENTOML_CONFIG_OPTIONS": f"services.fitserve.workers={workers}",
    }


@pytest.fixture(scope="module")
def loading(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has loaded one model, and never ends to load the other one."""
    repository = tmp_path_factory.mktemp("models")
    write_sound(repository, "quick")
    write_slow(repository, "slow", FOREVER)
    with (
        temporary_home() as home,
        serving(
            home, root, until="/v2/models/quick/ready", settings=settings(repository, timeout=1)
        ) as server,
    ):
        yield server


def test_it_is_live_and_not_ready(loading: Server) -> None:
    assert httpx.get(f"{loading.url}/livez").status_code == 200
    assert httpx.get(f"{loading.url}/v2/health/live").status_code == 200
    assert httpx.get(f"{loading.url}/readyz").status_code == 503
    response = httpx.get(f"{loading.url}/v2/health/ready")
    assert response.status_code == 503
    assert response.json()["error"] == (
        "1 of the models is being loaded; try again in a few seconds."
    )
    assert "[ERROR]" not in loading.read_log()


def test_a_loaded_model_predicts(loading: Server) -> None:
    response = httpx.post(f"{loading.url}/v2/models/quick/infer", json=BODY)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == [answer(3.0)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda url: httpx.get(f"{url}/v2/models/slow/ready"),
        lambda url: httpx.get(f"{url}/v2/models/slow"),
        lambda url: httpx.post(f"{url}/v2/models/slow/infer", json=BODY),
        lambda url: httpx.post(f"{url}/predict_curve", json={"x": [1], "model": "slow"}),
        lambda url: httpx.get(f"{url}/models/slow"),
    ],
    ids=["ready", "metadata", "infer", "typed", "card"],
)
def test_a_model_that_is_being_loaded_is_a_503_for_a_moment(
    ask: Callable[[str], httpx.Response], loading: Server
) -> None:
    response = ask(loading.url)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json() == {"error": "Model 'slow' is being loaded; try again in a few seconds."}


def test_predictions_wait_for_their_model(root: Path, tmp_path: Path) -> None:
    """A proxy would send more requests to a server that refuses them at once."""
    write_slow(tmp_path, "slow", STEPS // 20)
    with (
        temporary_home() as home,
        serving(home, root, until="/livez", settings=settings(tmp_path)) as server,
        ThreadPoolExecutor(3) as threads,
    ):
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        url = f"{server.url}/v2/models/slow/infer"
        fast = [threads.submit(httpx.post, url, json=BODY, timeout=60) for _ in range(2)]
        asgi = threads.submit(httpx.post, f"{url}?", json=BODY, timeout=60)
        for response in (*fast, asgi):
            assert response.result().status_code == 200, response.result().text
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_an_unknown_model_is_a_404(loading: Server) -> None:
    assert httpx.get(f"{loading.url}/v2/models/other/ready").status_code == 404


def test_the_lists_of_models_have_those_that_are_being_loaded(loading: Server) -> None:
    index = httpx.post(f"{loading.url}/v2/repository/index").json()
    assert {entry["name"]: entry["state"] for entry in index} == {
        "quick": "READY",
        "slow": "LOADING",
    }
    content = httpx.get(f"{loading.url}/models").json()
    assert [model["name"] for model in content["models"]] == ["quick"]
    assert (content["loading"], content["refused"]) == (["slow"], {})


def test_a_server_that_is_ready_once_answers_on_every_worker(root: Path, tmp_path: Path) -> None:
    """The first worker answers while it loads; the others accept no connection until then."""
    write_sound(tmp_path, "quick")
    write_slow(tmp_path, "slow", STEPS)
    with (
        temporary_home() as home,
        serving(home, root, until="/livez", settings=settings(tmp_path, workers=2)) as server,
    ):
        statuses, ready = [], 0.0
        deadline = time.monotonic() + 120
        while not ready or time.monotonic() < ready + 3:
            assert time.monotonic() < deadline, server.tail()
            statuses.append(httpx.get(f"{server.url}/readyz", timeout=60).status_code)
            if not ready and statuses[-1] == 200:
                ready = time.monotonic()
            time.sleep(0.02)
        assert statuses[0] == 503
        assert statuses == sorted(statuses, reverse=True)
        assert set(statuses) == {503, 200}
