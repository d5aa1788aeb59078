"""Requests of other sites' pages, sent to a real server.

The fast path and the ASGI path must refuse the same requests.
"""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_networks import write_sound
from live_server import Server, serving, temporary_home

ALLOWED = "fit.example"
ORIGIN = "https://a.example"
BODY = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}'
INFER = "/v2/models/line/infer"
PATHS_TAKEN = {
    "the fast path": ("POST", INFER),
    "the ASGI path": ("POST", f"{INFER}?asgi"),
    "a typed endpoint": ("POST", "/predict_curve"),
    "an upload": ("POST", "/classify_image"),
    "a card": ("GET", "/models/line"),
    "the cards": ("GET", "/models"),
    "the page": ("GET", "/"),
    "a file of it": ("GET", "/playground/main.js"),
    "the metrics": ("GET", "/metrics"),
    "health": ("GET", "/livez"),
    "the protocol's health": ("GET", "/v2/health/ready/"),
    "nothing": ("GET", "/nothing"),
    "a preflight request": ("OPTIONS", INFER),
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = tmp_path_factory.mktemp("packages")
    write_sound(packages, "line")
    return packages


@pytest.fixture(scope="module")
def guarded(root: Path, packages: Path) -> Iterator[Server]:
    """A server without keys, with one more allowed host, and with open health and metrics."""
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(packages),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_ALLOWED_HOSTS": json.dumps([ALLOWED]),
    }
    with temporary_home() as home, serving(home, root, settings=settings) as started:
        yield started
        assert "Traceback" not in started.read_log()


@pytest.fixture(scope="module")
def shut(root: Path, packages: Path) -> Iterator[Server]:
    """A server without health, metrics and the page; pages of one origin may call it."""
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(packages),
        "FITSERVE_DEVICE": "cpu",
        "FITSERVE_HEALTH": "off",
        "FITSERVE_METRICS": "off",
        "FITSERVE_PLAYGROUND": "off",
        "FITSERVE_CORS_ORIGINS": json.dumps([ORIGIN]),
    }
    ready = "/v2/models/line/ready"
    with temporary_home() as home, serving(home, root, settings=settings, until=ready) as started:
        yield started


def port(server: Server) -> str:
    return server.url.rpartition(":")[2]


def send(
    server: Server, method: str, target: str, *headers: str, host: str | None = "localhost"
) -> tuple[int, str, bytes]:
    """Return the status, the headers in lower case, and the body; `host` None omits the header."""
    body = BODY if method == "POST" else b""
    lines = [f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}", *headers]
    if host is not None:
        lines.append(f"Host: {host}")
    with socket.create_connection(("127.0.0.1", int(port(server))), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        received = b""
        while True:
            header, ended, rest = received.partition(b"\r\n\r\n")
            match = re.search(rb"content-length: (\d+)", header)
            length = int(match[1]) if match and method != "HEAD" else 0
            if ended and len(rest) >= length:
                return int(header[9:12]), header.decode().lower(), rest
            more = connection.recv(65_536)
            assert more, received
            received += more


def status(server: Server, path_taken: str, *headers: str, host: str | None = "localhost") -> int:
    return send(server, *PATHS_TAKEN[path_taken], *headers, host=host)[0]


@pytest.mark.parametrize("path_taken", PATHS_TAKEN)
def test_a_foreign_host_is_a_421_and_a_foreign_origin_a_403_on_every_path(
    path_taken: str, guarded: Server
) -> None:
    for headers, host, expected, setting in (
        ((), "evil.example", 421, "FITSERVE_ALLOWED_HOSTS"),
        (("Origin: http://evil.example",), "evil.example", 421, "FITSERVE_ALLOWED_HOSTS"),
        (("Origin: http://evil.example",), "localhost", 403, "FITSERVE_CORS_ORIGINS"),
        (("Origin: null", "Content-Type: text/plain"), "localhost", 403, "FITSERVE_CORS_ORIGINS"),
        (("Sec-Fetch-Site: cross-site",), "localhost", 403, "FITSERVE_CORS_ORIGINS"),
    ):
        status, header, body = send(guarded, *PATHS_TAKEN[path_taken], *headers, host=host)
        assert status == expected
        assert setting in json.loads(body)["error"]
        assert "x-request-id: " in header
        assert "x-frame-options: deny" in header
        assert "access-control" not in header


def test_a_foreign_host_is_refused_repeatedly_and_the_next_request_is_served(
    guarded: Server,
) -> None:
    for _ in range(3):
        assert status(guarded, "the fast path") == 200
        assert status(guarded, "the fast path", host="evil.example") == 421
        assert status(guarded, "the fast path", "Origin: http://evil.example") == 403


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:1", "localhost.:80", "a.localhost", "127.0.0.1:0", "127.9.9.9"),
        *("[::1]", "[::1]:3000", "[::1%25lo]", "[::ffff:127.0.0.1]", ALLOWED, f"{ALLOWED}:8443"),
    ],
)
def test_a_local_or_allowed_host_is_served(host: str, guarded: Server) -> None:
    for path_taken in ("the fast path", "the ASGI path", "the cards", "health"):
        assert status(guarded, path_taken, host=host) == 200
        assert status(guarded, path_taken, f"Origin: http://{host.lower()}", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost,localhost", "localhost.evil.example", "10.1.2.3", "[fe80::1%25e]"),
        *("127.0.0.1.evil", "127.1", "x.fit.example"),
    ],
)
def test_any_other_host_is_refused(host: str, guarded: Server) -> None:
    for path_taken in ("the fast path", "the ASGI path", "the cards", "health"):
        assert status(guarded, path_taken, host=host) == 421


@pytest.mark.parametrize(
    "host",
    [
        *("localhost@evil", "evil@localhost", "evil:1@localhost", "localhost, evil.example"),
        *("localhost/", "localhost evil", "localhost:evil", "l\xf6calhost"),
    ],
)
def test_a_malformed_host_is_a_bad_request(host: str, guarded: Server) -> None:
    for path_taken in ("the fast path", "the ASGI path", "the cards", "health"):
        assert status(guarded, path_taken, host=host) == 400


def test_an_absolute_target_must_name_the_same_host(guarded: Server) -> None:
    for target, status in (("http://evil.example/models", 421), ("http://localhost/models", 400)):
        assert send(guarded, "GET", target, host="evil.example")[0] == status
    assert send(guarded, "POST", f"http://evil.example{INFER}", host="localhost")[0] == 400


def test_two_hosts_are_refused(guarded: Server) -> None:
    for first, second in (("evil.example", "localhost"), ("localhost", "evil.example")):
        for path_taken in ("the fast path", "the ASGI path", "the cards"):
            assert status(guarded, path_taken, f"Host: {first}", host=second) == 400


def test_a_link_from_another_site_opens_the_page(guarded: Server) -> None:
    for site in ("cross-site", "same-site", "none"):
        headers = (f"Sec-Fetch-Site: {site}", "Sec-Fetch-Mode: navigate")
        assert status(guarded, "the page", *headers) == 200


def test_behind_a_proxy_with_another_host_name_the_page_works(guarded: Server) -> None:
    for origin in ("http://localhost:8080", f"https://{ALLOWED}"):
        headers = (f"Origin: {origin}", "Sec-Fetch-Site: same-origin")
        assert status(guarded, "the fast path", *headers, host="127.0.0.1") == 200
    headers = ("Origin: http://evil.example", "Sec-Fetch-Site: same-origin")
    assert status(guarded, "the fast path", *headers, "X-Forwarded-Host: evil.example") == 403


def test_refusals_are_counted_by_their_reason(guarded: Server) -> None:
    status(guarded, "the cards", host="evil.example")
    status(guarded, "the cards", "Origin: http://evil.example")
    metrics = send(guarded, *PATHS_TAKEN["the metrics"])[2].decode()
    for reason in ("misdirected", "foreign_origin"):
        assert re.search(rf'failures_total\{{endpoint="other".*reason="{reason}"\}} [1-9]', metrics)


def test_only_the_origin_of_the_cors_setting_may_call_the_service(shut: Server) -> None:
    preflight = (
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type",
    )
    for path_taken in ("the fast path", "the ASGI path", "the cards", "a preflight request"):
        status_code, header, _ = send(
            shut, *PATHS_TAKEN[path_taken], f"Origin: {ORIGIN}", *preflight
        )
        assert status_code == 200
        assert f"access-control-allow-origin: {ORIGIN}" in header
        assert status(shut, path_taken, "Origin: https://b.example", *preflight) == 403
        assert status(shut, path_taken, f"Origin: {ORIGIN}", *preflight, host="evil.example") == 421


SPELLINGS = [
    *(
        "/livez",
        "/livez/",
        "/livez//",
        "/livez%2f",
        "/livez%0a",
        "/livez%0A/",
        "/%6civez",
        "/livez?x",
    ),
    *("//livez", "/./livez", "/readyz/", "/healthz/", "/v2/health/live", "/v2/health/live/"),
    *("/v2/health/live//", "/v2/health/live%2f", "/v2/health%2flive/", "/v2//health/live"),
    *("//v2/health/live", "/v2/./health/live", "/v2/health/ready/", "/V2/health/live"),
    *(
        "/metrics",
        "/metrics/",
        "//metrics",
        "/metrics%0a",
        "/metrics%0d",
        "/%2fmetrics",
        "/metrics%00",
    ),
    *("/playground/../metrics", "/playground/%2e%2e/metrics", "http://localhost//metrics"),
    *(
        "http://localhost/metrics/",
        "/",
        "//",
        "/%0a",
        "/playground/main.js/",
        "/playground/main.js%0a",
    ),
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_disabled_paths_are_not_found_in_any_spelling(target: str, shut: Server) -> None:
    for method in ("GET", "HEAD", "POST"):
        status, header, _ = send(shut, method, target)
        assert status == 404
        assert "location: " not in header


def test_a_trailing_slash_is_ignored_without_a_redirect(shut: Server) -> None:
    for target in ("/models", "/v2", "/v2/models/line", "/v2/models/line/ready", "/docs.json"):
        plain, slashed = send(shut, "GET", target), send(shut, "GET", f"{target}/")
        assert (plain[0], plain[2]) == (slashed[0], slashed[2])


@pytest.mark.parametrize("target", ["/models", "/v2", "/v2/models/line", "/docs.json"])
def test_allow_includes_head_if_supported(target: str, shut: Server) -> None:
    for method in ("PUT", "OPTIONS", "POST"):
        status, header, body = send(shut, method, target)
        assert (status, json.loads(body)["error"]) == (
            *(405, f"{method} is not allowed here; GET and HEAD are."),
        )
        assert "\r\nallow: get, head\r\n" in f"{header}\r\n"
    assert send(shut, "HEAD", target)[0] == 200
