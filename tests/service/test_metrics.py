"""The metrics as Prometheus reads them: from one process, and from several that share a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.batch import Timings
from service.batching import BatchReport
from service.exchange import Exchange
from service.metrics import ModelMetrics, count_request, exposition

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
        exchange = Exchange("id", "POST", "/v2/models/counted/infer", seconds=seconds)
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
    metrics.count(BatchReport(8, 3, 0.5, Timings(0.001, 0.25, 0.001)))
    metrics.count(BatchReport(1, 1, 0.5, Timings(0.001, 0.5, 0.001)))
    metrics.count_wait(0.125)
    found = samples(exposition().decode())
    assert sample(found, "batch_rows_count", model="batched") == 2
    assert sample(found, "batch_rows_sum", model="batched") == 9
    assert sample(found, "batch_rows_bucket", model="batched", le="1.0") == 1
    assert sample(found, "batch_rows_bucket", model="batched", le="8.0") == 2
    assert sample(found, "batch_requests_total", model="batched") == 4
    assert sample(found, "batch_compute_seconds_sum", model="batched") == 0.75
    assert sample(found, "queue_seconds_sum", model="batched") == 0.125


COUNT = """
import sys
from service.exchange import Exchange
from service.metrics import ModelMetrics, count_request, exposition
from service.batch import Timings
from service.batching import BatchReport

for _ in range(int(sys.argv[1])):
    count_request(Exchange("id", "GET", "/v2", endpoint="/v2", status=200, seconds=0.5))
    ModelMetrics("line").count(BatchReport(4, 2, 0.0, Timings(0.0, 0.25, 0.0)))
sys.stdout.buffer.write(exposition())
"""


def count(times: int, root: Path, folder: Path | None) -> Samples:
    """What a process of its own tells that has counted so many requests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    shared = {} if folder is None else {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
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
        assert sample(found, "batch_requests_total", model="line") == 2 * told
        assert sample(found, "batch_rows_sum", model="line") == 4 * told


def test_a_process_alone_tells_its_own(root: Path) -> None:
    for times in (3, 4):
        found = count(times, root, None)
        labels = {"endpoint": "/v2", "model": "", "status": "200"}
        assert sample(found, "request_seconds_count", **labels) == times
        assert sample(found, "batch_requests_total", model="line") == 2 * times
