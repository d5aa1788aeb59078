"""The whole service over HTTP, with a real server."""

import asyncio
import http.client
import json
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import bentoml
import httpx
import numpy as np
import pytest
from live_server import BIN, Server, environment, free_port, serving, temporary_home
from numpy.typing import NDArray
from pictures import encoded, file_part, text_part
from PIL import Image

from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from service.api.typed.images import mnist_pixels

DEFAULTS = {
    "/classify_digits": "mnist-cnn",
    "/classify_image": "mnist-cnn",
    "/predict_curve": "curve-tanh",
    "/classify_points": "moons-tanh",
}
CURVES = ("curve-linear", "curve-mlp", "curve-tanh")
MOONS = ("moons-linear", "moons-tanh")
DIGITS = ("mnist-cnn", "mnist-mlp")
SAME = {"rtol": 1e-6, "atol": 1e-5}  # the same server, in another batch
EQUAL = {"rtol": 1e-3, "atol": 1e-3}  # another runtime or device


def computed(repository: ModelRepository, name: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Return the outputs of the package for these rows, each alone, without the service."""
    package = repository.get(name)
    runtime = open_runtime(package, "onnx")
    (spec,) = package.card.inputs
    (output,) = package.card.outputs
    return np.concatenate([runtime({spec.name: row[None]})[output.name] for row in rows])


def numbers(response: dict[str, Any]) -> NDArray[Any]:
    """Return the numbers of a response, one row per input row."""
    if "y" in response:
        return np.array(response["y"], np.float64)
    return np.array(
        [prediction["probabilities"] for prediction in response["predictions"]], np.float64
    )


def assert_error(response: httpx.Response, status: int, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert re.fullmatch(r"[A-Z].*\.", response.json()["error"]), response.text
    assert words in response.json()["error"]


# One request at a time.


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_predicts_as_its_package(
    name: str, client: httpx.Client, repository: ModelRepository
) -> None:
    x = np.linspace(-2, 22, 100, dtype=np.float32)
    response = client.post("/predict_curve", json={"x": x.tolist(), "model": name}).json()
    assert (response["model"], response["version"]) == (name, repository.versions(name)[-1])
    np.testing.assert_allclose(response["y"], computed(repository, name, x[:, None])[:, 0], **EQUAL)


@pytest.mark.parametrize("name", MOONS)
def test_every_classifier_of_points_predicts_as_its_package(
    name: str, client: httpx.Client, repository: ModelRepository
) -> None:
    points = np.random.default_rng(0).uniform(-2, 3, (50, 2)).astype(np.float32)
    response = client.post(
        "/classify_points", json={"points": points.tolist(), "model": name}
    ).json()
    assert response["model"] == name
    expected = computed(repository, name, points)
    np.testing.assert_allclose(numbers(response), expected, **EQUAL)
    labels = repository.get(name).card.outputs[0].labels
    assert labels is not None
    for prediction, row in zip(response["predictions"], expected, strict=True):
        assert prediction["label"] == labels[row.argmax()]
        assert prediction["confidence"] == max(prediction["probabilities"])


@pytest.mark.parametrize("name", DIGITS)
def test_every_classifier_of_digits_predicts_as_its_package(
    name: str,
    client: httpx.Client,
    repository: ModelRepository,
    drawn: dict[int, Image.Image],
) -> None:
    images = np.stack([mnist_pixels(encoded(picture)) for picture in drawn.values()])
    expected = computed(repository, name, images)
    for sent in (images, images.reshape(-1, 784)):
        body = {"images": sent.tolist(), "model": name}
        response = client.post("/classify_digits", json=body).json()
        assert response["model"] == name
        np.testing.assert_allclose(numbers(response), expected, **EQUAL)
        for prediction, row in zip(response["predictions"], expected, strict=True):
            assert prediction["digit"] == row.argmax()
            assert prediction["confidence"] == max(prediction["probabilities"])


def test_the_model_has_a_default(client: httpx.Client, drawn: dict[int, Image.Image]) -> None:
    responses = {
        "/classify_digits": client.post("/classify_digits", json={"images": [[0] * 784]}),
        "/classify_image": client.post("/classify_image", files=[file_part(encoded(drawn[1]))]),
        "/predict_curve": client.post("/predict_curve", json={"x": [1]}),
        "/classify_points": client.post("/classify_points", json={"points": [[0, 1]]}),
    }
    assert {path: response.json()["model"] for path, response in responses.items()} == DEFAULTS


@pytest.mark.parametrize("name", DIGITS)
def test_a_drawn_digit_is_read(
    name: str, client: httpx.Client, drawn: dict[int, Image.Image]
) -> None:
    for digit, picture in drawn.items():
        parts = [file_part(encoded(picture)), text_part("model", name)]
        response = client.post("/classify_image", files=parts)
        assert response.status_code == 200
        (prediction,) = response.json()["predictions"]
        assert prediction["digit"] == digit
        np.testing.assert_array_equal(prediction["pixels"], mnist_pixels(encoded(picture)))


@pytest.mark.parametrize("name", DIGITS)
def test_real_mnist_digits_are_read_from_their_pictures(
    name: str, client: httpx.Client, mnist: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    images, labels = mnist
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    parts = [file_part(encoded(Image.fromarray(images[n]))) for n in first]
    response = client.post("/classify_image", files=[*parts, text_part("model", name)]).json()
    right = sum(
        p["digit"] == labels[n] for p, n in zip(response["predictions"], first, strict=True)
    )
    assert right >= 9
    body = {"images": images[:200].tolist(), "model": name}
    response = client.post("/classify_digits", json=body).json()
    right = np.mean([p["digit"] for p in response["predictions"]] == labels[:200])
    assert right >= 0.9


def test_several_files_of_several_formats_are_predicted_in_order(
    client: httpx.Client, drawn: dict[int, Image.Image]
) -> None:
    formats = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
    sent = [(digit, encoded(drawn[digit], kind)) for kind in formats for digit in drawn]
    parts = [file_part(content, "picture", "application/octet-stream") for _, content in sent]
    response = client.post("/classify_image", files=parts).json()
    assert [p["digit"] for p in response["predictions"]] == [digit for digit, _ in sent]
    for prediction, (_, content) in zip(response["predictions"], sent, strict=True):
        np.testing.assert_array_equal(prediction["pixels"], mnist_pixels(content))


def test_a_request_of_more_rows_than_a_batch_gets_all_rows(
    client: httpx.Client, repository: ModelRepository
) -> None:
    x = np.linspace(0, 20, 3_001, dtype=np.float32)
    response = client.post("/predict_curve", json={"x": x.tolist()}).json()
    expected = computed(repository, "curve-tanh", x[:, None])[:, 0]
    np.testing.assert_allclose(response["y"], expected, **EQUAL)


# Through BentoML's own client.


def test_the_client_of_bentoml_calls_every_endpoint(
    server: Server,
    repository: ModelRepository,
    drawn: dict[int, Image.Image],
    tmp_path: Path,
) -> None:
    (tmp_path / "one.png").write_bytes(encoded(drawn[1]))
    (tmp_path / "seven.webp").write_bytes(encoded(drawn[7], "WEBP"))
    with bentoml.SyncHTTPClient(server.url) as client:
        pixels = mnist_pixels(encoded(drawn[7]))
        digits = client.classify_digits(images=[pixels.tolist()])
        assert digits["predictions"][0]["digit"] == 7
        pictures = client.classify_image(
            images=[tmp_path / "one.png", str(tmp_path / "seven.webp")], model="mnist-mlp"
        )
        assert pictures["model"] == "mnist-mlp"
        assert [prediction["digit"] for prediction in pictures["predictions"]] == [1, 7]
        curve = client.predict_curve(x=[1, 2.5], model="curve-linear")
        expected = computed(repository, "curve-linear", np.array([[1], [2.5]], np.float32))[:, 0]
        np.testing.assert_allclose(curve["y"], expected, **EQUAL)
        points = client.classify_points(points=[[0, 1]])
        assert points["model"] == "moons-tanh"


def test_the_client_of_bentoml_gets_the_sentence_of_an_error(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        with pytest.raises(bentoml.exceptions.InvalidArgument, match="must hold numbers"):
            client.predict_curve(x=["one"])
        with pytest.raises(bentoml.exceptions.NotFound, match="unknown model: 'curve-cosh'"):
            client.predict_curve(x=[1], model="curve-cosh")


# Two hundred concurrent requests.


class Question(NamedTuple):
    """A request, and its expected status."""

    path: str
    sent: dict[str, Any]
    status: int = 200


def good_questions(count: int, drawn: dict[int, Image.Image]) -> list[Question]:
    rng = np.random.default_rng(3)
    pixels = [mnist_pixels(encoded(picture)) for picture in drawn.values()]

    def images(rows: int) -> list[Any]:
        noise = rng.integers(0, 90, (rows, 28, 28))
        digits = np.stack([pixels[rng.integers(len(pixels))] for _ in range(rows)])
        return np.clip(digits + noise, 0, 255).tolist()

    def picture() -> Any:
        angle = float(rng.uniform(-30, 30))
        turned = drawn[int(rng.choice(list(drawn)))].rotate(angle, fillcolor=255)
        return file_part(encoded(turned))

    questions = []
    for n in range(count):
        rows = 700 if n % 40 == 0 else int(rng.integers(1, 9))
        match n % 4:
            case 0:
                x = rng.uniform(0, 20, rows).tolist()
                body = {"x": x, "model": CURVES[n // 4 % 3]}
                questions.append(Question("/predict_curve", {"json": body}))
            case 1:
                points = rng.uniform(-1, 2, (rows, 2)).tolist()
                body = {"points": points, "model": MOONS[n // 4 % 2]}
                questions.append(Question("/classify_points", {"json": body}))
            case 2:
                body = {"images": images(min(rows, 4)), "model": DIGITS[n // 4 % 2]}
                questions.append(Question("/classify_digits", {"json": body}))
            case 3:
                files = [picture() for _ in range(1 + n % 3)]
                sent = {"files": [*files, text_part("model", DIGITS[n // 4 % 2])]}
                questions.append(Question("/classify_image", sent))
    return questions


def bad_questions(count: int, drawn: dict[int, Image.Image]) -> list[Question]:
    good = file_part(encoded(drawn[2]))
    kinds = [
        Question("/predict_curve", {"json": {"x": []}}, 400),
        Question("/predict_curve", {"json": {"x": [[1]]}}, 400),
        Question("/predict_curve", {"content": b"{"}, 400),
        Question("/predict_curve", {"json": {"x": [1], "model": "none"}}, 404),
        Question("/predict_curve", {"json": {"x": [1], "model": "moons-tanh"}}, 400),
        Question("/classify_points", {"json": {"points": [[1, None]]}}, 400),
        Question("/classify_points", {"json": {"points": [[3e38, 3e38]], "model": "x"}}, 404),
        Question("/classify_points", {"data": {"points": "1"}}, 415),
        Question("/classify_digits", {"json": {"images": [[256] * 784]}}, 400),
        Question("/classify_digits", {"json": {"images": [[0] * 783]}}, 400),
        Question("/classify_image", {"files": [text_part("images", "7")]}, 400),
        Question("/classify_image", {"files": [good, file_part(b"no picture")]}, 400),
        Question("/classify_image", {"files": [good, file_part(b"%PDF-1.4")]}, 415),
    ]
    return [kinds[n % len(kinds)] for n in range(count)]


async def test_two_hundred_concurrent_requests_get_the_same_responses_as_alone(
    server: Server, drawn: dict[int, Image.Image]
) -> None:
    questions = good_questions(160, drawn) + bad_questions(40, drawn)
    order = np.random.default_rng(4).permutation(len(questions))
    questions = [questions[n] for n in order]
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
        responses_alone = [
            await client.post(question.path, **question.sent) for question in questions
        ]
        posts = [client.post(question.path, **question.sent, headers={"X-Request-Id": f"q{n}"})
                 for n, question in enumerate(questions)]  # fmt: skip
        together = await asyncio.gather(*posts)
    for question, response in zip(questions, responses_alone, strict=True):
        assert response.status_code == question.status, response.text
    right = [response.text for response in responses_alone if response.status_code == 200]
    assert len(set(right)) > 120  # otherwise two responses could be swapped unnoticed
    for n, (question, response_alone, among) in enumerate(
        zip(questions, responses_alone, together, strict=True)
    ):
        assert among.status_code == question.status, among.text
        assert among.headers["x-request-id"] == f"q{n}"
        if question.status != 200:
            assert_error(among, question.status)
            assert among.json() == response_alone.json()
            continue
        actual, wanted = among.json(), response_alone.json()
        assert (actual["model"], actual["version"]) == (wanted["model"], wanted["version"])
        np.testing.assert_allclose(numbers(actual), numbers(wanted), **SAME)
        for left, right_one in zip(
            actual.get("predictions", ()), wanted.get("predictions", ()), strict=True
        ):
            assert left.get("pixels") == right_one.get("pixels")
            assert left.get("digit") == right_one.get("digit")
            assert left.get("label") == right_one.get("label")


# Invalid requests.


class Bait(NamedTuple):
    """A server that must not get requests, and the requests that it got."""

    url: str
    requested: list[str]


@pytest.fixture
def bait() -> Iterator[Bait]:
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_POST = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    yield Bait(f"http://127.0.0.1:{listener.server_port}/seven.png", requested)
    listener.shutdown()
    listener.server_close()
    thread.join()


def test_a_url_in_place_of_a_file_is_refused_and_not_fetched(
    client: httpx.Client, server: Server, bait: Bait, drawn: dict[int, Image.Image]
) -> None:
    picture = file_part(encoded(drawn[7]))
    address = text_part("images", bait.url)
    for parts in ([address], [address, address], [picture, address], [address, picture]):
        assert_error(client.post("/classify_image", files=parts), 400, "must hold files")
    as_file = file_part(bait.url.encode(), bait.url, "text/uri-list")
    assert_error(client.post("/classify_image", files=[as_file]), 400, "not a picture")
    assert_error(client.post("/classify_image", json={"images": [bait.url]}), 415)
    assert_error(client.post("/classify_image", data={"images": bait.url}), 415)
    assert_error(client.post("/classify_digits", json={"images": [bait.url]}), 400)
    assert_error(client.post("/classify_digits", json={"images": bait.url}), 400)
    with (
        bentoml.SyncHTTPClient(server.url) as sync,
        pytest.raises(bentoml.exceptions.BentoMLException),
    ):
        sync.classify_image(images=[bait.url])
    assert bait.requested == []


class Explosive:
    """An object that writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


@pytest.mark.parametrize("path", list(DEFAULTS))
def test_a_pickle_is_refused_and_not_loaded(
    path: str, client: httpx.Client, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"x": [1], "images": Explosive(trace)})
    for kind in ("application/vnd.bentoml+pickle", "Application/vnd.bentoml+Pickle; a=b",
                 "application/octet-stream", "application/json", ""):  # fmt: skip
        response = client.post(path, content=content, headers={"Content-Type": kind})
        assert 400 <= response.status_code < 500
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_another_media_type_is_a_415(kind: str, client: httpx.Client) -> None:
    for path in DEFAULTS:
        response = client.post(path, content=b"x=1", headers={"Content-Type": kind})
        assert_error(response, 415, "end the ")


def test_inputs_with_an_infinite_output_are_refused(
    client: httpx.Client,
) -> None:
    huge = [3e38, -3e38]
    requested = [("/predict_curve", {"x": huge, "model": name}) for name in CURVES]
    requested += [("/classify_points", {"points": [huge, huge[::-1]], "model": m}) for m in MOONS]
    for path, body in requested:
        response = client.post(path, json=body)
        if response.status_code == 200:
            assert np.isfinite(numbers(response.json())).all()
        else:
            assert_error(response, 400, "infinity")


def test_a_declared_body_of_more_than_64_mib_is_refused_unsent(server: Server) -> None:
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.putrequest("POST", "/predict_curve")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(64 * 2**20 + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "67,108,864 bytes" in json.loads(response.read())["error"]
    connection.close()


def test_a_client_that_disconnects_during_its_body_does_not_affect_others(
    server: Server, client: httpx.Client
) -> None:
    port = int(server.url.rpartition(":")[2])
    for path in DEFAULTS:
        with socket.create_connection(("127.0.0.1", port)) as left:
            header = (
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            )
            left.sendall(f"{header}Content-Length: 1000\r\n\r\n".encode() + b'{"x": [1, ')
    assert client.post("/predict_curve", json={"x": [1]}).status_code == 200


def test_a_response_has_the_id_of_the_request(client: httpx.Client) -> None:
    headers = {"X-Request-Id": "call-7"}
    for body, status in (({"x": [1]}, 200), ({"x": []}, 400)):
        response = client.post("/predict_curve", json=body, headers=headers)
        assert (response.status_code, response.headers["x-request-id"]) == (status, "call-7")
    made = client.post("/predict_curve", json={"x": [1]}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made)


# Descriptions of the service.


def test_models_lists_all_shipped_packages_and_a_model_has_its_card(
    client: httpx.Client, repository: ModelRepository
) -> None:
    content = client.get("/models").json()
    assert content["refused"] == {}
    cards = {model["name"]: model for model in content["models"]}
    assert set(cards) == set(repository.names()) >= {*CURVES, *MOONS, *DIGITS}
    for name, brief in cards.items():
        card = client.get(f"/models/{name}").json()
        serving = card.pop("serving")
        assert serving["runtime"] in ("onnx", "torchscript")
        assert card == json.loads(repository.get(name).card.model_dump_json())
        assert brief.pop("serving")["runtime"] == serving["runtime"]
        for summary, whole in zip(brief.pop("evaluations"), card["evaluations"], strict=True):
            assert summary == {key: whole[key] for key in ("data", "split", "samples", "metrics")}
        for spec in (*card["inputs"], *card["outputs"]):
            spec.pop("labels")
        assert brief == {key: card[key] for key in brief}
        assert len(json.dumps(brief)) < 3_000


def test_an_unknown_model_is_a_404_everywhere(
    client: httpx.Client, drawn: dict[int, Image.Image]
) -> None:
    responses = [
        client.get("/models/lenet"),
        client.post("/classify_digits", json={"images": [[0] * 784], "model": "lenet"}),
        client.post("/predict_curve", json={"x": [1], "model": "lenet"}),
        client.post("/classify_points", json={"points": [[1, 2]], "model": "lenet"}),
        client.post(
            "/classify_image", files=[file_part(encoded(drawn[1])), text_part("model", "lenet")]
        ),
    ]
    for response in responses:
        assert_error(response, 404, "Request for unknown model: 'lenet' is not found; ")


def test_every_example_in_the_openapi_description_works_when_pasted(client: httpx.Client) -> None:
    specification = client.get("/docs.json").json()
    pasted = 0
    for path, methods in specification["paths"].items():
        for method, operation in methods.items():
            filled, headers = path, {}
            for parameter in operation.get("parameters", []):
                filled = filled.replace(f"{{{parameter['name']}}}", parameter["example"])
                if parameter["in"] == "header":
                    headers[parameter["name"]] = parameter["example"]
            if method == "get":
                assert client.get(filled).status_code == 200
                continue
            if "requestBody" not in operation:
                assert client.post(filled).status_code == 200
                continue
            content = operation["requestBody"]["content"].get("application/json")
            if content is None:
                continue
            response = client.post(filled, json=content["schema"]["example"], headers=headers)
            assert response.status_code == 200, response.text
            answered = operation["responses"]["200"]["content"]["application/json"]["schema"]
            if path != "/v2/repository/index":  # a list
                assert set(response.json()) == set(answered["properties"])
            pasted += 1
    models = len(client.get("/models").json()["models"])
    assert pasted == 8 + models


def test_the_example_of_a_digit_is_a_one(client: httpx.Client) -> None:
    specification = client.get("/docs.json").json()
    body = specification["paths"]["/classify_digits"]["post"]["requestBody"]
    example = body["content"]["application/json"]["schema"]["example"]
    (prediction,) = client.post("/classify_digits", json=example).json()["predictions"]
    assert prediction["digit"] == 1


def test_probes_and_metrics_respond(client: httpx.Client) -> None:
    client.post("/predict_curve", json={"x": [1]})
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    metrics = client.get("/metrics")
    assert metrics.status_code == 200
    labels = r'endpoint="/predict_curve",model="curve-tanh",status="200"'
    assert re.search(rf"fitserve_request_seconds_count\{{{labels}\}} [1-9]", metrics.text)


# Other settings, other repositories.


@pytest.fixture(scope="module")
def narrow(root: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a repository with one broken package, and bodies of at most 20,000 bytes."""
    copied = tmp_path_factory.mktemp("copy") / "models"
    shutil.copytree(shipped, copied)
    newest = copied / "moons-linear" / ModelRepository(copied).versions("moons-linear")[-1]
    content = bytearray((newest / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "model.onnx").write_bytes(content)
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(copied),
        "FITSERVE_MAX_BODY_BYTES": "20000",
        "FITSERVE_MAX_IMAGE_PIXELS": "40000",
        "FITSERVE_RUNTIME": "torchscript",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started


def test_a_corrupted_package_is_reported_and_the_others_serve(
    narrow: Server, repository: ModelRepository
) -> None:
    points = {"points": [[0, 1]], "model": "moons-linear"}
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        content = client.get("/models").json()
        assert list(content["refused"]) == ["moons-linear"]
        assert "model.onnx: its SHA-256" in content["refused"]["moons-linear"]
        served = {model["name"] for model in content["models"]}
        assert served == set(repository.names()) - {"moons-linear"}
        for response in (
            client.get("/models/moons-linear"),
            client.post("/classify_points", json=points),
        ):
            assert_error(response, 503, "Model 'moons-linear' is unavailable")
            assert int(response.headers["retry-after"]) >= 1
        for name in served & {*CURVES}:
            requested = {"x": [1, 2], "model": name}
            reply = client.post("/predict_curve", json=requested).json()
            expected = computed(repository, name, np.array([[1], [2]], np.float32))[:, 0]
            np.testing.assert_allclose(reply["y"], expected, **EQUAL)
        points["model"] = "moons-tanh"
        assert client.post("/classify_points", json=points).status_code == 200
    assert "unavailable: package moons-linear/" in narrow.read_log()


def test_the_configured_runtime_serves(narrow: Server) -> None:
    content = httpx.get(f"{narrow.url}/models").json()
    assert {model["serving"]["runtime"] for model in content["models"]} == {"torchscript"}


def test_the_limit_of_a_body_holds_with_and_without_a_declared_length(
    narrow: Server, drawn: dict[int, Image.Image]
) -> None:
    fits, not_so = ({"images": [[255] * 784] * rows} for rows in (5, 8))
    with httpx.Client(base_url=narrow.url, timeout=60) as client:
        for body, status in ((fits, 200), (not_so, 413)):
            content = json.dumps(body).encode()
            assert (len(content) > 20_000) == (status == 413)
            declared = client.post("/classify_digits", content=content)
            chunked = client.post(
                "/classify_digits",
                content=(content[start : start + 1000] for start in range(0, len(content), 1000)),
            )
            assert chunked.request.headers["transfer-encoding"] == "chunked"
            for response in (declared, chunked):
                assert response.status_code == status
                if status == 413:
                    assert_error(response, 413, "larger than 20,000 bytes")
        picture = file_part(encoded(drawn[2]))
        assert client.post("/classify_image", files=[picture]).status_code == 200
        response = client.post("/classify_image", files=[picture] * 40)
        assert_error(response, 413, "larger than 20,000 bytes")


def test_the_limit_of_a_picture_holds(narrow: Server, drawn: dict[int, Image.Image]) -> None:
    large = drawn[2].resize((201, 200))
    response = httpx.post(
        f"{narrow.url}/classify_image", files=[file_part(encoded(large))], timeout=60
    )
    assert_error(response, 413, "more than 40,000 pixels")


def test_without_a_package_the_service_is_live_and_never_ready(root: Path, tmp_path: Path) -> None:
    settings = {"FITSERVE_MODEL_REPOSITORY": str(tmp_path)}
    with (
        temporary_home() as home,
        serving(home, root, until="/livez", settings=settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for _ in range(3):
            assert client.get("/readyz").status_code == 503
            time.sleep(0.2)
        assert client.get("/livez").status_code == 200
        assert client.get("/models").json() == {"models": [], "refused": {}, "loading": []}
        assert_error(
            client.post("/predict_curve", json={"x": [1]}), 404, "GET /models has the others"
        )
        assert client.get("/readyz").status_code == 503
        assert f"there is no model to serve in {tmp_path}" in server.read_log()


async def test_on_sigterm_every_request_in_flight_gets_its_response(
    root: Path, chosen: dict[str, str], repository: ModelRepository
) -> None:
    # So that they wait for each other.
    settings = {**chosen, "FITSERVE_MAX_QUEUE_DELAY_SECONDS": "1"}
    x = np.linspace(0, 20, 30, dtype=np.float32)

    async def ask_and_end(server: Server) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            requested = [
                asyncio.create_task(client.post("/predict_curve", json={"x": [value]}))
                for value in x.tolist()
            ]
            while not any(task.done() for task in requested):
                metrics = (await client.get("/metrics")).text
                matches = re.findall(r'in_progress\{endpoint="/predict_curve",.*\} (\S+)', metrics)
                if sum(map(float, matches)) >= len(requested):
                    break
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*requested)

    with temporary_home() as home, serving(home, root, settings=settings) as server:
        workers = server.workers()
        responses = await ask_and_end(server)
        server.check_end(workers)
        async with httpx.AsyncClient(base_url=server.url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/livez")
    assert [response.status_code for response in responses] == [200] * len(x)
    actual = [response.json()["y"][0] for response in responses]
    expected = computed(repository, "curve-tanh", x[:, None])[:, 0]
    np.testing.assert_allclose(actual, expected, **EQUAL)


def test_an_invalid_setting_prevents_the_start(root: Path) -> None:
    with temporary_home() as home:
        completed = subprocess.run(
            [BIN / "bentoml", "serve", "--port", str(free_port())],
            cwd=root,
            env=environment(home, {"FITSERVE_MAX_BATCH_ROWS": "many"}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert completed.returncode != 0
    assert "error: FITSERVE_MAX_BATCH_ROWS is 'many'" in completed.stderr
    assert "Traceback" not in completed.stderr


def test_a_port_in_use_is_an_error_of_one_sentence(root: Path, server: Server) -> None:
    port = server.url.rpartition(":")[2]
    with temporary_home() as home:
        completed = subprocess.run(
            [sys.executable, "-m", "service", "--port", port],
            cwd=root,
            env=environment(home, {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert completed.returncode == 1
    assert f"error: 127.0.0.1:{port} is not available (Address already in use)" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert httpx.get(f"{server.url}/readyz").status_code == 200
