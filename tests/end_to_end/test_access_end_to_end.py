"""Authentication, origins and the log of real servers."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from faulty_networks import VICTIM, write_miscounting
from live_server import TIMED, Server, serving, temporary_home
from messages import X, binary, tensor
from pictures import encoded, file_part
from PIL import Image
from waiting import wait_until

ORIGIN = "https://a.example"
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
PAGE = ("/", "/playground/index.html", "/playground/main.js")
HEALTH = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")
INFER = "/v2/models/curve-tanh/infer"
BODY = json.dumps({"inputs": [tensor("x", X)]}).encode()
TYPED = b'{"x": [1, 2.5]}'
HEAD = json.dumps({"inputs": [binary("x", X)]}).encode()
AS_JSON = {"Content-Type": "application/json"}


def line_of(name: str, rate: str = "") -> str:
    """Return the line of a key, which is its name backwards."""
    return f"{name} {hashlib.sha256(name[::-1].encode()).hexdigest()} {rate}\n"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name[::-1]}"}


@pytest.fixture(scope="module")
def few(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three packages that serve, one of which fails for one input, and one broken package."""
    packages = tmp_path_factory.mktemp("few")
    write_miscounting(packages, "miscounting")
    for name in ("curve-tanh", "mnist-mlp", "curve-mlp"):
        shutil.copytree(shipped / name, packages / name)
    for file in (packages / "curve-mlp").glob("*/*.onnx"):
        file.write_bytes(file.read_bytes() + b"\0")
    return packages


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# who may\n" + line_of("annie") + line_of("slow", "0.01") + line_of("leaver"))
    return file


@pytest.fixture(scope="module")
def locked(root: Path, few: Path, keys: Path) -> Iterator[Server]:
    """A server with keys, on its default address; every request is logged as JSON."""
    settings = TIMED | {
        "FITSERVE_MODEL_REPOSITORY": str(few),
        "FITSERVE_API_KEYS_FILE": str(keys),
        "FITSERVE_METRICS": "key",
        "FITSERVE_LOG_FORMAT": "json",
        "FITSERVE_ACCESS_LOG_RATIO": "1",
    }
    with temporary_home() as home, serving(home, root, settings=settings, host=None) as started:
        yield started


@pytest.fixture(scope="module")
def open_one(root: Path, few: Path) -> Iterator[Server]:
    """A server without keys, on its default address; pages of one origin may call it."""
    settings = TIMED | {
        "FITSERVE_MODEL_REPOSITORY": str(few),
        "FITSERVE_HEALTH": "off",
        "FITSERVE_PLAYGROUND": "off",
        "FITSERVE_CORS_ORIGINS": json.dumps([ORIGIN]),
        "FITSERVE_LOG_FORMAT": "json",
    }
    with (
        temporary_home() as home,
        serving(home, root, settings=settings, host=None, until="/v2") as started,
    ):
        model = f"{started.url}/v2/models/mnist-mlp/ready"
        wait_until(lambda: httpx.get(model).status_code == 200)
        yield started


def requests_of(path: str, content: bytes, **headers: str) -> dict[str, Any]:
    return {"method": "POST", "url": path, "content": content, "headers": headers}


def picture() -> dict[str, Any]:
    drawn = Image.new("L", (40, 40), 255)
    drawn.paste(0, (18, 6, 22, 34))
    return {"method": "POST", "url": "/classify_image", "files": [file_part(encoded(drawn))],
            "data": {"model": "mnist-mlp"}}  # fmt: skip


CALLS: dict[str, dict[str, Any]] = {
    "the protocol, the fast path": requests_of(INFER, BODY),
    "the protocol, the ASGI path": requests_of(f"{INFER}?long", BODY),
    "the protocol in binary": requests_of(INFER, HEAD + X.tobytes(),
                                   **{"Inference-Header-Content-Length": str(len(HEAD))}),
    "typed, the fast path": requests_of("/predict_curve", TYPED, **AS_JSON),
    "typed, the ASGI path": requests_of("/predict_curve?long", TYPED, **AS_JSON),
    "an upload": picture(),
    "the cards": {"method": "GET", "url": "/models"},
    "a picture": {"method": "GET", "url": "/models/curve-tanh/report/fitted-curve.png"},
    "the description": {"method": "GET", "url": "/docs.json"},
    "the protocol's models": {"method": "GET", "url": "/v2/models"},
}  # fmt: skip


def ask(server: Server, call: dict[str, Any], **more: str) -> httpx.Response:
    headers = {**call.get("headers", {}), **more}
    return httpx.request(
        **{**call, "url": server.url + call["url"], "headers": headers}, timeout=30
    )


def assert_secured(response: httpx.Response) -> None:
    cache_headers = {"cache-control": "private, no-cache"} if "etag" in response.headers else {}
    for name, value in (SECURITY | cache_headers).items():
        assert response.headers.get_list(name) == [value]
    (policy,) = response.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'")


# Keys.


@pytest.mark.parametrize("name", CALLS)
def test_only_a_known_key_is_accepted_by_every_endpoint(name: str, locked: Server) -> None:
    call = CALLS[name]
    for headers in (bearer("annie"), {"X-API-Key": "annie"[::-1]}):
        response = ask(locked, call, **headers)
        assert response.status_code == 200, response.text
        assert_secured(response)
    wrong = ({}, bearer("nobody"), {"Authorization": "Basic annie"}, {"X-API-Key": ""})
    for headers in wrong:
        response = ask(locked, call, **headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "API key" in response.json()["error"]
        assert_secured(response)


def test_the_rate_of_a_key_is_enforced_on_every_endpoint(locked: Server) -> None:
    assert ask(locked, CALLS["the cards"], **bearer("slow")).status_code == 200
    for call in CALLS.values():
        response = ask(locked, call, **bearer("slow"))
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 100
        assert "'slow' may send 0.01 requests a second" in response.json()["error"]
        assert_secured(response)
    assert ask(locked, CALLS["the cards"], **bearer("annie")).status_code == 200


def test_a_change_of_the_file_takes_effect_within_seconds(locked: Server, keys: Path) -> None:
    call = CALLS["the protocol, the fast path"]
    assert ask(locked, call, **bearer("leaver")).status_code == 200
    assert ask(locked, call, **bearer("newcomer")).status_code == 401
    keys.write_text(line_of("annie") + line_of("slow", "0.01") + line_of("newcomer"))
    wait_until(lambda: ask(locked, call, **bearer("leaver")).status_code == 401)
    assert ask(locked, call, **bearer("newcomer")).status_code == 200
    for spoiled, message in (
        ("", "there is no key in it"),
        ("no line of a key\n", "line 1 must be"),
    ):
        keys.write_text(spoiled)

        def is_read(message: str = message) -> bool:
            assert ask(locked, call, **bearer("newcomer")).status_code == 200
            return message in locked.read_log()

        wait_until(is_read)
        assert ask(locked, call, **bearer("newcomer")).status_code == 200
    assert locked.read_log().count("the API keys are unchanged") == 2


def test_with_keys_any_host_and_origin_is_accepted(locked: Server) -> None:
    for call in CALLS.values():
        for more in ({"Host": "fit.example"}, {"Origin": ORIGIN}, {"Sec-Fetch-Site": "cross-site"}):
            assert ask(locked, call, **more).status_code == 401
            assert ask(locked, call, **more, **bearer("annie")).status_code == 200


def test_requests_are_counted_by_the_name_of_their_key(locked: Server) -> None:
    def count() -> float:
        text = httpx.get(f"{locked.url}/metrics", headers=bearer("annie")).text
        samples = [line for line in text.splitlines() if 'key_requests_total{key="annie"}' in line]
        return float(samples[0].split()[-1]) if samples else 0.0

    before = count()
    for name in ("the protocol, the fast path", "typed, the ASGI path", "an upload"):
        ask(locked, CALLS[name], **bearer("annie"))
        ask(locked, CALLS[name], **bearer("nobody"))
    assert count() == before + 4  # with the first read of the metrics


def test_health_is_open_and_metrics_need_a_key_if_configured(locked: Server) -> None:
    for path in HEALTH:
        response = httpx.get(locked.url + path)
        # The protocol's readiness is about all models, and one is unavailable.
        assert response.status_code == (503 if path == "/v2/health/ready" else 200)
        assert_secured(response)
    assert httpx.get(f"{locked.url}/metrics").status_code == 401
    assert httpx.get(f"{locked.url}/metrics", headers=bearer("annie")).status_code == 200


def test_the_page_is_open_although_its_requests_need_a_key(locked: Server) -> None:
    for path in PAGE:
        for headers in ({}, bearer("nobody"), bearer("slow"), bearer("slow")):
            response = httpx.get(locked.url + path, headers=headers)
            assert response.status_code == 200
            assert_secured(response)
    refused = httpx.patch(f"{locked.url}/")
    assert refused.status_code == 405
    assert_secured(refused)


def test_disabled_paths_are_not_found(open_one: Server) -> None:
    for path in (*HEALTH, *PAGE):
        response = httpx.get(open_one.url + path)
        assert response.status_code == 404
        assert list(response.json()) == ["error"]
    assert httpx.get(f"{open_one.url}/metrics").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/models", 405), ("GET", "/", 404),
     ("POST", INFER, 400), ("POST", "/predict_curve", 400), ("GET", "/v2/models/curve-mlp", 503),
     ("GET", "/metrics", 200), ("HEAD", "/models", 200)],
)  # fmt: skip
def test_every_kind_of_response_has_the_security_headers(
    method: str, path: str, status: int, open_one: Server
) -> None:
    response = httpx.request(method, open_one.url + path)
    assert response.status_code == status
    assert_secured(response)


# Addresses and origins.


def test_pages_of_other_origins_are_refused_by_default(locked: Server) -> None:
    preflight_headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for headers in (preflight_headers, {**preflight_headers, **bearer("annie")}):
        for path in (INFER, "/predict_curve"):
            response = httpx.options(locked.url + path, headers=headers)
            assert response.status_code in (401, 405)
            assert not any(name.startswith("access-control") for name in response.headers)
    for call in CALLS.values():
        response = ask(locked, call, Origin=ORIGIN, **bearer("annie"))
        assert not any(name.startswith("access-control") for name in response.headers)


def test_pages_of_configured_origins_may_call_the_service(open_one: Server) -> None:
    preflight_headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization"}  # fmt: skip
    for name, call in CALLS.items():
        preflight = httpx.options(open_one.url + call["url"], headers=preflight_headers)
        assert preflight.status_code == 200, name
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        response = ask(open_one, call, Origin=ORIGIN)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in response.headers
        assert_secured(response)
        other = ask(open_one, call, Origin="https://b.example")
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers
    refused = httpx.options(
        open_one.url + INFER, headers={**preflight_headers, "Origin": "https://b.example"}
    )
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def listening(server: Server) -> set[str]:
    """Return the addresses on which the port is open."""
    port = int(server.url.rpartition(":")[2])
    return {
        connection.laddr.ip
        for process in (psutil.Process(server.process.pid), *server.processes())
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


def test_without_keys_the_server_binds_to_loopback_with_a_warning(open_one: Server) -> None:
    assert listening(open_one) == {"127.0.0.1"}
    assert (
        "no FITSERVE_API_KEYS_FILE: anyone who can reach this address may call"
        in open_one.read_log()
    )


def test_with_keys_the_server_binds_to_every_address(locked: Server) -> None:
    assert listening(locked) == {"0.0.0.0"}  # noqa: S104 - the expected address
    assert "no FITSERVE_API_KEYS_FILE" not in locked.read_log()


# The log.


def lines(server: Server) -> list[dict[str, Any]]:
    """Return the log, whose every line is JSON."""
    entries = [json.loads(line) for line in server.read_log().splitlines()]
    for entry in entries:
        assert {"time", "level", "logger", "message"} <= set(entry), entry
    return entries


def lines_of(identity: str, count: int, server: Server) -> list[dict[str, Any]]:
    """Return at least `count` lines of one request; the last is written just after the response."""
    deadline = time.monotonic() + 10
    while True:
        entries = [entry for entry in lines(server) if entry.get("request_id") == identity]
        if len(entries) >= count:
            return entries
        assert time.monotonic() < deadline, entries
        time.sleep(0.01)


def test_a_request_has_one_line_of_json(locked: Server) -> None:
    response = ask(locked, CALLS["the protocol, the fast path"], **bearer("annie"))
    identity = response.headers["x-request-id"]
    (entry,) = lines_of(identity, 1, locked)
    shown = ("model", "version", "rows", "status", "path", "method", "key", "level")
    assert [entry[name] for name in shown] == [
        *("curve-tanh", "1", 3, 200, INFER, "POST", "annie", "INFO")
    ]
    assert entry["queue_ms"] >= 0
    assert 0 < entry["compute_ms"] <= entry["total_ms"] < 10_000


@pytest.mark.parametrize("path", ["/v2/models/miscounting/infer", "/predict_curve"])
@pytest.mark.parametrize("query", ["", "?long"])
def test_a_fault_has_its_traceback_under_the_id_of_its_request(
    path: str, query: str, locked: Server
) -> None:
    fatal = tensor("x", np.array([[VICTIM]], np.float32))
    content = {"inputs": [fatal]} if "infer" in path else {"x": [VICTIM], "model": "miscounting"}
    body = json.dumps(content).encode()
    response = ask(locked, requests_of(path + query, body, **AS_JSON), **bearer("annie"))
    assert response.status_code == 500
    identity = response.headers["x-request-id"]
    assert identity in response.json()["error"]
    fault, end = lines_of(identity, 2, locked)
    assert "Traceback" in fault["exc_info"]
    assert (end["status"], end["reason"]) == (500, "model_fault")


def test_a_key_is_never_in_the_log(locked: Server) -> None:
    for name in ("annie", "nobody"):
        ask(locked, CALLS["the cards"], **bearer(name))
        assert f'"{name[::-1]}"' not in locked.read_log()
        assert f"Bearer {name[::-1]}" not in locked.read_log()


def test_by_default_only_5xx_responses_are_logged(open_one: Server) -> None:
    identities = []
    for path in ("/v2/models/curve-mlp/infer", "/v2/models/curve-mlp/infer?long"):
        response = httpx.post(open_one.url + path, content=BODY)
        assert response.status_code == 503
        identities.append(response.headers["x-request-id"])
    fine = ask(open_one, CALLS["typed, the fast path"])
    cards = ask(open_one, CALLS["the cards"])
    assert (fine.status_code, cards.status_code) == (200, 200)
    logged = [entry for entry in lines(open_one) if "request_id" in entry]
    assert {entry["status"] for entry in logged} == {503}
    assert [entry["request_id"] for entry in logged][-2:] == identities
    assert {entry["level"] for entry in logged} == {"ERROR"}
    assert {entry["reason"] for entry in logged} == {"not_ready"}
