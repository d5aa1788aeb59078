"""The protocol's endpoints: their responses and errors."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_messages import property_test
from onnx import TensorProto, helper
from small_packages import onnx_file
from tiny import write_tiny

from models.adding.add import add
from service.api.state import ServiceState
from service.api.v2 import routes
from service.api.v2.routes import ROUTES, OpenInference, split
from service.http.app import App
from service.inference.registry import ModelRegistry
from service.settings import Settings
from service.telemetry.request_context import RequestContext


class Result(NamedTuple):
    """A response, and the context of its request at the end."""

    response: httpx.Response
    context: RequestContext

    @property
    def error(self) -> str:
        """The sentence of a failure."""
        assert self.response.headers["content-type"] == "application/json"
        content = self.response.json()
        assert list(content) == ["error"]
        sentence: str = content["error"]
        return sentence


class Client:
    """A client of the application over a registry."""

    def __init__(self, registry: ModelRegistry, **settings: Any) -> None:
        self.app = App(OpenInference(ServiceState(registry)), Settings(**settings))
        self.registry = registry
        self.contexts: list[RequestContext] = []
        self.app.end_request = self.contexts.append  # type: ignore[method-assign]

    async def __call__(
        self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None
    ) -> Result:
        """Send one request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.contexts.clear()
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            response = await client.request(method, path, content=content, headers=headers)
        (context,) = self.contexts
        assert response.headers["x-request-id"] == context.id
        return Result(response, context)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    root = tmp_path_factory.mktemp("packages")
    write_tiny(root, "line", version="2", runtimes=("onnx",))
    write_tiny(root, "stats", "point", runtimes=("onnx",))
    (write_tiny(root, "broken", runtimes=("onnx",)).path / "model.onnx").write_bytes(b"")
    return ModelRegistry(
        Settings(model_repository=root, device="cpu", intra_op_threads=1, max_batch_rows=4)
    )


@pytest.fixture(scope="module")
async def ask(registry: ModelRegistry, anyio_backend: str) -> AsyncIterator[Client]:
    await registry.open()
    yield Client(registry)
    await registry.close()


LINE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [3, 0.5]}]}
INFER = "/v2/models/line/infer"


@pytest.mark.parametrize("pattern", list(ROUTES))
async def test_every_endpoint_responds_and_is_counted_by_its_pattern(
    ask: Client, pattern: str
) -> None:
    method, _ = ROUTES[pattern]
    body = LINE if pattern.endswith("/infer") else b""
    result = await ask(method, "/v2" + pattern.replace("{model}", "line"), body)
    assert result.response.status_code == (
        503 if pattern == "/health/ready" else 200
    )  # one model is unavailable
    assert result.response.headers["content-type"] == "application/json"
    assert result.context.endpoint == "/v2" + pattern
    assert result.context.model == ("line" if "{model}" in pattern else "")


@pytest.mark.parametrize("pattern", list(ROUTES))
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "STRANGE"])
async def test_another_method_is_refused_with_the_allowed_one(
    ask: Client, pattern: str, method: str
) -> None:
    right, _ = ROUTES[pattern]
    if method == right:
        return
    result = await ask(method, "/v2" + pattern.replace("{model}", "line"))
    assert result.response.status_code == 405
    assert result.response.headers["allow"] == {"GET": "GET, HEAD", "POST": "POST"}[right]
    right = {"GET": "GET and HEAD are", "POST": "POST is"}[right]
    assert result.error == f"{method} is not allowed here; {right}."


@pytest.mark.parametrize("pattern", list(ROUTES))
async def test_head_is_supported_where_it_is_allowed(ask: Client, pattern: str) -> None:
    result = await ask("HEAD", "/v2" + pattern.replace("{model}", "line"))
    allowed = ROUTES[pattern][0] == "GET"
    ready = 503 if pattern == "/health/ready" else 200  # one model is unavailable
    assert result.response.status_code == (ready if allowed else 405)
    assert allowed or result.response.headers["allow"] == "POST"


def test_long_paths_are_not_cached() -> None:
    routes._cached_split.cache_clear()
    for number in range(routes._cached_split.cache_info().maxsize or 0):
        routes.split(f"/v2/models/{'x' * 60_000}{number}/infer")
    assert routes._cached_split.cache_info().currsize < 100


@pytest.mark.parametrize("rest", ["", "/ready", "/config", "/stats", "/infer"])
async def test_the_served_version_may_be_named(ask: Client, rest: str) -> None:
    method = "POST" if rest == "/infer" else "GET"
    plain = await ask(method, f"/v2/models/line{rest}", LINE)
    named = await ask(method, f"/v2/models/line/versions/2{rest}", LINE)
    assert named.context.endpoint == plain.context.endpoint
    if rest != "/stats":  # changed by the previous call
        assert named.response.json() == plain.response.json()
    result = await ask(method, f"/v2/models/line/versions/1{rest}", LINE)
    assert result.response.status_code == 404
    assert result.error == (
        "Request for unknown model: 'line' version 1 is not found; version 2 is served."
    )


@pytest.mark.parametrize(
    ("path", "status", "sentence", "model"),
    [
        ("/v2/models/lines", 404, "Request for unknown model: 'lines' is not found; GET", ""),
        ("/v2/models/li%2Fne", 404, "There is nothing at '/v2/models/li/ne' in the protocol.", ""),
        ("/v2/models/%00/ready", 404, "There is nothing at '/v2/models/\\x00/ready'.", ""),
        ("/v2/models//ready", 404, "Request for unknown model: '' is not found; ", ""),
        ("/v2/models/broken", 503, "Model 'broken' is unavailable since the service started;", ""),
        ("/v2/models/line/unload", 404, "There is nothing at '/v2/models/line/unload' in", ""),
        ("/v2/models/line/versions", 404, "There is nothing at '/v2/models/line/versions' in", ""),
        ("/v2/health", 404, "There is nothing at '/v2/health' in the protocol.", ""),
        ("/v2/models/line/versions/9", 404, "Request for unknown model: 'line' version 9", "line"),
        ("/v2/{model}", 404, "There is nothing at '/v2/{model}' in the protocol.", ""),
    ],
)
async def test_an_unknown_path_or_model_gets_one_sentence_and_no_model_label(
    ask: Client, path: str, status: int, sentence: str, model: str
) -> None:
    result = await ask("GET", path)
    assert result.response.status_code == status
    assert result.error.startswith(sentence)
    assert result.context.model == model
    assert result.context.endpoint in {"other", "/v2/models/{model}", "/v2/models/{model}/ready"}


async def test_the_name_of_a_model_may_be_a_word_of_the_protocol(ask: Client) -> None:
    assert "model_stats" in (await ask("GET", "/v2/models/stats")).response.json()
    assert (await ask("GET", "/v2/models/stats/versions/1")).response.json()["name"] == "stats"
    assert (await ask("GET", "/v2/models/stats/ready")).response.json() == {
        "name": "stats",
        "ready": True,
    }


@property_test
@given(st.text(max_size=30).map(lambda text: "/v2" + text))
def test_any_path_is_split_into_text(path: str) -> None:
    pattern, model, version = split(path)
    assert pattern == "" or pattern in path.replace(model, "{model}") or pattern not in ROUTES
    assert model in path
    assert version in path


async def test_the_server_is_ready_if_all_models_are(tmp_path: Path, ask: Client) -> None:
    result = await ask("GET", "/v2/health/ready")
    assert result.response.status_code == 503
    assert result.error == "1 of the models is not ready; POST /v2/repository/index tells why."
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    whole = Client(
        ModelRegistry(Settings(model_repository=tmp_path, device="cpu", max_batch_rows=4))
    )
    await whole.registry.open()
    try:
        result = await whole("GET", "/v2/health/ready")
        assert (result.response.status_code, result.response.json()["ready"]) == (200, True)
    finally:
        await whole.registry.close()


@pytest.mark.parametrize(
    ("body", "refused"),
    [(b"", True), ({}, True), ({"ready": False}, True), ({"ready": True}, False), ({"x": 1}, True)],
)
async def test_the_index_has_unavailable_models_unless_only_ready_ones_are_requested(
    ask: Client, body: Any, refused: bool
) -> None:
    result = await ask("POST", "/v2/repository/index", body)
    assert result.response.status_code == 200
    states = {entry["name"]: entry["state"] for entry in result.response.json()}
    ready = {"line": "READY", "stats": "READY"}
    assert states == (ready | {"broken": "UNAVAILABLE"} if refused else ready)


@pytest.mark.parametrize(
    "body",
    [b"nonsense", b"null", [], "x", {"ready": 1}, {"ready": "true"}, {"ready": None}],
    ids=str,
)
async def test_an_invalid_request_for_the_index_is_a_400(ask: Client, body: Any) -> None:
    result = await ask("POST", "/v2/repository/index", body)
    assert result.response.status_code == 400
    assert re.match(r"The (body|request's 'ready') ", result.error)


async def test_a_json_request_gets_json(ask: Client) -> None:
    result = await ask("POST", INFER, {**LINE, "id": "a"})
    assert result.response.json() == {
        "model_name": "line",
        "model_version": "2",
        "id": "a",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [7, 2]}],
    }
    assert "inference-header-content-length" not in result.response.headers
    assert (result.context.model, result.context.version) == ("line", "2")
    assert result.context.rows == 2


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_binary_request_gets_binary_also_if_compressed(ask: Client, encoding: str) -> None:
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
        "Content-Type": "text/strange",  # it is ignored
    }
    response = (
        await ask("POST", INFER, gzip.compress(body) if encoding == "gzip" else body, headers)
    ).response
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers["inference-header-content-length"])
    assert json.loads(response.content[:size])["outputs"][0]["parameters"] == {
        "binary_data_size": 8
    }
    np.testing.assert_array_equal(np.frombuffer(response.content[size:], np.float32), [7, 2])


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
async def test_the_empty_cache_of_a_decoder_is_computed(binary: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["past", "new"], ["present"], axis=1),
        helper.make_node("Identity", ["past"], ["before"]),
    ]
    declared: Any = [
        (name, TensorProto.FLOAT, ["batch", tokens, 2])
        for name, tokens in (("past", "t"), ("new", 1), ("present", "u"), ("before", "t"))
    ]
    (tmp_path / "decoder.onnx").write_bytes(onnx_file(nodes, declared[:2], declared[2:]))
    add(tmp_path / "models", "decoder", tmp_path / "decoder.onnx")
    settings = Settings(model_repository=tmp_path / "models", device="cpu", max_batch_rows=4)
    ask = Client(ModelRegistry(settings))
    await ask.registry.open()
    try:
        past, new = np.empty((1, 0, 2), np.float32), np.array([[[3, 0.5]]], np.float32)
        inputs = [
            {"name": name, "datatype": "FP32", "shape": array.shape}
            | (
                {"parameters": {"binary_data_size": array.nbytes}}
                if binary
                else {"data": array.tolist()}
            )
            for name, array in (("past", past), ("new", new))
        ]
        header = json.dumps({"inputs": inputs}).encode()
        length = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
        body = header + new.tobytes() if binary else header
        found = await ask("POST", "/v2/models/decoder/infer", body, length)
        assert found.response.status_code == 200, found.response.text
        present, before = found.response.json()["outputs"]
        assert (present["shape"], present["data"]) == ([1, 1, 2], [3, 0.5])
        assert (before["shape"], before["data"]) == ([1, 0, 2], [])
    finally:
        await ask.registry.close()


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
async def test_an_invalid_request_gets_one_sentence(
    ask: Client, body: Any, headers: dict[str, str], status: int, sentence: str
) -> None:
    result = await ask("POST", INFER, body, headers)
    assert result.response.status_code == status
    assert result.error.startswith(sentence)
    assert result.context.model == "line"


async def test_a_body_over_the_limit_is_413(ask: Client) -> None:
    ask = Client(ask.registry, max_body_bytes=20)
    for path in (INFER, "/v2/repository/index"):
        result = await ask("POST", path, LINE)
        assert result.response.status_code == 413
        assert result.error == "The body is larger than 20 bytes; send fewer rows."


async def test_before_the_models_are_loaded_the_server_is_live_and_not_ready() -> None:
    ask = Client(ModelRegistry(Settings()))
    assert (await ask("GET", "/v2/health/live")).response.json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/line", "/v2/models/line/ready"):
        result = await ask("GET", path)
        assert result.response.status_code == 503
        assert result.response.headers["retry-after"] == "1"
        assert result.error
    assert (await ask("GET", "/v2/models")).response.json() == {"models": []}
