"""Metrics in the Prometheus format, from one process and from several that share a folder."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gated import Gated
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from request_contexts import context_of
from tiny import write_tiny

from models.package.repository import ModelRepository
from service import errors
from service.batching.batch import Timings
from service.batching.batcher import BatchReport
from service.errors import ServiceError
from service.http.responses import error_response
from service.inference.placement import Placement, place
from service.inference.predictor import Predictor
from service.parent_watch import PARENT
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics, count_request, exposition, show_gpu
from service.telemetry.multiprocess import observe_all

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples_of(model: str) -> Samples:
    """Return the samples of one model; to parse those of all tests takes a second."""
    lines = exposition().decode().splitlines(keepends=True)
    return samples("".join(line for line in lines if f'model="{model}"' in line))


def sample(by_labels: Samples, name: str, **labels: str) -> float:
    return by_labels.get((f"fitserve_{name}", frozenset(labels.items())), 0.0)


def test_a_request_is_counted_by_endpoint_model_and_status() -> None:
    labels = {"endpoint": "/v2/models/{model}/infer", "model": "counted", "status": "503"}
    before = samples(exposition().decode())
    for seconds in (0.0004, 0.003, 100.0):
        context = context_of("id", "POST", "/v2/models/counted/infer", seconds=seconds)
        context.endpoint, context.model, context.status = labels["endpoint"], "counted", 503
        count_request(context)
    after = samples(exposition().decode())

    def change(name: str, **more: str) -> float:
        return sample(after, name, **labels, **more) - sample(before, name, **labels, **more)

    assert change("request_seconds_count") == 3
    assert change("request_seconds_sum") == pytest.approx(100.0034)
    buckets = {le: change("request_seconds_bucket", le=le) for le in ("0.0005", "0.005", "30.0")}
    assert buckets == {"0.0005": 1, "0.005": 2, "30.0": 2}
    assert change("request_seconds_bucket", le="+Inf") == 3


def test_a_batch_is_counted_with_its_rows_its_requests_and_its_compute() -> None:
    metrics = ModelMetrics("batched")
    metrics.count(BatchReport(8, 3, Timings(0.001, 0.25, 0.001), [0.125, 0.5]))
    metrics.count(BatchReport(1, 1, Timings(0.001, 0.5, 0.001)))
    exposed = samples(exposition().decode())
    assert sample(exposed, "batch_rows_count", model="batched") == 2
    assert sample(exposed, "batch_rows_sum", model="batched") == 9
    assert sample(exposed, "batch_rows_bucket", model="batched", le="1.0") == 1
    assert sample(exposed, "batch_rows_bucket", model="batched", le="8.0") == 2
    assert sample(exposed, "batch_requests_sum", model="batched") == 4
    assert sample(exposed, "batch_compute_seconds_sum", model="batched") == 0.75
    assert sample(exposed, "queue_seconds_sum", model="batched") == 0.625
    assert sample(exposed, "queue_seconds_count", model="batched") == 2


FAILURES = [kind for kind in vars(errors).values() if isinstance(kind, type)]
MORE = {errors.RateLimitError: ("no", 1.0), errors.MethodNotAllowedError: ("PUT", "POST")}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_counted_by_its_reason(kind: type[ServiceError]) -> None:
    error = kind(*MORE.get(kind, ("no",)))
    context = context_of("id", "POST", "/predict_curve", endpoint="/predict_curve", model="failing")
    context.status = error_response(error, context).status_code
    labels = {"endpoint": "/predict_curve", "model": "failing"}
    before = samples_of("failing")
    count_request(context)
    after = samples_of("failing")
    changed = {
        dict(labelled)["reason"]: value - before.get((name, labelled), 0.0)
        for (name, labelled), value in after.items()
        if name == "fitserve_failures_total" and labels.items() <= dict(labelled).items()
        if value != before.get((name, labelled), 0.0)
    }
    assert changed == {kind.reason: 1.0}


def test_every_failure_has_a_reason_of_its_own() -> None:
    assert len({kind.reason for kind in FAILURES}) == len(FAILURES) > 10


def test_success_is_not_a_failure_and_a_failure_without_a_reason_is_other() -> None:
    for status in (200, 404):
        count_request(context_of("id", "GET", "/", endpoint="/", model="plain", status=status))
    exposed = samples(exposition().decode())
    failures = {
        dict(labels)["reason"]: value
        for (name, labels), value in exposed.items()
        if name == "fitserve_failures_total" and dict(labels)["model"] == "plain"
    }
    assert failures == {"other": 1.0}


@pytest.mark.timeout(30)
async def test_the_queue_metric_shows_the_waiting_rows(tmp_path: Path) -> None:
    runtime, settings = Gated(), Settings(max_batch_rows=4)
    package = write_tiny(tmp_path, "waiting", runtimes=("onnx",))
    predictor = Predictor(package, Placement(runtime, {}), settings)

    def shown() -> float:
        predictor.check()
        return sample(samples(exposition().decode()), "queue_rows", model="waiting")

    def ask(rows: int) -> asyncio.Task[object]:
        return asyncio.create_task(predictor.predict({"x": np.zeros((rows, 1), np.float32)}))

    assert shown() == 0
    first = ask(1)  # computed at once, without waiting
    await asyncio.to_thread(runtime.entered.wait)
    others = [ask(2), ask(5)]
    await asyncio.sleep(0.05)
    assert shown() == 7
    runtime.gate.set()
    await asyncio.gather(first, *others)
    assert shown() == 0
    await predictor.close()


@pytest.mark.timeout(30)
async def test_the_metrics_of_a_model_show_its_placement_and_parity(shipped: Path) -> None:
    package = ModelRepository(shipped).get("curve-tanh")
    card = package.card
    placed = place(package, "onnx", "cpu", threads=1, max_batch_rows=4)
    await Predictor(package, placed, Settings(), 1.5).close()
    exposed = samples(exposition().decode())
    digest = card.files["model.onnx"].sha256
    labels = {"version": card.version, "runtime": "onnx", "device": "cpu", "digest": digest}
    assert sample(exposed, "model_info", model="curve-tanh", **labels) == 1
    assert sample(exposed, "model_load_seconds", model="curve-tanh") == 1.5
    (parity,) = (record for record in card.parity if record.runtime == "onnx")
    proved = parity.largest_absolute_difference
    assert sample(exposed, "model_parity_difference", model="curve-tanh") == proved > 0


KINDS = ("used", "total")


def test_the_metrics_of_a_gpu_show_used_and_total_memory() -> None:
    show_gpu("cuda:7", 3, 8)
    exposed = samples(exposition().decode())
    shown = [sample(exposed, "gpu_memory_bytes", device="cuda:7", kind=kind) for kind in KINDS]
    assert shown == [3, 8]


def test_metrics_under_tritons_names_have_the_same_values() -> None:
    metrics = ModelMetrics("twice-named")
    for rows, queue in ((8, 0.5), (2, 0.25)):
        metrics.count(BatchReport(rows, 1, Timings(0.0, 0.125, 0.0), [queue]))
    for endpoint, status, seconds in (
        ("/v2/models/{model}/infer", 200, 0.5),
        ("/predict_curve", 200, 0.25),
        ("/predict_curve", 503, 0.125),
        ("/v2/models/{model}/ready", 200, 64.0),  # not an inference, for Triton either
    ):
        count_request(
            context_of(
                "id", "POST", "/", endpoint=endpoint, model="twice-named", status=status,
                seconds=seconds,
            )
        )  # fmt: skip
    exposed = samples(exposition().decode())
    triton = {
        name.removeprefix("nv_inference_"): value
        for (name, labels), value in exposed.items()
        if name.startswith("nv_") and labels == {("model", "twice-named")}
    }
    assert triton == {
        "request_success": 2,
        "request_failure": 1,
        "request_duration_us": 875_000,
        "queue_duration_us": 750_000,
        "count": 10,
        "exec_count": 2,
    }
    assert triton["count"] == sample(exposed, "batch_rows_sum", model="twice-named")
    assert triton["exec_count"] == sample(exposed, "batch_rows_count", model="twice-named")


def worker_of(folder: Path) -> dict[str, str]:
    """Return the environment of a worker whose server counts in this folder."""
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder), PARENT: str(os.getpid())}


LIVE = """
import sys
from service.telemetry.metrics import ModelMetrics, show_worker, write_counts
from service.batching.batch import Timings
from service.batching.batcher import BatchReport

show_worker()
metrics = ModelMetrics("line")
metrics.show_queue(5, 0.5, 1)
metrics.count(BatchReport(4, 2, Timings(0.0, 0.25, 0.0)))
write_counts()
print("shown", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_gauges_of_a_killed_worker_are_removed_and_its_counters_kept(
    root: Path, tmp_path: Path
) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", LIVE],
            cwd=root,
            env={**os.environ, **worker_of(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"shown\n"
        for alive in (2, 1):
            counted = count(0, root, tmp_path)
            assert sample(counted, "workers") == alive
            assert sample(counted, "queue_rows", model="line") == 5 * alive
            assert sample(counted, "given_up_computes", model="line") == alive
            assert sample(counted, "batch_rows_sum", model="line") == 8
            workers[0].kill()
            workers[0].wait()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


COUNT = """
import sys
from service.telemetry.request_context import RequestContext
from service.telemetry.metrics import ModelMetrics, count_request, exposition
from service.batching.batch import Timings
from service.batching.batcher import BatchReport

for _ in range(int(sys.argv[1])):
    context = RequestContext("id", "GET", "/v2")
    context.endpoint, context.status, context.seconds = "/v2", 200, 0.5
    count_request(context)
    ModelMetrics("line").count(BatchReport(4, 2, Timings(0.0, 0.25, 0.0)))
sys.stdout.buffer.write(exposition())
"""


def count(times: int, root: Path, folder: Path | None) -> Samples:
    """Return the metrics of a new process that has counted this many requests."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")
    }
    shared = {} if folder is None else worker_of(folder)
    completed = subprocess.run(
        [sys.executable, "-c", COUNT, str(times)],
        cwd=root,
        env={**environment, **shared},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return samples(completed.stdout)


@pytest.mark.slow
def test_counts_of_processes_that_share_a_folder_add_up(root: Path, tmp_path: Path) -> None:
    labels = {"endpoint": "/v2", "model": "", "status": "200"}
    for times, total in (
        (3, 3),
        (4, 7),
        (0, 7),
    ):  # the last process counts nothing, and reports all
        counted = count(times, root, tmp_path)
        assert sample(counted, "request_seconds_count", **labels) == total
        assert sample(counted, "request_seconds_sum", **labels) == total / 2
        assert sample(counted, "batch_requests_sum", model="line") == 2 * total
        assert sample(counted, "batch_rows_sum", model="line") == 4 * total


@given(st.lists(st.floats(0, 1e6) | st.sampled_from([0.1, 1.0, 10.0]), max_size=600))
def test_many_values_at_once_are_counted_as_one_by_one(values: list[float]) -> None:
    registry = CollectorRegistry()
    each, all_at_once = (
        Histogram(name, "-", buckets=(0.1, 1.0, 10.0), registry=registry) for name in "ab"
    )
    for value in values:
        each.observe(value)
    if values:
        observe_all(all_at_once, values)
    for le in ("0.1", "1.0", "10.0", "+Inf"):
        first, second = (registry.get_sample_value(f"{name}_bucket", {"le": le}) for name in "ab")
        assert first == second
    assert registry.get_sample_value("b_count") == len(values)
    assert registry.get_sample_value("b_sum") == pytest.approx(sum(values))


@pytest.mark.slow
def test_a_single_process_reports_its_own_counts(root: Path) -> None:
    for times in (3, 4):
        counted = count(times, root, None)
        labels = {"endpoint": "/v2", "model": "", "status": "200"}
        assert sample(counted, "request_seconds_count", **labels) == times
        assert sample(counted, "batch_requests_sum", model="line") == 2 * times
