"""Metrics in the Prometheus format. Label values come from closed lists.

The workers of a server count in shared files (`multiprocess_folder.py`). Any worker reports for all
of them; counts of other workers may be half a second old. Without the folder, or with a full disk,
a worker reports its own counts.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics_core import Metric, UntypedMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.batching.batcher import BatchReport
from service.parent_watch import is_worker
from service.telemetry.multiprocess import (
    all_are_shared,
    count_alone,
    observe_all,
    share_counts,
)
from service.telemetry.multiprocess_folder import FOLDER
from service.telemetry.request_context import RequestContext

CONTENT_TYPE = CONTENT_TYPE_LATEST

_folder = os.environ.get(FOLDER) if is_worker() else None  # set by the supervisor for workers only
if _folder is None:
    count_alone()
else:
    share_counts()

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
_ROWS = tuple(2**power for power in range(13))

_requests = Histogram(
    "fitserve_request_seconds",
    "From a request's first byte in the service to its response.",
    ("endpoint", "model", "status"),
    buckets=_SECONDS,
)
_queue = Histogram(
    "fitserve_queue_seconds",
    "Wait of a request's first row in the queue.",
    ("model",),
    buckets=_SECONDS,
)
_compute = Histogram(
    "fitserve_batch_compute_seconds", "Compute time of one batch.", ("model",), buckets=_SECONDS
)
_batch_rows = Histogram("fitserve_batch_rows", "Rows in one batch.", ("model",), buckets=_ROWS)
_batch_requests = Histogram(
    "fitserve_batch_requests", "Requests in one batch.", ("model",), buckets=_ROWS
)
_failures = Counter(
    "fitserve_failures", "Requests whose response was not 2xx, by reason.",
    ("endpoint", "model", "reason"),
)  # fmt: skip
_slow_readers = Counter(
    "fitserve_slow_readers",
    "Clients that were disconnected because they did not read their response, by reason.",
    ("reason",),
)
_keys = Counter("fitserve_key_requests", "Requests by the name of their API key.", ("key",))
_workers = Gauge("fitserve_workers", "Worker processes that serve.", multiprocess_mode="livesum")
_queued = Gauge(
    "fitserve_queue_rows",
    "Rows waiting in the queue.",
    ("model",),
    multiprocess_mode="livesum",
)
_expected_wait = Gauge(
    "fitserve_expected_wait_seconds",
    "Expected seconds until all that waits is computed, in the worker where it takes longest.",
    ("model",),
    multiprocess_mode="livemax",
)
_hung = Gauge(
    "fitserve_given_up_computes", "Computes that hung, were abandoned and still hold a thread.",
    ("model",), multiprocess_mode="livesum",
)  # fmt: skip
_slowdown = Gauge(
    "fitserve_model_slowdown_ratio",
    "Median compute time of 256 batches, as a multiple of the time when the model was loaded.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_info = Gauge(
    "fitserve_model_info", "1 for each model that serves, with its version, runtime and device.",
    ("model", "version", "runtime", "device", "digest"), multiprocess_mode="livemax",
)  # fmt: skip
_unused = Gauge(
    "fitserve_model_unused_runtimes",
    "Runtimes of a model that cannot use the device; `GET /models/{name}` says why.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_load = Gauge(
    "fitserve_model_load_seconds", "Duration of a model's load, warm-up included.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_parity = Gauge(
    "fitserve_model_parity_difference",
    "The largest difference of an output from the original network's, by the package's proof.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_gpu = Gauge(
    "fitserve_gpu_memory_bytes", "Memory of a worker's GPU.",
    ("device", "kind"), multiprocess_mode="livemax",
)  # fmt: skip

_MAX_PENDING = 256

_tallies: list["_Tally[Any]"] = []
_lock = threading.Lock()  # held while tallies are written

Observed = TypeVar("Observed")


class _Tally(Generic[Observed]):
    """Observed values that are not written yet.

    Writing one value takes longer than many parts of a prediction; writing many values takes little
    longer than writing one.

    Args:
        write_all: writes the values; it is not called without values.
    """

    def __init__(self, write_all: Callable[[Sequence[Observed]], None]) -> None:
        self._write_all = write_all
        self._observed: list[Observed] = []
        _tallies.append(self)

    def add(self, observed: Observed) -> None:
        """Add a value."""
        self._observed.append(observed)
        if len(self._observed) >= _MAX_PENDING:
            self.write()

    def write(self) -> None:
        """Write the values added so far."""
        with _lock:
            observed = self._observed[:]
            del self._observed[: len(observed)]
            if observed:
                self._write_all(observed)


# `labels` takes a lock to look up its series, so they are cached here.
_request_tallies: dict[tuple[str, str, int], _Tally[float]] = {}


def count_request(context: RequestContext) -> None:
    """Count a request that has ended."""
    key = (context.endpoint, context.model, context.status)
    tally = _request_tallies.get(key)
    if tally is None:
        series = _requests.labels(*map(str, key))
        tally = _request_tallies[key] = _Tally(partial(observe_all, series))
    tally.add(context.seconds)
    if context.status >= 400:
        _failures.labels(context.endpoint, context.model, context.reason or "other").inc()
    if context.key:
        _keys.labels(context.key).inc()


def count_slow_reader(reason: str) -> None:
    """Count a client that was disconnected because it did not read its response.

    Args:
        reason: `time` or `memory`, the limit that was exceeded.
    """
    _slow_readers.labels(reason).inc()


def show_worker() -> None:
    """Report that this process serves, until it ends."""
    _workers.set(1)


def show_gpu(device: str, used: int, total: int) -> None:
    """Report the memory of a GPU, in bytes."""
    _gpu.labels(device, "used").set(used)
    _gpu.labels(device, "total").set(total)


def show_model(
    model: str,
    version: str,
    *,
    runtime: str,
    device: str,
    digest: str,
    load_seconds: float,
    unused_runtimes: int,
    parity_difference: float | None,
) -> None:
    """Report what a model is, where it computes, and how long its load took.

    Args:
        model: the name of the model.
        version: the version of the model.
        runtime: the runtime that computes it.
        device: where it computes, `cpu` or `cuda:<index>`.
        digest: the SHA-256 of the file that the runtime opened, in hexadecimal.
        load_seconds: duration of the load, from the package on the disk to the warm model.
        unused_runtimes: how many runtimes of the package cannot use the device.
        parity_difference: the largest absolute difference of an output from the original network's;
            None if the package records none.
    """
    _info.labels(model, version, runtime, device, digest).set(1)
    _load.labels(model).set(load_seconds)
    _unused.labels(model).set(unused_runtimes)
    if parity_difference is not None:
        _parity.labels(model).set(parity_difference)


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self, model: str) -> None:
        self._queue = _queue.labels(model)
        self._compute = _compute.labels(model)
        self._rows = _batch_rows.labels(model)
        self._requests = _batch_requests.labels(model)
        self._queued = _queued.labels(model)
        self._expected_wait = _expected_wait.labels(model)
        self._hung = _hung.labels(model)
        self._slowdown = _slowdown.labels(model)
        self.count: Callable[[BatchReport], None] = _Tally(self._observe).add
        """Counts one batch."""

    def _observe(self, reports: Sequence[BatchReport]) -> None:
        observe_all(self._compute, [report.timings.compute_infer for report in reports])
        observe_all(self._rows, [report.rows for report in reports])
        observe_all(self._requests, [report.requests for report in reports])
        observe_all(self._queue, [wait for report in reports for wait in report.waits])

    def show_queue(self, rows: int, seconds: float, hung: int) -> None:
        """Report how many rows wait, the seconds that they take, and how many computes hung."""
        self._queued.set(rows)
        self._expected_wait.set(seconds)
        self._hung.set(hung)

    def show_slowdown(self, ratio: float) -> None:
        """Report how much longer batches take than at the start, as a multiple."""
        self._slowdown.set(ratio)


def write_counts() -> None:
    """Write all tallies to the files that the workers share."""
    for tally in tuple(_tallies):
        tally.write()


def exposition() -> bytes:
    """Return the metrics of all workers in the Prometheus format, some also under Triton's names.

    Counts of other workers since their last `write_counts` are missing.
    """
    write_counts()
    registry = REGISTRY
    if _folder is not None and Path(_folder).is_dir() and all_are_shared():
        _remove_dead_workers(Path(_folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, _folder)  # type: ignore[no-untyped-call]  # its constructor is untyped
    return generate_latest(_WithTritonNames(registry))


def _remove_dead_workers(folder: Path) -> None:
    """Remove the gauges of killed workers; their counters stay."""
    for pid in {file.stem.rpartition("_")[2] for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            mark_process_dead(int(pid))  # type: ignore[no-untyped-call]  # it is untyped
        except (ValueError, PermissionError):
            continue


class _WithTritonNames:
    """The metrics, followed by equivalent metrics under Triton's names, for Triton's dashboards.

    https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, and read the registry once, as each read opens every worker's file.

        Triton's names have no `_total`, which a counter of prometheus_client would add.
        """
        sums: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for family in self._registry.collect():
            yield family
            for sample in family.samples:
                name, factor = _triton_name(sample.name, sample.labels)
                if name:
                    sums[name][sample.labels["model"]] += sample.value * factor
        for name, by_model in sums.items():
            triton = UntypedMetricFamily(name, "As Triton counts it.", labels=("model",))
            for model, value in by_model.items():
                triton.add_metric((model,), value)
            yield triton


_TRITON: Mapping[str, tuple[str, float]] = {
    "fitserve_request_seconds_sum": ("nv_inference_request_duration_us", 1e6),
    "fitserve_batch_rows_sum": ("nv_inference_count", 1),
    "fitserve_batch_rows_count": ("nv_inference_exec_count", 1),
    "fitserve_queue_seconds_sum": ("nv_inference_queue_duration_us", 1e6),
}


def _triton_name(name: str, labels: Mapping[str, str]) -> tuple[str, float]:
    """Return Triton's name of a sample and the factor between the units; "" if it has none."""
    endpoint = labels.get("endpoint", "")
    if not labels.get("model") or (endpoint.startswith("/v2/") and not endpoint.endswith("/infer")):
        return "", 0.0
    if name == "fitserve_request_seconds_count":
        succeeded = labels["status"] == "200"
        return f"nv_inference_request_{'success' if succeeded else 'failure'}", 1
    return _TRITON.get(name, ("", 0.0))
