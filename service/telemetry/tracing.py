"""OpenTelemetry traces: each sampled request is a span, with its parts as child spans.

OpenTelemetry's own variables configure the exporter (`OTEL_EXPORTER_OTLP_ENDPOINT`, …).
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

from service.settings import VERSION
from service.telemetry.request_context import RequestContext

LAST_SECONDS = 5.0
"""How long the end of a process may wait for a collector."""


class Tracer:
    """Exports the spans of finished requests.

    Args:
        share: sampled share, from 0 to 1, of requests without a sampling decision in `traceparent`.
        exporter: of the spans; OTLP by default.

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

    def trace(self, context: RequestContext) -> None:
        """Export the spans of a request that has ended."""
        # Contexts use the monotonic clock, and spans the wall clock.
        offset = time.time_ns() - round(time.monotonic() * 1e9)
        traceparent = context.headers.get(b"traceparent", b"").decode("latin-1")
        parent = self._propagator.extract({"traceparent": traceparent}, Context())
        start = offset + round(context.started * 1e9)
        span = self._tracer.start_span(
            f"{context.method} {context.endpoint}",
            parent,
            SpanKind.SERVER,
            context.attributes(),
            start_time=start,
        )
        if span.is_recording():
            inside = set_span_in_context(span, parent)
            for name, offset_seconds, seconds in context.parts():
                start_time = offset + round(offset_seconds * 1e9)
                part = self._tracer.start_span(name, inside, start_time=start_time)
                part.end(start_time + round(seconds * 1e9))
            if context.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(start + round(context.seconds * 1e9))

    def close(self) -> None:
        """Export the remaining spans, as far as there is time."""
        # A daemon thread, as OpenTelemetry's own timeout is 30 seconds, and the process must end.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(LAST_SECONDS)


def otlp_exporter() -> SpanExporter:
    """Return the exporter that OpenTelemetry's variables configure; it connects at first use.

    Raises:
        SystemExit: the package of the exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise SystemExit(
            "error: FITSERVE_TRACE_SAMPLE_RATIO needs the package "
            "opentelemetry-exporter-otlp-proto-http"
        ) from None
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter
