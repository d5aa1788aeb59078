"""The app: routing, metrics, the access log and traces of requests."""

import asyncio
import errno
import gc
import hashlib
import logging
import secrets
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gated import Gated
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tiny import write_tiny

from service.api.pages import create_pages
from service.api.state import ServiceState
from service.api.static_pages import public_paths
from service.api.v2.routes import OpenInference, split
from service.http import app as http_app
from service.http import origins
from service.http.app import SECURITY_HEADERS, App
from service.http.error_middleware import ErrorMiddleware
from service.inference.placement import Placement
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.settings import Settings
from service.telemetry import tracing
from service.telemetry.metrics import write_counts
from service.telemetry.request_context import RequestContext, current_request

Logged = Callable[[], list[logging.LogRecord]]
LINE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [3, 0.5]}]}
INFER = "/v2/models/line/infer"


class Named:
    """An application that responds with its name, and records its requests."""

    def __init__(self, name: str, status: int = 200) -> None:
        self.name = name
        self.status = status
        self.scopes: list[Any] = []
        self.ids: list[str] = []

    def takes(self, path: str) -> bool:
        """Return whether the path is below /v2."""
        return path == "/v2" or path.startswith("/v2/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        self.scopes.append(scope["type"])
        if scope["type"] == "http":
            self.ids.append(current_request().id)
            await PlainTextResponse(self.name, self.status)(scope, receive, send)

    def responder(self, path: str) -> None:
        """Return None: only ASGI handles requests."""


def app_of(host: ASGIApp, protocol: ASGIApp | None = None, **settings: Any) -> App:
    return App(
        host,
        Settings(**settings),
        mounts=[protocol or Named("protocol")],
        public_paths=public_paths(),
    )


async def ask(app: ASGIApp, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.request(method, f"http://localhost{path}", **options)


def counted() -> dict[tuple[str, str, str], float]:
    """Return the number of requests counted, by endpoint, model and status."""
    write_counts()
    return {
        (sample.labels["endpoint"], sample.labels["model"], sample.labels["status"]): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "fitserve_request_seconds_count"
    }


def changes(before: dict[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    return {
        key: value - before.get(key, 0)
        for key, value in counted().items()
        if value != before.get(key, 0)
    }


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[App]:
    """The app around the pages and the protocol, over a registry of one model."""
    write_tiny(root, "line", runtimes=("onnx",))
    registry = ModelRegistry(
        Settings(model_repository=root, device="cpu", intra_op_threads=1, max_batch_rows=4)
    )
    await registry.open()
    state = ServiceState(registry)
    protocol, pages = OpenInference(state), create_pages(state)
    yield app_of(ErrorMiddleware(pages), protocol, **settings)
    await registry.close()


@asynccontextmanager
async def held(root: Path, **settings: Any) -> AsyncIterator[tuple[App, Predictor, Gated]]:
    """The app around the protocol, over one model that computes when its gate opens."""
    runtime = Gated()
    package = write_tiny(root, "line", runtimes=("onnx",))
    predictor = Predictor(package, Placement(runtime, {}), Settings())
    registry = ModelRegistry(Settings())
    protocol = OpenInference(ServiceState(registry))
    registry._predictors["line"] = predictor
    yield app_of(Named("host"), protocol, **settings), predictor, runtime
    runtime.gate.set()
    await predictor.close()


# Routing.


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (("/v2", "/v2/", "/v2/x", "/v2//", "/v2%2Fmodels", "/v2?x=1", "/v2/models/a"), "protocol"),
        (("/", "/v2x", "/v20", "/V2", "/v", "//v2", "/models/v2", "/classify_digits"), "host"),
    ],
)
async def test_paths_below_v2_go_to_the_protocol_and_all_others_to_the_inner_app(
    paths: Iterable[str], name: str
) -> None:
    app = app_of(Named("host"))
    for path in paths:
        assert (await ask(app, path)).text == name, path


@pytest.mark.parametrize("end", ["/", "//", "%2f"])
async def test_trailing_slashes_of_a_path_are_ignored(tmp_path: Path, end: str) -> None:
    async with serving(tmp_path) as app:
        for path in ("/v2/models/line", "/models/line", "/metrics", "/v2/health/live"):
            responses = [await ask(app, path), await ask(app, path + end)]
            assert [response.status_code for response in responses] == [200, 200], path
        slashed = await ask(app, INFER + end, "POST", json=LINE)
        assert slashed.json() == (await ask(app, INFER, "POST", json=LINE)).json()


HEALTH_SPELLINGS = (
    *("/v2/health/live", "/v2/health/live/", "/v2/health/live//", "/v2/health/live%2F"),
    *("/v2/health%2flive/", "/v2//health/live", "//v2/health/live", "/v2/./health/live"),
    *("/v2/models/../health/live", "/v2/Health/live", "/v2/health/live%0a", "/v2/health/live%00"),
    *("/v2/health/ready/", "/v2/health/live;a", "/v2/%68ealth/live?x=/"),
)
METRICS_SPELLINGS = (
    *("/metrics", "/metrics/", "/metrics//", "//metrics", "/%2fmetrics", "/metrics%2f"),
    *("/metrics%0a", "/metrics%0A/", "/metrics%0d", "/metrics%00", "/METRICS", "/./metrics"),
    *("/playground/../metrics", "/playground/%2e%2e/metrics", "/livez/..%2fmetrics", "/%6detrics"),
    *("/metrics;x", "/metrics%3f", "/metrics?x", "/metrics%20"),
)
PAGE_SPELLINGS = ("/", "//", "/%0a", "/playground/main.js/", "/playground/main.js%0a", "/?")


@pytest.mark.parametrize("setting", ["health", "metrics", "playground"])
async def test_a_disabled_path_is_disabled_in_every_spelling(tmp_path: Path, setting: str) -> None:
    spellings = {
        "health": HEALTH_SPELLINGS,
        "metrics": METRICS_SPELLINGS,
        "playground": PAGE_SPELLINGS,
    }[setting]
    async with serving(tmp_path) as app:
        assert (await ask(app, spellings[0])).status_code == 200
        assert (await ask(app, spellings[1].replace("//", "/"))).status_code == 200
    async with serving(tmp_path / "again", **{setting: "off"}) as app:
        for path in spellings:
            for method in ("GET", "HEAD", "POST"):
                response = await ask(app, path, method)
                assert response.status_code == 404, path
                assert response.headers["content-type"] == "application/json"


async def test_an_open_path_does_not_open_paths_that_need_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann {hashlib.sha256(b'secret').hexdigest()}")
    closed = ("/models", "/v2/models/line", "/docs.json", "/v2")
    bypasses = (
        *("{}", "{}/", "/livez/..%2f{}", "/livez/..{}", "/playground/..{}", "/playground/%2e%2e{}"),
        *("/{}", "{}%0a", "/%2f{}", "/v2/health/live/../../..{}", "/;{}", "/livez%00{}"),
    )
    async with serving(tmp_path / "packages", api_keys_file=keys, metrics="key") as app:
        assert (await ask(app, "/v2/health/live/")).status_code == 200
        assert (await ask(app, "/", headers={"Host": "page.example"})).status_code == 200
        for path in (*closed, "/metrics"):
            assert (await ask(app, path, headers={"X-Api-Key": "secret"})).status_code == 200
            for bypass in bypasses:
                assert (await ask(app, bypass.format(path))).status_code in (401, 404), (
                    bypass,
                    path,
                )
                assert (await ask(app, path)).status_code == 401


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", "/models", "/metrics", "/v2", INFER, "/livez", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
async def test_a_foreign_host_or_origin_is_refused_on_every_path(path: str, method: str) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Content-Type": "text/plain"}
    for allowed_origins in ((), ("https://a.example",)):
        host, before = Named("host"), counted()
        app = app_of(host, host, cors_origins=allowed_origins)
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            response = await ask(app, path, method, headers=preflight | headers)
            assert response.status_code == status
            assert list(response.json()) == ["error"]
            assert response.headers["x-request-id"]
            assert response.headers["x-frame-options"] == "DENY"
        assert host.scopes == []
        changed = changes(before)
        assert changed == {("other", "", "421"): 2, ("other", "", "403"): 2}
        allowed = await ask(app, path, method, headers={"Origin": "http://localhost"})
        assert allowed.text == "host"


async def test_the_address_of_the_server_is_known_after_its_first_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        host = {b"host": b"10.0.0.5:3000"}
        assert (
            app.responder(INFER, host) is None
        )  # only the ASGI path knows the address of the server
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport) as client:
            for other in ("10.0.0.6:3000", "evil.example"):
                response = await client.get("http://10.0.0.5:3000/v2", headers={"Host": other})
                assert response.status_code == 421
            assert app.responder(INFER, host) is None
            assert (await client.get("http://10.0.0.5:3000/v2")).status_code == 200
        assert app.responder(INFER, host) is not None
        assert app.responder(INFER, {b"host": b"10.0.0.6:3000"}) is None


@pytest.mark.slow
async def test_memory_does_not_grow_with_distinct_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has another path, model, host, origin, media type, key and method."""
    samples: list[int] = []

    async def send_varied_request(app: App, number: int) -> None:
        word = f"{number:06}{secrets.token_hex(4)}"
        headers = {
            "Host": f"{word}.localhost",
            ("Origin", "Sec-Fetch-Site", "X-Other")[number % 3]: f"http://{word}.localhost",
            "Content-Type": f"text/{word}; charset={word}",
            "X-Api-Key": word,
            f"X-{word}": word,
        }
        model = f"/v2/models/{word}/infer"
        path = (model, f"/{word}", f"/models/{word}", f"{model}/{word * 500}", "/v2/models/line")[
            number % 5
        ]
        method = ("POST", "GET", word.upper(), "POST")[number % 4]
        await ask(app, path, method, headers=headers, content=word.encode())

    monkeypatch.setattr(origins, "_MAX_KNOWN", 10)
    async with serving(tmp_path) as app:
        tracemalloc.start()
        for number in range(256):
            split(f"/v2/models/{number}/infer")
        for number in range(1_500):
            await send_varied_request(app, number)
            if number % 500 == 499:  # the first run fills all bounded caches
                write_counts()
                gc.collect()
                samples.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    growth = min(after - before for before, after in pairwise(samples))  # a leak grows in each run
    assert growth < 20_000, samples  # 40 bytes per request


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scope_types_go_to_the_inner_app_and_are_not_counted(kind: str) -> None:
    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    host, protocol, before = Named("host"), Named("protocol"), counted()
    await app_of(host, protocol)({"type": kind, "path": "/v2"}, receive, send)
    assert (host.scopes, protocol.scopes) == ([kind], [])
    assert changes(before) == {}


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_every_response_is_counted_by_its_status_and_has_the_common_headers(
    status: int,
) -> None:
    before = counted()
    response = await ask(app_of(Named("host", status)), "/", headers={"X-Request-Id": "mine"})
    assert [key[2] for key in changes(before)] == [str(status)]
    assert response.headers["x-request-id"] == "mine"
    for name, value in SECURITY_HEADERS:
        assert response.headers[name.decode()] == value.decode()


@pytest.mark.parametrize("path", ["/v2", "/"])
async def test_the_inner_app_sees_the_id_of_the_request(path: str) -> None:
    inner_app = Named("both")
    app = app_of(inner_app, inner_app)
    await ask(app, path, headers={"X-Request-Id": "mine"})
    await ask(app, path)
    await ask(app, path)
    assert inner_app.ids[0] == "mine"
    assert len(set(inner_app.ids)) == 3


# Metrics.


async def test_a_prediction_is_counted_with_its_model(tmp_path: Path) -> None:
    async with serving(tmp_path) as app:
        before = counted()
        assert (await ask(app, INFER, "POST", json=LINE)).status_code == 200
        assert (await ask(app, INFER, "POST", json={})).status_code == 400
        assert (await ask(app, "/models/line")).status_code == 200
        assert (await ask(app, "/models/line", "POST")).status_code == 405
    assert changes(before) == {
        ("/v2/models/{model}/infer", "line", "200"): 1,
        ("/v2/models/{model}/infer", "line", "400"): 1,
        ("/models/{name}", "", "200"): 1,
        ("other", "", "405"): 1,
    }


@pytest.mark.slow
async def test_unknown_paths_and_models_make_no_new_series(tmp_path: Path) -> None:
    shapes = ("/v2/{}", "/v2/models/{}", "/v2/models/{}/infer", "/v2/models/line/{}", "/{}")
    shapes += ("/models/{}", "/v2/models/line/versions/{}", "/v2/models/{}/versions/{}/stats")
    async with serving(tmp_path) as app:
        before = counted()
        for number in range(1000):
            word = secrets.token_hex(6)
            method = ("GET", "POST", "PUT", word.upper(), "GET")[number % 5]
            response = await ask(app, shapes[number % len(shapes)].format(word, word), method)
            assert response.status_code in (404, 405)
    changed = changes(before)
    assert sum(changed.values()) == 1000
    assert {endpoint for endpoint, *_ in changed} <= {
        *("other", "/models/{name}", "/v2/models/{model}"),
        *("/v2/models/{model}/infer", "/v2/models/{model}/stats"),
    }
    assert {model for _, model, _ in changed} <= {"", "line"}
    assert len(changed) <= 12


@pytest.mark.parametrize("path", ["/v2", "/"])
async def test_an_exception_of_a_mounted_application_gets_a_response_and_is_counted(
    path: str,
) -> None:
    class Broken(Named):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("broken")

    before = counted()
    response = await ask(app_of(Broken("inner app"), Broken("protocol")), path)
    assert response.status_code == 500
    assert "The fault is the service's" in response.json()["error"]
    assert changes(before) == {("other", "", "500"): 1}


async def test_a_response_of_any_middleware_is_counted_with_its_status() -> None:
    async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("here")(scope, receive, send)

    app = App(inner_app, Settings(cors_origins=("https://a.example",)), mounts=[Named("protocol")])
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    for method, headers in (("GET", {}), ("OPTIONS", preflight)):
        before = counted()
        assert (await ask(app, "/", method, headers=headers)).status_code == 200
        assert changes(before) == {("other", "", "200"): 1}


async def test_a_request_cancelled_in_the_queue_is_counted_as_closed_by_its_client(
    tmp_path: Path, logged: Logged
) -> None:
    async with held(tmp_path, access_log_ratio=1.0) as (app, predictor, runtime):
        before = counted()
        first = asyncio.create_task(ask(app, INFER, "POST", json=LINE))
        await asyncio.to_thread(runtime.entered.wait)
        second = asyncio.create_task(ask(app, INFER, "POST", json=LINE))
        for _ in range(100):  # iterations of the event loop, more than enough to enter the queue
            await asyncio.sleep(0)
        assert predictor._batcher.queued_rows == 2
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert predictor._batcher.queued_rows == 0
        runtime.gate.set()
        assert (await first).status_code == 200
    assert changes(before) == {
        ("/v2/models/{model}/infer", "line", "200"): 1,
        ("/v2/models/{model}/infer", "line", "499"): 1,
    }
    assert " 499 in " in logged()[0].getMessage()


# The access log.


async def test_no_request_is_logged_by_default(tmp_path: Path, logged: Logged) -> None:
    async with serving(tmp_path) as app:
        before = len(logged())
        for path in ("/v2", "/v2/nowhere", "/models"):
            await ask(app, path)
        assert len(logged()) == before


async def test_every_request_is_logged_at_a_ratio_of_1(tmp_path: Path, logged: Logged) -> None:
    async with serving(tmp_path, access_log_ratio=1.0) as app:
        before = len(logged())
        await ask(app, INFER, "POST", json=LINE, headers={"X-Request-Id": "first"})
        await ask(app, "/nowhere", headers={"X-Request-Id": "second"})
        lines = [record.getMessage() for record in logged()[before:]]
    assert len(lines) == 2
    for part in (f"POST '{INFER}' 200 in ", "line/1: 2 of 2 rows", "queue ", "compute ", "[first]"):
        assert part in lines[0]
    assert lines[1].startswith("GET '/nowhere' 404 in ")
    assert lines[1].endswith(" ms [second]")


@pytest.mark.slow
async def test_the_configured_share_of_requests_is_logged(logged: Logged) -> None:
    app = app_of(Named("host"), access_log_ratio=0.5)
    for _ in range(400):
        await ask(app, "/")
    assert 140 <= len(logged()) <= 260  # six standard deviations around a half


# Traces.


async def test_a_traced_prediction_has_its_parts_and_the_trace_of_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "otlp_exporter", lambda: exporter)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with held(tmp_path, trace_sample_ratio=0.5) as (app, _, runtime):
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        second = asyncio.create_task(ask(app, INFER, "POST", json=LINE, headers=headers))
        await asyncio.to_thread(runtime.entered.wait)
        await asyncio.sleep(0.05)
        runtime.gate.set()
        assert (await second).status_code == 200
        assert app._tracer is not None
        app._tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans.pop("POST /v2/models/{model}/infer")
    assert spans.keys() == {"decode", "queue", "compute", "encode"}
    assert {f"{span.context.trace_id:032x}" for span in (request, *spans.values())} == {trace}
    took = {name: (span.end_time or 0) - (span.start_time or 0) for name, span in spans.items()}
    assert took["compute"] >= 50_000_000
    assert np.sum(list(took.values())) <= (request.end_time or 0) - (request.start_time or 0)
    assert (request.attributes or {})["fitserve.model"] == "line"


async def test_nothing_is_traced_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def exporter() -> None:
        raise AssertionError("no exporter is needed")

    monkeypatch.setattr(tracing, "otlp_exporter", exporter)
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    assert (await ask(app_of(Named("host")), "/", headers=headers)).status_code == 200


async def test_a_request_that_cannot_be_counted_gets_its_response(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """A new series may need a new file."""

    def fail(_: RequestContext) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(http_app, "count_request", fail)
    assert (await ask(app_of(Named("host")), "/")).status_code == 200
    assert "was not counted: [Errno 24] Too many open files" in logged()[-1].getMessage()
