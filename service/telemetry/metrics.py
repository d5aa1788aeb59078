"""The metrics, in Prometheus' format. Every label comes from a closed list.

prometheus_client counts in files that all workers of one server share (`counts_folder.py`): so any
worker answers for all of them, up to what the others counted half a second ago. Where there is no
such folder, or the disk is full, it answers for itself alone.
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

from models.card import MODEL_FILES, ModelCard
from service.batching.batcher import BatchReport
from service.http.exchange import Exchange
from service.http.parent import is_worker
from service.placement import Placement
from service.telemetry.counts_folder import FOLDER
from service.telemetry.shared_counts import (
    all_are_shared,
    count_alone,
    observe_all,
    share_counts,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_folder = os.environ.get(FOLDER) if is_worker() else None  # to others it is no server's folder
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
_batch_requests = Histogram(
    "fitserve_batch_requests", "Requests in one batch.", ("model",), buckets=_ROWS
)
_failures = Counter(
    "fitserve_failures", "Requests that were not answered 2xx, by what kept them from it.",
    ("endpoint", "model", "reason"),
)  # fmt: skip
_keys = Counter("fitserve_key_requests", "Requests by the name of their API key.", ("key",))
_workers = Gauge("fitserve_workers", "Worker processes that serve.", multiprocess_mode="livesum")
_queued = Gauge(
    "fitserve_queue_rows",
    "Rows that wait for their batch.",
    ("model",),
    multiprocess_mode="livesum",
)
_given_up = Gauge(
    "fitserve_given_up_computes", "Computes that did not end and still hold a thread.",
    ("model",), multiprocess_mode="livesum",
)  # fmt: skip
_info = Gauge(
    "fitserve_model_info", "1 for each model that serves: what it is, and on what.",
    ("model", "version", "runtime", "device", "digest"), multiprocess_mode="livemax",
)  # fmt: skip
_unused = Gauge(
    "fitserve_model_unused_runtimes",
    "Runtimes of a model that cannot use the device; `GET /models/{name}` says why.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_load = Gauge(
    "fitserve_model_load_seconds", "From a package on the disk to a warm model.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_parity = Gauge(
    "fitserve_model_parity_difference",
    "The largest difference of an output from the network's own, as the package proves it.",
    ("model",), multiprocess_mode="livemax",
)  # fmt: skip
_gpu = Gauge(
    "fitserve_gpu_memory_bytes", "Memory of a worker's GPU.",
    ("device", "kind"), multiprocess_mode="livemax",
)  # fmt: skip

_MANY = 256

_tallies: list["_Tally[Any]"] = []
_lock = threading.Lock()  # of whoever writes tallies; more may come in meanwhile

Observed = TypeVar("Observed")


class _Tally(Generic[Observed]):
    """What was observed and is not written yet.

    To write one value takes longer than many other parts of a prediction. Many at once take hardly
    longer than one.

    Args:
        write_all: writes what it is given, which is never nothing.
    """

    def __init__(self, write_all: Callable[[Sequence[Observed]], None]) -> None:
        self._write_all = write_all
        self._observed: list[Observed] = []
        _tallies.append(self)

    def add(self, observed: Observed) -> None:
        """Note it."""
        self._observed.append(observed)
        if len(self._observed) >= _MANY:
            self.write()

    def write(self) -> None:
        """Write what has come so far."""
        with _lock:
            observed = self._observed[:]
            del self._observed[: len(observed)]
            if observed:
                self._write_all(observed)


# `labels` looks its series up under a lock each time.
_answers: dict[tuple[str, str, int], _Tally[float]] = {}


def count_request(exchange: Exchange) -> None:
    """Count one request that has been answered."""
    key = (exchange.endpoint, exchange.model, exchange.status)
    tally = _answers.get(key)
    if tally is None:
        series = _requests.labels(*map(str, key))
        tally = _answers[key] = _Tally(partial(observe_all, series))
    tally.add(exchange.seconds)
    if exchange.status >= 400:
        _failures.labels(exchange.endpoint, exchange.model, exchange.reason or "other").inc()
    if exchange.key:
        _keys.labels(exchange.key).inc()


def show_worker() -> None:
    """Show that this process serves, for as long as it lives."""
    _workers.set(1)


def show_gpu(device: str, used: int, total: int) -> None:
    """Show a GPU's memory, in bytes."""
    _gpu.labels(device, "used").set(used)
    _gpu.labels(device, "total").set(total)


def show_model(card: ModelCard, placement: Placement, load_seconds: float) -> None:
    """Show what a model is, where it computes, and how long it took to be ready."""
    model, runtime = card.name, placement.runtime
    digest = card.files[MODEL_FILES[runtime.name]].sha256 if runtime.name in card.runtimes else ""
    _info.labels(model, card.version, runtime.name, runtime.device, digest).set(1)
    _load.labels(model).set(load_seconds)
    _unused.labels(model).set(len(placement.unused))
    for record in card.parity:
        if record.runtime == runtime.name:
            _parity.labels(model).set(record.largest_absolute_difference)


class ModelMetrics:
    """What is counted of one model."""

    def __init__(self, model: str) -> None:
        self._queue = _queue.labels(model)
        self._compute = _compute.labels(model)
        self._rows = _batch_rows.labels(model)
        self._requests = _batch_requests.labels(model)
        self._queued = _queued.labels(model)
        self._given_up = _given_up.labels(model)
        self.count: Callable[[BatchReport], None] = _Tally(self._observe).add
        """Counts one batch."""

    def _observe(self, reports: Sequence[BatchReport]) -> None:
        observe_all(self._compute, [report.timings.compute for report in reports])
        observe_all(self._rows, [report.rows for report in reports])
        observe_all(self._requests, [report.requests for report in reports])
        observe_all(self._queue, [wait for report in reports for wait in report.waits])

    def show_queue(self, rows: int, given_up: int) -> None:
        """Show how many rows wait, and how many computes were given up."""
        self._queued.set(rows)
        self._given_up.set(given_up)


def write_counts() -> None:
    """Write what was counted to where the metrics of all workers are read."""
    for tally in tuple(_tallies):
        tally.write()


def exposition() -> bytes:
    """Every metric of every worker, as Prometheus reads it, and Triton's names for some of them.

    What other workers counted since they last called `write_counts` is not there yet.
    """
    write_counts()
    registry = REGISTRY
    if _folder is not None and Path(_folder).is_dir() and all_are_shared():
        _forget_the_dead(Path(_folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, _folder)  # type: ignore[no-untyped-call]  # its constructor is untyped
    return generate_latest(_WithTritonNames(registry))


def _forget_the_dead(folder: Path) -> None:
    """A worker that was killed has no queue any more; what it counted stays counted."""
    for pid in {file.stem.rpartition("_")[2] for file in folder.glob("gauge_live*.db")}:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            mark_process_dead(int(pid))  # type: ignore[no-untyped-call]  # it is untyped
        except (ValueError, PermissionError):
            continue


class _WithTritonNames:
    """Our metrics, then Triton's where they mean the same: its dashboards work with them.

    https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Each of them, as the registry has it now. It is asked once: it reads every worker's file.

        Triton's names have no `_total`, which a counter of prometheus_client would get.
        """
        found: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for family in self._registry.collect():
            yield family
            for sample in family.samples:
                name, factor = _triton_name(sample.name, sample.labels)
                if name:
                    found[name][sample.labels["model"]] += sample.value * factor
        for name, by_model in found.items():
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
    """What Triton calls a sample, and the factor between the units; no name where it has none."""
    endpoint = labels.get("endpoint", "")
    if not labels.get("model") or (endpoint.startswith("/v2/") and not endpoint.endswith("/infer")):
        return "", 0.0
    if name == "fitserve_request_seconds_count":
        answered = labels["status"] == "200"
        return f"nv_inference_request_{'success' if answered else 'failure'}", 1
    return _TRITON.get(name, ("", 0.0))
