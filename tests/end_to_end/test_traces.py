"""Traces of a real server, sent over OTLP to a collector that works or does not respond."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from live_server import serving, temporary_home
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INFER = "/v2/models/curve-tanh/infer"
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}
).encode()


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that keeps the spans it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.spans: list[Span] = []
        self.services: set[str] = set()


class Take(BaseHTTPRequestHandler):
    """One export."""

    server: Collector

    def do_POST(self) -> None:
        """Keep the body."""
        sent = ExportTraceServiceRequest()
        if self.path == "/v1/traces":
            sent.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in sent.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.server.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def ask(url: str, path: str, traceparent: str | None = None) -> None:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    assert httpx.post(url + path, content=BODY, headers=headers).status_code == 200


def test_a_collector_gets_the_spans_of_both_paths_in_the_trace_of_the_caller(
    root: Path, chosen: dict[str, str], collector: Collector
) -> None:
    settings = chosen | {
        "FITSERVE_TRACE_SAMPLE_RATIO": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        ask(server.url, INFER, f"00-{TRACE}-{PARENT}-01")
        ask(server.url, f"{INFER}?on=asgi", f"00-{TRACE}-{PARENT}-01")
        ask(server.url, INFER, f"00-{TRACE[::-1]}-{PARENT}-00")
    # It has ended, so the remaining spans were sent.
    spans = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    requests = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert [span.name for span in requests] == ["POST /v2/models/{model}/infer"] * 2
    for request in requests:
        parts = [span for span in spans if span.parent_span_id == request.span_id]
        assert [part.name for part in parts] == ["decode", "queue", "compute", "encode"]
        for part in parts:
            assert request.start_time_unix_nano <= part.start_time_unix_nano
            assert part.end_time_unix_nano <= request.end_time_unix_nano + 1000
        assert 0 <= time.time() - request.end_time_unix_nano / 1e9 < 60
    assert not [span for span in collector.spans if span.trace_id.hex() == TRACE[::-1]]
    assert collector.services == {"fitserve"}


def test_a_collector_that_does_not_respond_delays_neither_requests_nor_the_shutdown(
    root: Path, chosen: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = chosen | {
            "FITSERVE_TRACE_SAMPLE_RATIO": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        with temporary_home() as home, serving(home, root, settings=settings) as server:
            with httpx.Client(base_url=server.url) as client:
                for _ in range(2_000):  # the server holds spans of some of them
                    assert client.post(INFER, content=BODY, timeout=1).status_code == 200
            started = time.monotonic()
            server.end()
            assert time.monotonic() - started < 12
