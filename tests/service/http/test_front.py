"""The front: who gets a request, and what is counted, logged and traced of it."""

import asyncio
import gc
import hashlib
import logging
import secrets
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
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

from service.catalog import Catalog
from service.http import origins
from service.http.exchange import current
from service.http.front import SECURITY_HEADERS, Front
from service.http.json_errors import JsonErrors
from service.http.pages import create_pages
from service.open_inference.routes import OpenInference, split
from service.placement import Placement
from service.predictor import Predictor
from service.settings import Settings
from service.telemetry import tracing
from service.telemetry.metrics import write_counts

pytestmark = pytest.mark.anyio

Logged = Callable[[], list[logging.LogRecord]]
LINE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [3, 0.5]}]}
INFER = "/v2/models/line/infer"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Named:
    """An application that answers its name, and notes what it was asked."""

    def __init__(self, name: str, status: int = 200) -> None:
        self.name = name
        self.status = status
        self.scopes: list[Any] = []
        self.ids: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        self.scopes.append(scope["type"])
        if scope["type"] == "http":
            self.ids.append(current().id)
            await PlainTextResponse(self.name, self.status)(scope, receive, send)


def front_of(host: ASGIApp, protocol: ASGIApp | None = None, **settings: Any) -> Front:
    return Front(host, protocol or Named("protocol"), Settings(**settings))


async def ask(front: ASGIApp, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(front)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.request(method, f"http://localhost{path}", **options)


def counted() -> dict[tuple[str, str, str], float]:
    """How many requests were counted, by endpoint, model and status."""
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
async def serving(root: Path, **settings: Any) -> AsyncIterator[Front]:
    """The front before the pages and the protocol, over a catalog of one model."""
    write_tiny(root, "line", runtimes=("onnx",))
    catalog = Catalog(Settings(model_repository=root, device="cpu", threads=1, max_batch_rows=4))
    await catalog.open()
    protocol, pages = OpenInference(), create_pages()
    protocol.catalog = pages.state.catalog = catalog
    pages.state.openapi = {}
    yield front_of(JsonErrors(pages), protocol, **settings)
    await catalog.close()


@asynccontextmanager
async def held(root: Path, **settings: Any) -> AsyncIterator[tuple[Front, Predictor, Gated]]:
    """The front before the protocol over one model, which computes when its gate opens."""
    runtime = Gated()
    package = write_tiny(root, "line", runtimes=("onnx",))
    predictor = Predictor(package, Placement(runtime, {}), Settings())
    protocol, catalog = OpenInference(), Catalog(Settings())
    catalog._predictors["line"] = predictor
    protocol.catalog = catalog
    yield front_of(Named("host"), protocol, **settings), predictor, runtime
    runtime.gate.set()
    await predictor.close()


# Who gets it.


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (("/v2", "/v2/", "/v2/x", "/v2//", "/v2%2Fmodels", "/v2?x=1", "/v2/models/a"), "protocol"),
        (("/", "/v2x", "/v20", "/V2", "/v", "//v2", "/models/v2", "/classify_digits"), "host"),
    ],
)
async def test_what_is_below_v2_is_the_protocol_s_and_all_else_the_host_s(
    paths: Iterable[str], name: str
) -> None:
    front = front_of(Named("host"))
    for path in paths:
        assert (await ask(front, path)).text == name, path


@pytest.mark.parametrize("end", ["/", "//", "%2f"])
async def test_a_path_with_slashes_at_its_end_is_the_one_without(tmp_path: Path, end: str) -> None:
    async with serving(tmp_path) as front:
        for path in ("/v2/models/line", "/models/line", "/metrics", "/v2/health/live"):
            answers = [await ask(front, path), await ask(front, path + end)]
            assert [answer.status_code for answer in answers] == [200, 200], path
        slashed = await ask(front, INFER + end, "POST", json=LINE)
        assert slashed.json() == (await ask(front, INFER, "POST", json=LINE)).json()


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
async def test_what_is_off_is_off_in_every_spelling(tmp_path: Path, setting: str) -> None:
    spellings = {
        "health": HEALTH_SPELLINGS,
        "metrics": METRICS_SPELLINGS,
        "playground": PAGE_SPELLINGS,
    }[setting]
    async with serving(tmp_path) as front:
        assert (await ask(front, spellings[0])).status_code == 200
        assert (await ask(front, spellings[1].replace("//", "/"))).status_code == 200
    async with serving(tmp_path / "again", **{setting: "off"}) as front:
        for path in spellings:
            for method in ("GET", "HEAD", "POST"):
                answer = await ask(front, path, method)
                assert answer.status_code == 404, path
                assert answer.headers["content-type"] == "application/json"


async def test_what_is_open_is_no_way_to_what_asks_for_a_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"ann {hashlib.sha256(b'secret').hexdigest()}")
    closed = ("/models", "/v2/models/line", "/docs.json", "/v2")
    ways = (
        *("{}", "{}/", "/livez/..%2f{}", "/livez/..{}", "/playground/..{}", "/playground/%2e%2e{}"),
        *("/{}", "{}%0a", "/%2f{}", "/v2/health/live/../../..{}", "/;{}", "/livez%00{}"),
    )
    async with serving(tmp_path / "packages", api_keys_file=keys, metrics="key") as front:
        assert (await ask(front, "/v2/health/live/")).status_code == 200
        assert (await ask(front, "/", headers={"Host": "page.example"})).status_code == 200
        for path in (*closed, "/metrics"):
            assert (await ask(front, path, headers={"X-Api-Key": "secret"})).status_code == 200
            for way in ways:
                assert (await ask(front, way.format(path))).status_code in (401, 404), (way, path)
                assert (await ask(front, path)).status_code == 401


@pytest.mark.parametrize("path", ["/", "/models", "/metrics", "/v2", INFER, "/livez", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
async def test_another_host_and_another_origin_are_refused_everywhere(
    path: str, method: str
) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Content-Type": "text/plain"}
    for allowed_origins in ((), ("https://a.example",)):
        host, before = Named("host"), counted()
        front = front_of(host, host, cors_origins=allowed_origins)
        for headers, status in (
            ({"Host": "evil.example"}, 421),
            ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
        ):
            answer = await ask(front, path, method, headers=asked | headers)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
            assert answer.headers["x-request-id"]
            assert answer.headers["x-frame-options"] == "DENY"
        assert host.scopes == []
        changed = changes(before)
        assert changed == {("other", "", "421"): 2, ("other", "", "403"): 2}
        allowed = await ask(front, path, method, headers={"Origin": "http://localhost"})
        assert allowed.text == "host"


async def test_the_server_s_own_address_is_known_once_a_request_came_to_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as front:
        host = {b"host": b"10.0.0.5:3000"}
        assert front.responder(INFER, host) is None  # the ASGI path knows to which address it came
        transport = httpx.ASGITransport(front)
        async with httpx.AsyncClient(transport=transport) as client:
            for other in ("10.0.0.6:3000", "evil.example"):
                answer = await client.get("http://10.0.0.5:3000/v2", headers={"Host": other})
                assert answer.status_code == 421
            assert front.responder(INFER, host) is None
            assert (await client.get("http://10.0.0.5:3000/v2")).status_code == 200
        assert front.responder(INFER, host) is not None
        assert front.responder(INFER, {b"host": b"10.0.0.6:3000"}) is None


async def test_nothing_of_a_request_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request has another path, model, host, origin, media type, key and method."""
    taken: list[int] = []

    async def ask_in_another_way(front: Front, number: int) -> None:
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
        await ask(front, path, method, headers=headers, content=word.encode())

    monkeypatch.setattr(origins, "_MOST_KNOWN", 10)
    async with serving(tmp_path) as front:
        tracemalloc.start()
        for number in range(256):
            split(f"/v2/models/{number}/infer")
        for number in range(1_500):
            await ask_in_another_way(front, number)
            if number in (749, 1_499):  # by the first, all that is bounded is full
                write_counts()
                gc.collect()
                taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert taken[1] - taken[0] < 30_000, taken  # 40 bytes of each request


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_what_is_no_request_is_the_host_s_and_not_counted(kind: str) -> None:
    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    host, protocol, before = Named("host"), Named("protocol"), counted()
    await front_of(host, protocol)({"type": kind, "path": "/v2"}, receive, send)
    assert (host.scopes, protocol.scopes) == ([kind], [])
    assert changes(before) == {}


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_every_answer_is_counted_by_its_status_and_has_the_headers_of_all(
    status: int,
) -> None:
    before = counted()
    answer = await ask(front_of(Named("host", status)), "/", headers={"X-Request-Id": "mine"})
    assert [key[2] for key in changes(before)] == [str(status)]
    assert answer.headers["x-request-id"] == "mine"
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name.decode()] == value.decode()


@pytest.mark.parametrize("path", ["/v2", "/"])
async def test_the_application_behind_it_finds_the_request_s_id(path: str) -> None:
    app = Named("both")
    front = front_of(app, app)
    await ask(front, path, headers={"X-Request-Id": "mine"})
    await ask(front, path)
    await ask(front, path)
    assert app.ids[0] == "mine"
    assert len(set(app.ids)) == 3


# What is counted.


async def test_a_prediction_is_counted_with_its_model(tmp_path: Path) -> None:
    async with serving(tmp_path) as front:
        before = counted()
        assert (await ask(front, INFER, "POST", json=LINE)).status_code == 200
        assert (await ask(front, INFER, "POST", json={})).status_code == 400
        assert (await ask(front, "/models/line")).status_code == 200
        assert (await ask(front, "/models/line", "POST")).status_code == 405
    assert changes(before) == {
        ("/v2/models/{model}/infer", "line", "200"): 1,
        ("/v2/models/{model}/infer", "line", "400"): 1,
        ("/models/{name}", "", "200"): 1,
        ("other", "", "405"): 1,
    }


async def test_unknown_paths_and_models_make_no_new_series(tmp_path: Path) -> None:
    shapes = ("/v2/{}", "/v2/models/{}", "/v2/models/{}/infer", "/v2/models/line/{}", "/{}")
    shapes += ("/models/{}", "/v2/models/line/versions/{}", "/v2/models/{}/versions/{}/stats")
    async with serving(tmp_path) as front:
        before = counted()
        for number in range(1000):
            word = secrets.token_hex(6)
            method = ("GET", "POST", "PUT", word.upper(), "GET")[number % 5]
            answer = await ask(front, shapes[number % len(shapes)].format(word, word), method)
            assert answer.status_code in (404, 405)
    found = changes(before)
    assert sum(found.values()) == 1000
    assert {endpoint for endpoint, *_ in found} <= {
        *("other", "/models/{name}", "/v2/models/{model}"),
        *("/v2/models/{model}/infer", "/v2/models/{model}/stats"),
    }
    assert {model for _, model, _ in found} <= {"", "line"}
    assert len(found) <= 12


@pytest.mark.parametrize("path", ["/v2", "/"])
async def test_a_failure_behind_it_is_counted_as_ours_and_goes_on(path: str) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    before = counted()
    with pytest.raises(RuntimeError, match="broken"):
        await ask(front_of(broken, broken), path)
    assert changes(before) == {("other", "", "500"): 1}


async def test_an_answer_is_counted_with_its_status_whoever_made_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("here")(scope, receive, send)

    front = Front(app, Named("protocol"), Settings(cors_origins=("https://a.example",)))
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    for method, headers in (("GET", {}), ("OPTIONS", asked)):
        before = counted()
        assert (await ask(front, "/", method, headers=headers)).status_code == 200
        assert changes(before) == {("other", "", "200"): 1}


async def test_a_request_that_is_given_up_while_it_waits_is_counted_as_closed_by_its_client(
    tmp_path: Path, logged: Logged
) -> None:
    async with held(tmp_path, access_log=1.0) as (front, predictor, runtime):
        before = counted()
        first = asyncio.create_task(ask(front, INFER, "POST", json=LINE))
        await asyncio.to_thread(runtime.entered.wait)
        asked = asyncio.create_task(ask(front, INFER, "POST", json=LINE))
        for _ in range(100):  # turns of the loop, more than it takes to get into the queue
            await asyncio.sleep(0)
        assert predictor._batcher.queued_rows == 2
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert predictor._batcher.queued_rows == 0
        runtime.gate.set()
        assert (await first).status_code == 200
    assert changes(before) == {
        ("/v2/models/{model}/infer", "line", "200"): 1,
        ("/v2/models/{model}/infer", "line", "499"): 1,
    }
    assert " 499 in " in logged()[0].getMessage()


# The access log.


async def test_no_request_has_a_line_where_none_is_asked_for(
    tmp_path: Path, logged: Logged
) -> None:
    async with serving(tmp_path) as front:
        before = len(logged())
        for path in ("/v2", "/v2/nowhere", "/models"):
            await ask(front, path)
        assert len(logged()) == before


async def test_every_request_has_a_line_where_all_are_asked_for(
    tmp_path: Path, logged: Logged
) -> None:
    async with serving(tmp_path, access_log=1.0) as front:
        before = len(logged())
        await ask(front, INFER, "POST", json=LINE, headers={"X-Request-Id": "first"})
        await ask(front, "/nowhere", headers={"X-Request-Id": "second"})
        lines = [record.getMessage() for record in logged()[before:]]
    assert len(lines) == 2
    for part in (f"POST '{INFER}' 200 in ", "line/1: 2 of 2 rows", "queue ", "compute ", "[first]"):
        assert part in lines[0]
    assert lines[1].startswith("GET '/nowhere' 404 in ")
    assert lines[1].endswith(" ms [second]")


async def test_a_share_of_the_requests_has_lines(logged: Logged) -> None:
    front = front_of(Named("host"), access_log=0.5)
    for _ in range(400):
        await ask(front, "/")
    assert 140 <= len(logged()) <= 260  # six standard deviations around a half


# Traces.


async def test_a_traced_prediction_has_its_parts_and_another_caller_s_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "otlp_exporter", lambda: exporter)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with held(tmp_path, traces=0.5) as (front, _, runtime):
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        asked = asyncio.create_task(ask(front, INFER, "POST", json=LINE, headers=headers))
        await asyncio.to_thread(runtime.entered.wait)
        await asyncio.sleep(0.05)
        runtime.gate.set()
        assert (await asked).status_code == 200
        assert front._tracer is not None
        front._tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request = spans.pop("POST /v2/models/{model}/infer")
    assert spans.keys() == {"decode", "queue", "compute", "encode"}
    assert {f"{span.context.trace_id:032x}" for span in (request, *spans.values())} == {trace}
    took = {name: (span.end_time or 0) - (span.start_time or 0) for name, span in spans.items()}
    assert took["compute"] >= 50_000_000
    assert np.sum(list(took.values())) <= (request.end_time or 0) - (request.start_time or 0)
    assert (request.attributes or {})["fitserve.model"] == "line"


async def test_nothing_is_traced_where_no_share_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def exporter() -> None:
        raise AssertionError("no exporter is needed")

    monkeypatch.setattr(tracing, "otlp_exporter", exporter)
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    assert (await ask(front_of(Named("host")), "/", headers=headers)).status_code == 200
