"""The metrics, in Prometheus' format. Every label comes from a closed list.

prometheus_client counts in files that all workers of one server share, where
`PROMETHEUS_MULTIPROC_DIR` names their folder: so any worker answers for all of them.
"""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from service.batching import BatchReport
from service.exchange import Exchange

CONTENT_TYPE = CONTENT_TYPE_LATEST

_process = os.getpid()


def _renew_process() -> None:
    global _process
    _process = os.getpid()


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # prometheus_client asks the kernel for the process's number at every count, in case it was
    # forked: four system calls for a request. The fork itself tells.
    os.register_at_fork(after_in_child=_renew_process)
    values.ValueClass = values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_ROWS = tuple(2**power for power in range(13))

_requests = Histogram(
    "fitserve_request_seconds",
    "From a request's first byte in the service to its answer.",
    ("endpoint", "model", "status"),
    buckets=_SECONDS,
)
_queue = Histogram(
    "fitserve_queue_seconds", "What a request's first row waited.", ("model",), buckets=_SECONDS
)
_compute = Histogram(
    "fitserve_batch_compute_seconds", "The compute of one batch.", ("model",), buckets=_SECONDS
)
_batch_rows = Histogram("fitserve_batch_rows", "Rows in one batch.", ("model",), buckets=_ROWS)
_batch_requests = Counter("fitserve_batch_requests", "Requests in all batches.", ("model",))

# `labels` looks its child up under a lock each time.
_children: dict[tuple[str, str, int], Histogram] = {}


def count_request(exchange: Exchange) -> None:
    """Count one request that has been answered."""
    key = (exchange.endpoint, exchange.model, exchange.status)
    child = _children.get(key)
    if child is None:
        child = _children[key] = _requests.labels(*map(str, key))
    child.observe(exchange.seconds)


class BatchMetrics:
    """Counts the batches of one model."""

    def __init__(self, model: str) -> None:
        self._queue = _queue.labels(model)
        self._compute = _compute.labels(model)
        self._rows = _batch_rows.labels(model)
        self._requests = _batch_requests.labels(model)

    def count(self, report: BatchReport) -> None:
        """Count one batch."""
        self._compute.observe(report.timings.compute)
        self._rows.observe(report.rows)
        self._requests.inc(report.requests)

    def count_wait(self, seconds: float) -> None:
        """Count what one request waited."""
        self._queue.observe(seconds)


def exposition() -> bytes:
    """Every metric of every worker, as Prometheus reads it."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # its constructor is untyped
    return generate_latest(registry)
