"""The metrics as Prometheus reads them: from one process, and from several that share a folder."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exchanges import exchange_of
from gated import Gated
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from tiny import write_tiny

from models.repository import ModelRepository
from service import errors
from service.batching.batch import Timings
from service.batching.batcher import BatchReport
from service.errors import ServiceError
from service.http.endpoint import error_response
from service.http.parent import PARENT
from service.placement import Placement, place
from service.predictor import Predictor
from service.settings import Settings
from service.telemetry.metrics import ModelMetrics, count_request, exposition, show_gpu
from service.telemetry.shared_counts import observe_all

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(found: Samples, name: str, **labels: str) -> float:
    return found.get((f"fitserve_{name}", frozenset(labels.items())), 0.0)


def test_a_request_is_counted_under_its_endpoint_model_and_status() -> None:
    labels = {"endpoint": "/v2/models/{model}/infer", "model": "counted", "status": "503"}
    before = samples(exposition().decode())
    for seconds in (0.0004, 0.003, 100.0):
        exchange = exchange_of("id", "POST", "/v2/models/counted/infer", seconds=seconds)
        exchange.endpoint, exchange.model, exchange.status = labels["endpoint"], "counted", 503
        count_request(exchange)
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
    found = samples(exposition().decode())
    assert sample(found, "batch_rows_count", model="batched") == 2
    assert sample(found, "batch_rows_sum", model="batched") == 9
    assert sample(found, "batch_rows_bucket", model="batched", le="1.0") == 1
    assert sample(found, "batch_rows_bucket", model="batched", le="8.0") == 2
    assert sample(found, "batch_requests_sum", model="batched") == 4
    assert sample(found, "batch_compute_seconds_sum", model="batched") == 0.75
    assert sample(found, "queue_seconds_sum", model="batched") == 0.625
    assert sample(found, "queue_seconds_count", model="batched") == 2


FAILURES = [kind for kind in vars(errors).values() if isinstance(kind, type)]
MORE = {errors.RateLimitError: ("no", 1.0), errors.MethodNotAllowedError: ("PUT", "POST")}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_counted_by_its_reason(kind: type[ServiceError]) -> None:
    error = kind(*MORE.get(kind, ("no",)))
    exchange = exchange_of(
        "id", "POST", "/predict_curve", endpoint="/predict_curve", model="failing"
    )
    exchange.status = error_response(error, exchange).status_code
    labels = {"endpoint": "/predict_curve", "model": "failing"}
    before = samples(exposition().decode())
    count_request(exchange)
    after = samples(exposition().decode())
    changed = {
        dict(labelled)["reason"]: value - before.get((name, labelled), 0.0)
        for (name, labelled), value in after.items()
        if name == "fitserve_failures_total" and labels.items() <= dict(labelled).items()
        if value != before.get((name, labelled), 0.0)
    }
    assert changed == {kind.reason: 1.0}


def test_every_failure_has_a_reason_of_its_own() -> None:
    assert len({kind.reason for kind in FAILURES}) == len(FAILURES) > 10


def test_what_succeeds_is_no_failure_and_what_names_no_reason_is_another() -> None:
    for status in (200, 404):
        count_request(exchange_of("id", "GET", "/", endpoint="/", model="plain", status=status))
    found = samples(exposition().decode())
    failures = {
        dict(labels)["reason"]: value
        for (name, labels), value in found.items()
        if name == "fitserve_failures_total" and dict(labels)["model"] == "plain"
    }
    assert failures == {"other": 1.0}


def test_a_queue_shows_the_rows_that_wait_and_then_none(tmp_path: Path) -> None:
    async def run() -> None:
        runtime, settings = Gated(), Settings(max_batch_rows=4)
        package = write_tiny(tmp_path, "waiting", runtimes=("onnx",))
        predictor = Predictor(package, Placement(runtime, {}), settings)

        def shown() -> float:
            predictor.look()
            return sample(samples(exposition().decode()), "queue_rows", model="waiting")

        def ask(rows: int) -> asyncio.Task[object]:
            return asyncio.create_task(predictor.predict({"x": np.zeros((rows, 1), np.float32)}))

        assert shown() == 0
        first = ask(1)  # it is computed, and does not wait
        await asyncio.to_thread(runtime.entered.wait)
        others = [ask(2), ask(5)]
        await asyncio.sleep(0.05)
        assert shown() == 7
        runtime.gate.set()
        await asyncio.gather(first, *others)
        assert shown() == 0
        await predictor.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_model_shows_what_it_is_where_it_computes_and_how_it_was_proved(shipped: Path) -> None:
    async def run() -> None:
        package = ModelRepository(shipped).get("curve-tanh")
        card = package.card
        placed = place(package, "onnx", "cpu", threads=1, max_batch_rows=4)
        await Predictor(package, placed, Settings(), 1.5).close()
        found = samples(exposition().decode())
        digest = card.files["model.onnx"].sha256
        said = {"version": card.version, "runtime": "onnx", "device": "cpu", "digest": digest}
        assert sample(found, "model_info", model="curve-tanh", **said) == 1
        assert sample(found, "model_load_seconds", model="curve-tanh") == 1.5
        (parity,) = (record for record in card.parity if record.runtime == "onnx")
        proved = parity.largest_absolute_difference
        assert sample(found, "model_parity_difference", model="curve-tanh") == proved > 0

    asyncio.run(asyncio.wait_for(run(), 30))


KINDS = ("used", "total")


def test_a_gpu_shows_what_is_used_and_what_there_is() -> None:
    show_gpu("cuda:7", 3, 8)
    found = samples(exposition().decode())
    shown = [sample(found, "gpu_memory_bytes", device="cuda:7", kind=kind) for kind in KINDS]
    assert shown == [3, 8]


def test_tritons_names_say_what_ours_say() -> None:
    metrics = ModelMetrics("twice-named")
    for rows, queue in ((8, 0.5), (2, 0.25)):
        metrics.count(BatchReport(rows, 1, Timings(0.0, 0.125, 0.0), [queue]))
    for endpoint, status, seconds in (
        ("/v2/models/{model}/infer", 200, 0.5),
        ("/predict_curve", 200, 0.25),
        ("/predict_curve", 503, 0.125),
        ("/v2/models/{model}/ready", 200, 64.0),  # no inference, and none to Triton
    ):
        count_request(
            exchange_of(
                "id", "POST", "/", endpoint=endpoint, model="twice-named", status=status,
                seconds=seconds,
            )
        )  # fmt: skip
    found = samples(exposition().decode())
    triton = {
        name.removeprefix("nv_inference_"): value
        for (name, labels), value in found.items()
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
    assert triton["count"] == sample(found, "batch_rows_sum", model="twice-named")
    assert triton["exec_count"] == sample(found, "batch_rows_count", model="twice-named")


def worker_of(folder: Path) -> dict[str, str]:
    """What tells a process that it is a worker whose server counts in this folder."""
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder), PARENT: str(os.getpid())}


LIVE = """
import sys
from service.telemetry.metrics import ModelMetrics, show_worker, write_counts
from service.batching.batch import Timings
from service.batching.batcher import BatchReport

show_worker()
metrics = ModelMetrics("line")
metrics.show_queue(5, 1)
metrics.count(BatchReport(4, 2, Timings(0.0, 0.25, 0.0)))
write_counts()
print("shown", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_is_killed_has_no_queue_any_more_and_has_still_computed(
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
            found = count(0, root, tmp_path)
            assert sample(found, "workers") == alive
            assert sample(found, "queue_rows", model="line") == 5 * alive
            assert sample(found, "given_up_computes", model="line") == alive
            assert sample(found, "batch_rows_sum", model="line") == 8
            workers[0].kill()
            workers[0].wait()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


COUNT = """
import sys
from service.http.exchange import Exchange
from service.telemetry.metrics import ModelMetrics, count_request, exposition
from service.batching.batch import Timings
from service.batching.batcher import BatchReport

for _ in range(int(sys.argv[1])):
    exchange = Exchange("id", "GET", "/v2")
    exchange.endpoint, exchange.status, exchange.seconds = "/v2", 200, 0.5
    count_request(exchange)
    ModelMetrics("line").count(BatchReport(4, 2, Timings(0.0, 0.25, 0.0)))
sys.stdout.buffer.write(exposition())
"""


def count(times: int, root: Path, folder: Path | None) -> Samples:
    """What a process of its own tells that has counted so many requests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    shared = {} if folder is None else worker_of(folder)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(times)],
        cwd=root,
        env={**kept, **shared},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return samples(done.stdout)


def test_several_processes_add_up_where_they_share_a_folder(root: Path, tmp_path: Path) -> None:
    labels = {"endpoint": "/v2", "model": "", "status": "200"}
    for times, told in ((3, 3), (4, 7), (0, 7)):  # the last has counted nothing and tells all
        found = count(times, root, tmp_path)
        assert sample(found, "request_seconds_count", **labels) == told
        assert sample(found, "request_seconds_sum", **labels) == told / 2
        assert sample(found, "batch_requests_sum", model="line") == 2 * told
        assert sample(found, "batch_rows_sum", model="line") == 4 * told


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
        one, other = (registry.get_sample_value(f"{name}_bucket", {"le": le}) for name in "ab")
        assert one == other
    assert registry.get_sample_value("b_count") == len(values)
    assert registry.get_sample_value("b_sum") == pytest.approx(sum(values))


def test_a_process_alone_tells_its_own(root: Path) -> None:
    for times in (3, 4):
        found = count(times, root, None)
        labels = {"endpoint": "/v2", "model": "", "status": "200"}
        assert sample(found, "request_seconds_count", **labels) == times
        assert sample(found, "batch_requests_sum", model="line") == 2 * times
