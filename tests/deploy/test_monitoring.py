"""The rules and the dashboard of `deploy/monitoring`, with promtool and a real Prometheus."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from live_server import TIMED, Server, free_port, serving, temporary_home
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = [rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
KEY = "a key of the tests"
HEADERS = {"X-API-Key": KEY}

CURVES, POINTS, WRONG, STRANGERS, UNKNOWN = 21, 13, 5, 3, 2
"""How many requests of each kind are sent in each of the two waves."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: Debian's package prometheus has it")
    return subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )


def test_promtool_accepts_the_rules() -> None:
    completed = promtool("check", "rules", "rules.yml")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in completed.stdout


def test_the_unit_tests_of_the_rules_pass() -> None:
    completed = promtool("test", "rules", "rules.test.yml")
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_has_a_test_that_fires_and_one_that_does_not(rule: dict[str, Any]) -> None:
    tests = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
    outcomes = {
        bool(case.get("exp_alerts"))
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == rule["alert"]
    }
    assert outcomes == {True, False}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "action"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    occupied: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        cells = {
            (position["x"] + right, position["y"] + down)
            for right in range(position["w"])
            for down in range(position["h"])
        }
        assert not cells & occupied, panel["title"]
        assert all(x < 24 for x, _ in cells)
        occupied |= cells
    variables = {f"${variable['name']}" for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\w+", " ".join(PANELS.values()))) - {"$__rate_interval"}
    assert used <= variables


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the response of its API."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        content = response.json()
        assert content["status"] == "success", content
        return content["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each current sample."""
        response = self.ask("query", query=expression)
        if response["resultType"] == "scalar":
            return [({}, float(response["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in response["result"]]

    def value(self, expression: str) -> float:
        """Return the only value; 0 without one."""
        values = [value for _, value in self.query(expression)]
        assert len(values) <= 1
        return sum(values)


@pytest.fixture(scope="module")
def program() -> str:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus: Debian's package has it")
    return "prometheus"


@pytest.fixture(scope="module")
def watched(program: str) -> Iterator[Server]:
    """A server of two workers, with a key."""
    with temporary_home() as home:
        (home / "keys").write_text(f"alice {hashlib.sha256(KEY.encode()).hexdigest()}\n")
        settings = TIMED | {
            "FITSERVE_API_KEYS_FILE": str(home / "keys"),
            "BENTOML_CONFIG_OPTIONS": "services.fitserve.workers=2",
        }
        with serving(home, ROOT, settings=settings) as server:
            yield server


CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: fitserve
    static_configs:
      - targets: ["{target}"]
        labels: {{namespace: default, pod: fitserve-1}}
"""


@pytest.fixture(scope="module")
def prometheus(
    program: str, watched: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the server before, between and after two waves of requests."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    target = watched.url.removeprefix("http://")
    configuration = CONFIGURATION.format(rules=FOLDER / "rules.yml", target=target)
    (folder / "prometheus.yml").write_text(configuration)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        started = Prometheus(f"http://127.0.0.1:{port}")
        wait_until(lambda: _is_ready(started))
        # One worker responds to a scrape; the counts of the other are included.
        wait_until(lambda: started.value("sum(fitserve_workers)") == 2)
        for wave in (1, 2):
            send(watched)
            sent = wave * (CURVES + POINTS + WRONG + UNKNOWN)
            wait_until(partial(has_counted, started, sent))
        wait_until(lambda: bool(started.query("fitserve:request_seconds:p99_5m")))
        yield started
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def has_counted(prometheus: Prometheus, requests: int) -> bool:
    return prometheus.value('fitserve_key_requests_total{key="alice"}') == requests


def send(server: Server) -> None:
    """Send a wave of requests, each on its own connection, so both workers get some."""

    def post(path: str, content: object, status: int, **headers: str) -> None:
        response = httpx.post(server.url + path, json=content, headers=headers, timeout=60)
        assert response.status_code == status, response.text

    infer = "/v2/models/moons-tanh/infer"
    point = {"name": "point", "shape": [2, 2], "datatype": "FP32", "data": [0, 1, 2, 3]}
    for _ in range(STRANGERS):  # first, as the others are waited for
        post("/predict_curve", {"x": [1]}, 401)
    for _ in range(CURVES):
        post("/predict_curve", {"x": [1, 2, 3]}, 200, **HEADERS)
    for _ in range(POINTS):
        post(infer, {"inputs": [point]}, 200, **HEADERS)
    for _ in range(WRONG):
        post(infer, {"inputs": []}, 400, **HEADERS)
    for _ in range(UNKNOWN):
        post("/v2/models/nobody/infer", {"inputs": [point]}, 404, **HEADERS)


SENT = {
    'sum(fitserve_request_seconds_count{endpoint="/predict_curve",status="200"})': 2 * CURVES,
    'sum(fitserve_request_seconds_count{model="moons-tanh",status="400"})': 2 * WRONG,
    'sum(fitserve_request_seconds_bucket{model="curve-tanh",le="+Inf"})': 2 * CURVES,
    'sum(fitserve_batch_rows_sum{model="curve-tanh"})': 2 * CURVES * 3,
    'sum(fitserve_batch_rows_sum{model="moons-tanh"})': 2 * POINTS * 2,
    'sum(fitserve_batch_requests_sum{model="moons-tanh"})': 2 * POINTS,
    'sum(fitserve_queue_seconds_count{model="moons-tanh"})': 2 * POINTS,
    'sum(fitserve_failures_total{reason="bad_input",model="moons-tanh"})': 2 * WRONG,
    'sum(fitserve_failures_total{reason="unknown_model"})': 2 * UNKNOWN,
    'sum(fitserve_failures_total{reason="unauthorized"})': 2 * STRANGERS,
    'nv_inference_count{model="curve-tanh"}': 2 * CURVES * 3,
    'nv_inference_request_success{model="curve-tanh"}': 2 * CURVES,
    'nv_inference_request_failure{model="moons-tanh"}': 2 * WRONG,
    "sum(fitserve_workers)": 2,
    "count(count by (model) (fitserve_model_info))": 14,
    "sum(fitserve_queue_rows)": 0,
    "sum(fitserve_expected_wait_seconds)": 0,
    "sum(fitserve_given_up_computes)": 0,
}


@pytest.mark.parametrize(("expression", "value"), SENT.items())
def test_the_counts_of_prometheus_match_the_requests(
    expression: str, value: float, prometheus: Prometheus
) -> None:
    # The counts of the other worker appear one scrape later.
    wait_until(lambda: prometheus.value(expression) == value)


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_data(panel: str, prometheus: Prometheus) -> None:
    expression = PANELS[panel].replace("$__rate_interval", "1m")
    for variable in DASHBOARD["templating"]["list"]:
        expression = expression.replace(f"${variable['name']}", variable.get("allValue", ""))
    samples = prometheus.query(expression)
    if "fitserve_gpu_" in expression:
        return  # it was parsed; GPU panels need a GPU
    assert samples
    assert any(value == value for _, value in samples), "nothing but NaN"


@pytest.mark.parametrize("rule", RECORDS, ids=[rule["record"] for rule in RECORDS])
def test_every_recording_rule_records(rule: dict[str, str], prometheus: Prometheus) -> None:
    assert prometheus.query(rule["record"])


def test_a_healthy_service_raises_no_alert(prometheus: Prometheus) -> None:
    raised = {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
    assert raised <= {"FitserveDown"}  # pending if a busy machine missed a scrape


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_every_alert_uses_existing_series(rule: dict[str, str], prometheus: Prometheus) -> None:
    names = set(re.findall(r"\b(?:fitserve[:_][\w:]+|up)\b(?=[\[{) ]|$)", rule["expr"]))
    assert names
    known = set(prometheus.ask("label/__name__/values"))
    assert {name for name in names if "_gpu_" not in name} <= known


def test_the_adapter_exposes_the_queue_of_each_pod(prometheus: Prometheus) -> None:
    text = (ROOT / "deploy" / "kubernetes" / "adapter-rules.yaml").read_text()
    (rule,) = yaml.safe_load(text)["rules"]["custom"]
    # A busy machine may miss a scrape.
    wait_until(lambda: prometheus.query(rule["seriesQuery"]))
    filled = {
        "<<.Series>>": "fitserve_expected_wait_seconds",
        "<<.LabelMatchers>>": 'namespace="default",pod="fitserve-1"',
        "<<.GroupBy>>": "pod",
    }
    expression = rule["metricsQuery"]
    for placeholder, value in filled.items():
        expression = expression.replace(placeholder, value)
    wait_until(lambda: prometheus.query(expression) == [({"pod": "fitserve-1"}, 0.0)])
