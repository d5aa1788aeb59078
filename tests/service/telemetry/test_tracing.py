"""The spans of a traced request: names, times and parents."""

import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from request_contexts import context_of

from service.service import FitServe
from service.settings import VERSION, Settings
from service.telemetry.request_context import RequestContext
from service.telemetry.tracing import Tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


def traced(*contexts: RequestContext, share: float = 1.0) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(share, exporter)
    for context in contexts:
        tracer.trace(context)
    tracer.close()
    return exporter.get_finished_spans()


def predicted(traceparent: str = "", status: int = 200) -> RequestContext:
    """The context of a prediction that has just ended, after 10 ms."""
    started = time.monotonic() - 0.010
    return context_of(
        "mine",
        "POST",
        "/v2/models/line/infer",
        {b"traceparent": traceparent.encode("latin-1")},
        started=started,
        endpoint="/v2/models/{model}/infer",
        model="line",
        version="3",
        status=status,
        rows=2,
        batch_rows=7,
        submitted=started + 0.001,
        queue_seconds=0.002,
        compute_seconds=0.004,
        answered=started + 0.008,
        seconds=0.010,
    )


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def split(spans: Sequence[ReadableSpan]) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """Return the span of the request, and those of its parts."""
    (request,) = (span for span in spans if span.kind is SpanKind.SERVER)
    return request, [span for span in spans if span is not request]


def test_a_prediction_is_a_span_with_its_four_parts_inside() -> None:
    before = time.time_ns() - 20_000_000
    request, parts = split(traced(predicted()))
    start, end = times(request)
    assert before <= start < end <= time.time_ns() + 1_000_000
    assert end - start == pytest.approx(10_000_000, abs=1000)
    assert [part.name for part in parts] == ["decode", "queue", "compute", "encode"]
    took = [times(part)[1] - times(part)[0] for part in parts]
    assert took == pytest.approx([1_000_000, 2_000_000, 4_000_000, 2_000_000], abs=1000)
    for part in parts:
        assert start <= times(part)[0] <= times(part)[1] <= end + 1000
        assert part.parent is not None
        assert part.parent.span_id == request.context.span_id
        assert part.context.trace_id == request.context.trace_id
    assert all(times(part)[1] <= times(next_part)[0] + 1000 for part, next_part in pairwise(parts))


def test_the_span_of_a_request_has_its_attributes() -> None:
    request, _ = split(traced(predicted()))
    assert request.name == "POST /v2/models/{model}/infer"
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "fitserve.request_id": "mine",
        "fitserve.model": "line",
        "fitserve.rows": 2,
        "fitserve.batch_rows": 7,
    }
    assert request.resource.attributes["service.name"] == "fitserve"
    assert request.resource.attributes["service.version"] == VERSION


def test_a_request_without_a_prediction_is_one_span() -> None:
    (span,) = traced(context_of("mine", "GET", "/docs.json", status=200, seconds=0.001))
    assert span.name == "GET other"


@pytest.mark.parametrize(
    ("status", "fault"),
    [(200, False), (400, False), (499, False), (500, True), (503, True), (504, True)],
)
def test_only_a_fault_of_the_service_sets_the_error_status(status: int, fault: bool) -> None:
    request, _ = split(traced(predicted(status=status)))
    assert (request.status.status_code is StatusCode.ERROR) == fault


@pytest.mark.parametrize("share", [0.0, 1e-9, 1.0])
def test_the_sampling_decision_of_the_caller_overrides_the_share(share: float) -> None:
    request, parts = split(traced(predicted(SAMPLED), share=share))
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert len(parts) == 4
    assert traced(predicted(UNSAMPLED), share=share) == ()


@pytest.mark.parametrize(
    "traceparent",
    ["", "x", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "\xff" * 300],
)
def test_an_invalid_traceparent_is_ignored(traceparent: str) -> None:
    request, _ = split(traced(predicted(traceparent)))
    assert request.parent is None
    assert f"{request.context.trace_id:032x}" != TRACE


def test_the_configured_share_is_sampled() -> None:
    contexts = [context_of("mine", "GET", "/", seconds=0.001) for _ in range(1000)]
    assert traced(*contexts, share=0.0) == ()
    # Six standard deviations around a half.
    assert 405 <= len(traced(*contexts, share=0.5)) <= 595


def test_without_the_exporter_the_service_ends_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, package, None)
    package = "opentelemetry-exporter-otlp-proto-http"
    message = f"^error: FITSERVE_TRACE_SAMPLE_RATIO needs the package {package}$"
    with pytest.raises(SystemExit, match=message):
        Tracer(0.5)
    # Checked before workers start: BentoML would restart a failing worker forever.
    FitServe.inner.check()
    monkeypatch.setattr("service.service.settings", Settings(trace_sample_ratio=0.5))
    with pytest.raises(SystemExit, match=message):
        FitServe.inner.check()
