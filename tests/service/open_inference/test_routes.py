"""The protocol's addresses: what each answers, and how what is wrong with a call is told."""

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_messages import property_test
from starlette.types import Receive, Scope, Send
from tiny import write_tiny

from service.catalog import Catalog
from service.http.exchange import Exchange, begin
from service.open_inference import routes
from service.open_inference.routes import ROUTES, OpenInference, split
from service.settings import Settings, current_settings


class Told(NamedTuple):
    """An answer, and what its exchange holds at its end."""

    answer: httpx.Response
    exchange: Exchange

    @property
    def error(self) -> str:
        """The sentence of a failure."""
        assert self.answer.headers["content-type"] == "application/json"
        content = self.answer.json()
        assert list(content) == ["error"]
        sentence: str = content["error"]
        return sentence


class Asked:
    """The application over a catalog, each request with an exchange of its own."""

    def __init__(self, catalog: Catalog) -> None:
        self.protocol = OpenInference()
        self.protocol.catalog = catalog
        self.runner = asyncio.Runner()

    def __call__(
        self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None
    ) -> Told:
        """Send one request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchanges = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            headers = dict(scope["headers"])
            exchanges.append(begin(scope["method"], scope["path"], headers))
            await self.protocol(scope, receive, send)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
                return await client.request(method, path, content=content, headers=headers)

        answer = self.runner.run(ask())
        (exchange,) = exchanges
        assert answer.headers["x-request-id"] == exchange.id
        return Told(answer, exchange)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("packages")
    write_tiny(root, "line", version="2", runtimes=("onnx",))
    write_tiny(root, "stats", "point", runtimes=("onnx",))
    (write_tiny(root, "broken", runtimes=("onnx",)).path / "model.onnx").write_bytes(b"")
    return Catalog(Settings(model_repository=root, device="cpu", threads=1, max_batch_rows=4))


@pytest.fixture(scope="module")
def ask(catalog: Catalog) -> Iterator[Asked]:
    asked = Asked(catalog)
    asked.runner.run(catalog.open())
    yield asked
    asked.runner.run(catalog.close())
    asked.runner.close()


LINE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [3, 0.5]}]}
INFER = "/v2/models/line/infer"


@pytest.mark.parametrize("pattern", list(ROUTES))
def test_every_address_answers_and_is_counted_by_its_pattern(ask: Asked, pattern: str) -> None:
    method, _ = ROUTES[pattern]
    body = LINE if pattern.endswith("/infer") else b""
    told = ask(method, "/v2" + pattern.replace("{model}", "line"), body)
    assert told.answer.status_code == (503 if pattern == "/health/ready" else 200)  # one is refused
    assert told.answer.headers["content-type"] == "application/json"
    assert told.exchange.endpoint == "/v2" + pattern
    assert told.exchange.model == ("line" if "{model}" in pattern else "")


@pytest.mark.parametrize("pattern", list(ROUTES))
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "STRANGE"])
def test_another_method_is_refused_with_the_one_that_there_is(
    ask: Asked, pattern: str, method: str
) -> None:
    right, _ = ROUTES[pattern]
    if method == right:
        return
    told = ask(method, "/v2" + pattern.replace("{model}", "line"))
    assert told.answer.status_code == 405
    assert told.answer.headers["allow"] == {"GET": "GET, HEAD", "POST": "POST"}[right]
    right = {"GET": "GET and HEAD are", "POST": "POST is"}[right]
    assert told.error == f"{method} is not allowed here; {right}."


@pytest.mark.parametrize("pattern", list(ROUTES))
def test_head_is_answered_where_it_is_named(ask: Asked, pattern: str) -> None:
    told = ask("HEAD", "/v2" + pattern.replace("{model}", "line"))
    allowed = ROUTES[pattern][0] == "GET"
    ready = 503 if pattern == "/health/ready" else 200  # one model was refused
    assert told.answer.status_code == (ready if allowed else 405)
    assert allowed or told.answer.headers["allow"] == "POST"


def test_no_path_is_remembered_that_is_longer_than_those_of_models() -> None:
    routes._known.cache_clear()
    for number in range(routes._known.cache_info().maxsize or 0):
        routes.split(f"/v2/models/{'x' * 60_000}{number}/infer")
    assert routes._known.cache_info().currsize < 100


@pytest.mark.parametrize("rest", ["", "/ready", "/config", "/stats", "/infer"])
def test_a_version_may_be_named_where_it_is_the_one_that_serves(ask: Asked, rest: str) -> None:
    method = "POST" if rest == "/infer" else "GET"
    plain = ask(method, f"/v2/models/line{rest}", LINE)
    named = ask(method, f"/v2/models/line/versions/2{rest}", LINE)
    assert named.exchange.endpoint == plain.exchange.endpoint
    if rest != "/stats":  # the call before has changed them
        assert named.answer.json() == plain.answer.json()
    told = ask(method, f"/v2/models/line/versions/1{rest}", LINE)
    assert told.answer.status_code == 404
    assert told.error == (
        "Request for unknown model: 'line' version 1 is not found; "
        "version 2 is the one that serves."
    )


@pytest.mark.parametrize(
    ("path", "status", "sentence", "model"),
    [
        ("/v2/models/lines", 404, "Request for unknown model: 'lines' is not found; GET", ""),
        ("/v2/models/li%2Fne", 404, "There is nothing at '/v2/models/li/ne' in the protocol.", ""),
        ("/v2/models/%00/ready", 404, "Request for unknown model: '\\x00' is not found", ""),
        ("/v2/models//ready", 404, "Request for unknown model: '' is not found; ", ""),
        ("/v2/models/broken", 503, "Model 'broken' was refused when the service started;", ""),
        ("/v2/models/line/unload", 404, "There is nothing at '/v2/models/line/unload' in", ""),
        ("/v2/models/line/versions", 404, "There is nothing at '/v2/models/line/versions' in", ""),
        ("/v2/health", 404, "There is nothing at '/v2/health' in the protocol.", ""),
        ("/v2/models/line/versions/9", 404, "Request for unknown model: 'line' version 9", "line"),
        ("/v2/{model}", 404, "There is nothing at '/v2/{model}' in the protocol.", ""),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence_and_is_no_model_s(
    ask: Asked, path: str, status: int, sentence: str, model: str
) -> None:
    told = ask("GET", path)
    assert told.answer.status_code == status
    assert told.error.startswith(sentence)
    assert told.exchange.model == model
    assert told.exchange.endpoint in {"other", "/v2/models/{model}", "/v2/models/{model}/ready"}


def test_a_model_may_be_named_as_a_word_of_the_protocol(ask: Asked) -> None:
    assert "model_stats" in ask("GET", "/v2/models/stats").answer.json()
    assert ask("GET", "/v2/models/stats/versions/1").answer.json()["name"] == "stats"
    assert ask("GET", "/v2/models/stats/ready").answer.json() == {"name": "stats", "ready": True}


@property_test
@given(st.text(max_size=30).map(lambda text: "/v2" + text))
def test_any_path_is_split_into_text(path: str) -> None:
    pattern, model, version = split(path)
    assert pattern == "" or pattern in path.replace(model, "{model}") or pattern not in ROUTES
    assert model in path
    assert version in path


def test_the_server_is_ready_where_all_of_its_models_are(tmp_path: Path, ask: Asked) -> None:
    told = ask("GET", "/v2/health/ready")
    assert told.answer.status_code == 503
    assert told.error == "1 of the models is not ready; POST /v2/repository/index tells why."
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    whole = Asked(Catalog(Settings(model_repository=tmp_path, device="cpu", max_batch_rows=4)))
    whole.runner.run(whole.protocol.catalog.open())
    try:
        told = whole("GET", "/v2/health/ready")
        assert (told.answer.status_code, told.answer.json()["ready"]) == (200, True)
    finally:
        whole.runner.run(whole.protocol.catalog.close())
        whole.runner.close()


@pytest.mark.parametrize(
    ("body", "refused"),
    [(b"", True), ({}, True), ({"ready": False}, True), ({"ready": True}, False), ({"x": 1}, True)],
)
def test_the_index_has_the_refused_unless_only_the_ready_are_asked_for(
    ask: Asked, body: Any, refused: bool
) -> None:
    told = ask("POST", "/v2/repository/index", body)
    assert told.answer.status_code == 200
    states = {entry["name"]: entry["state"] for entry in told.answer.json()}
    ready = {"line": "READY", "stats": "READY"}
    assert states == (ready | {"broken": "UNAVAILABLE"} if refused else ready)


@pytest.mark.parametrize(
    "body",
    [b"nonsense", b"null", [], "x", {"ready": 1}, {"ready": "true"}, {"ready": None}],
    ids=str,
)
def test_another_request_for_the_index_is_a_400(ask: Asked, body: Any) -> None:
    told = ask("POST", "/v2/repository/index", body)
    assert told.answer.status_code == 400
    assert re.match(r"The (body|request's 'ready') ", told.error)


def test_a_json_request_is_answered_in_json(ask: Asked) -> None:
    told = ask("POST", INFER, {**LINE, "id": "a"})
    assert told.answer.json() == {
        "model_name": "line",
        "model_version": "2",
        "id": "a",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [7, 2]}],
    }
    assert "inference-header-content-length" not in told.answer.headers
    assert (told.exchange.model, told.exchange.version) == ("line", "2")
    assert told.exchange.rows == 2


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_binary_request_is_answered_in_binary_also_compressed(ask: Asked, encoding: str) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 1]}
    content = {
        "inputs": [{**entry, "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    header = json.dumps(content).encode()
    body = header + np.array([3, 0.5], np.float32).tobytes()
    headers = {
        "Inference-Header-Content-Length": str(len(header)),
        "Content-Encoding": encoding,
        "Content-Type": "text/strange",  # nothing is made of it
    }
    answer = ask("POST", INFER, gzip.compress(body) if encoding == "gzip" else body, headers).answer
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:size])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(answer.content[size:], np.float32), [7, 2])


@pytest.mark.parametrize(
    ("body", "headers", "status", "sentence"),
    [
        (b"{", {}, 400, "The body is not JSON: "),
        ({}, {}, 400, "The request's 'inputs' must be a list of objects."),
        (
            LINE,
            {"Content-Encoding": "br"},
            415,
            "Send the body as it is, or compressed once, with gzip or deflate.",
        ),
        (LINE, {"Inference-Header-Content-Length": "x"}, 400, "Inference-Header-Content-Length"),
        (
            {"inputs": [{**LINE["inputs"][0], "shape": [0, 1], "data": []}]},
            {},
            400,
            "The request has no rows; send at least one.",
        ),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_sentence(
    ask: Asked, body: Any, headers: dict[str, str], status: int, sentence: str
) -> None:
    told = ask("POST", INFER, body, headers)
    assert told.answer.status_code == status
    assert told.error.startswith(sentence)
    assert told.exchange.model == "line"


def test_a_body_over_the_limit_is_413(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_MAX_BODY_BYTES", "20")
    current_settings.cache_clear()
    for path in (INFER, "/v2/repository/index"):
        told = ask("POST", path, LINE)
        assert told.answer.status_code == 413
        assert told.error == "The body is larger than 20 bytes; send fewer rows."


def test_before_the_models_are_loaded_the_server_lives_and_is_not_ready() -> None:
    ask = Asked(Catalog(Settings()))
    try:
        assert ask("GET", "/v2/health/live").answer.json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models/line", "/v2/models/line/ready"):
            told = ask("GET", path)
            assert told.answer.status_code == 503
            assert told.answer.headers["retry-after"] == "1"
            assert told.error
        assert ask("GET", "/v2/models").answer.json() == {"models": []}
    finally:
        ask.runner.close()
