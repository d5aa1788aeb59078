"""OpenTelemetry traces: a sampled request becomes one span, with its parts as spans below it.

Where they go, OpenTelemetry's own variables say (`OTEL_EXPORTER_OTLP_ENDPOINT`, …).
"""

import threading
import time

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.http.exchange import Exchange
from service.settings import VERSION

LAST_SECONDS = 5.0
"""How long the end of a process may wait for a collector."""


class Tracer:
    """Writes the spans of finished exchanges.

    Args:
        share: of the requests that bring no decision of their own in `traceparent`, 0 to 1.
        exporter: where the spans go; by default over OTLP.

    Raises:
        SystemExit: the OTLP exporter is not installed.
    """

    def __init__(self, share: float, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "fitserve", "service.version": VERSION}),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or otlp_exporter()))
        self._tracer = self._provider.get_tracer("fitserve", VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, exchange: Exchange) -> None:
        """Write the spans of an exchange that has just ended."""
        # Exchanges are timed by the monotonic clock; spans are dated by the other one.
        offset = time.time_ns() - round(time.monotonic() * 1e9)
        given = exchange.headers.get(b"traceparent", b"").decode("latin-1")
        parent = self._propagator.extract({"traceparent": given}, Context())
        start = offset + round(exchange.started * 1e9)
        span = self._tracer.start_span(
            f"{exchange.method} {exchange.endpoint}",
            parent,
            SpanKind.SERVER,
            exchange.attributes(),
            start_time=start,
        )
        if span.is_recording():
            inside = set_span_in_context(span, parent)
            for name, begun, seconds in exchange.parts():
                first = offset + round(begun * 1e9)
                part = self._tracer.start_span(name, inside, start_time=first)
                part.end(first + round(seconds * 1e9))
            if exchange.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(start + round(exchange.seconds * 1e9))

    def close(self) -> None:
        """Send what has not been sent, as far as there is time."""
        # A daemon, as OpenTelemetry's own bound is 30 seconds, and the process is to end.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(LAST_SECONDS)


def otlp_exporter() -> SpanExporter:
    """The exporter that OpenTelemetry's own variables set up; it connects when it first sends.

    Raises:
        SystemExit: its package is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise SystemExit(
            "error: FITSERVE_TRACES needs the package opentelemetry-exporter-otlp-proto-http"
        ) from None
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
