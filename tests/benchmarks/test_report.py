"""Tests of the report: medians, ranges, void rows and target results."""

import json
from pathlib import Path

import pytest

from benchmarks.serving.report import BEGIN, END, render, replace_tables, write
from benchmarks.serving.results import Results, Sample
from benchmarks.serving.servers import (
    BARE_UVICORN,
    FASTAPI,
    LITSERVE,
    MOSEC_8,
    OURS,
    TRITON,
    TRITON_BINARY,
    row_name,
)
from benchmarks.serving.targets import TargetResult, check_targets

MACHINE = {
    "processor": "a processor",
    "cores": "2",
    "memory": "8 GiB",
    "kernel": "Linux",
    "python": "3.11",
    "busy": "0%",
    "date": "2020-01-01",
}
CASE = "16 connections"


def results(**rates: list[float]) -> Results:
    """Return samples of one case. The latencies are a thousandth of the rates."""
    names = {
        "ours": OURS.name,
        "ours_two": row_name(OURS, 2),
        "bare": BARE_UVICORN.name,
        "fastapi": FASTAPI.name,
        "litserve": LITSERVE.name,
        "triton": TRITON.name,
        "triton_binary": TRITON_BINARY.name,
        "mosec_two": row_name(MOSEC_8, 2),
    }
    measured = Results(MACHINE, {"rounds": 3, "seconds": 5})
    for key, values in rates.items():
        for number, rate in enumerate(values):
            quantities = {
                "requests_per_second": rate,
                "p50_ms": rate / 1000,
                "p99_ms": rate / 1000,
                "longest_ms": rate / 1000,
                "generator_cores": 0.1,
                "server_cores": 1.0,
                "other_cores": 0.01,
            }
            measured.samples.append(Sample("throughput", names[key], CASE, number, quantities))
    return measured


def target_result(measured: Results, name: str) -> TargetResult:
    return next(target for target in check_targets(measured) if target.name == f"{name}, {CASE}")


BEST_PEER = "requests/s, JSON / best peer"


def test_a_summary_is_the_median_with_its_range() -> None:
    summary = results(ours=[30.0, 10.0, 20.0]).summary(
        "throughput", OURS.name, CASE, "requests_per_second"
    )
    assert summary == (20, 10, 30)


def test_one_error_in_one_round_voids_the_row() -> None:
    measured = results(ours=[10.0, 20.0, 30.0])
    failed = Sample("throughput", OURS.name, CASE, 3, {"requests_per_second": 9e9}, {"status": 1})
    measured.samples.append(failed)
    assert measured.summary("throughput", OURS.name, CASE, "requests_per_second") is None
    assert f"| {OURS.name} | void: 1 errors |" in render(measured)
    assert "9,000,000,000" not in render(measured)


def test_an_error_does_not_void_other_cases() -> None:
    measured = results(ours=[10.0])
    measured.samples.append(
        Sample("throughput", OURS.name, "1 connection", 0, {"p50_ms": 1.0}, {"read": 1})
    )
    assert measured.summary("throughput", OURS.name, CASE, "requests_per_second") == (10, 10, 10)


def test_a_ratio_uses_the_best_of_the_peers() -> None:
    measured = results(
        ours=[100.0], fastapi=[10.0], triton=[20.0], mosec_two=[25.0], litserve=[1.0]
    )
    result = target_result(measured, BEST_PEER)
    assert (result.value, result.met) == (4, False)
    assert result.baseline.startswith("fitserve, V2 JSON / mosec, batches of 8, 2 workers; without")


def test_a_ratio_uses_the_better_of_one_and_two_workers() -> None:
    measured = results(ours=[40.0], ours_two=[60.0], fastapi=[10.0])
    result = target_result(measured, BEST_PEER)
    assert (result.value, result.met) == (6, True)
    assert result.baseline.startswith("fitserve, V2 JSON, 2 workers / FastAPI")


def test_json_is_not_compared_with_binary_tensors() -> None:
    measured = results(ours=[100.0], triton=[10.0], triton_binary=[50.0])
    assert target_result(measured, BEST_PEER).value == 10


@pytest.mark.parametrize(("ours", "met"), [(50.0, True), (49.0, False)])
def test_a_target_is_met_at_its_bound(ours: float, met: bool) -> None:
    measured = results(ours=[ours], fastapi=[10.0], litserve=[1.0])
    assert target_result(measured, BEST_PEER).met is met


def test_the_best_latency_is_the_lowest() -> None:
    result = target_result(
        results(ours=[20.0], fastapi=[10.0], litserve=[40.0]), "p99, JSON / best peer"
    )
    assert (result.value, result.met) == (2, False)
    assert result.baseline.startswith(f"{OURS.name} / {FASTAPI.name};")


def test_a_peer_that_was_not_measured_is_named() -> None:
    missing = target_result(results(ours=[100.0], fastapi=[10.0]), BEST_PEER).baseline
    assert missing.startswith("fitserve, V2 JSON / FastAPI; without fitserve, V2 JSON, 2 workers, ")
    assert "LitServe" in missing


def test_without_a_summary_there_is_no_target_result() -> None:
    measured = results(ours=[100.0])
    assert target_result(measured, BEST_PEER).met is None
    assert "| not measured |" in render(measured)


def test_a_server_with_wrong_responses_is_void_with_the_reason() -> None:
    measured = results(ours=[100.0], fastapi=[10.0])
    measured.failures[FASTAPI.name] = "FastAPI differs from the network by 0.5"
    page = render(measured)
    assert f"| {FASTAPI.name} | void: the reason is below |" in page
    assert f"- {FASTAPI.name}: FastAPI differs from the network by 0.5" in page
    assert target_result(measured, BEST_PEER).met is None


def test_the_soak_reports_every_server_and_has_targets_for_fitserve_only() -> None:
    measured = Results(MACHINE, {"rounds": 1, "seconds": 5})
    for row, case, worst in ((OURS, "300 s", 2.5), (BARE_UVICORN, "60 s", 8.0)):
        quantities = {
            "rate_per_second": 700.0,
            "requests_per_second": 690.0,
            "kept_rate": 690 / 700,
            "p50_ms": 2.0,
            "p99_ms": 5.0,
            "longest_ms": 61.0,
            "worst_window_ratio": worst,
            "median_window_ratio": 2.0,
            "rss_mb": 870.0,
            "rss_spread_percent": 0.5,
            "generator_cores": 0.3,
        }
        measured.samples.append(Sample("soak", row.name, case, 0, quantities))
    page = render(measured)
    assert f"| {OURS.name} | 300 s | 700 | 690 | 2 | 5 | 61 | 2 | 2.5 | 0.3 | 0 |" in page
    assert f"| {BARE_UVICORN.name} | 60 s | 700 | 690 | 2 | 5 | 61 | 2 | 8 | 0.3 | 0 |" in page
    assert "870 MB after the first minute, and within 0.5% from then on" in page
    met = {result.name: result.met for result in check_targets(measured)}
    assert met["soak of 300 s, p99 / p50 in the worst window"]
    assert not met["soak of 300 s, requests answered / asked for"]
    assert met["soak of 300 s, p99 / p50 in the median window, of bare uvicorn's"]


def test_the_report_has_tables_results_and_picture(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write(results(ours=[10.0, 20.0], bare=[40.0, 40.0]), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("above")
    assert page.endswith("below\n")
    assert "old" not in page
    assert f"| {OURS.name} | 15 (10 to 20) |" in page
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["samples"]) == 4
    limit = next(t for t in content["targets"] if "bare uvicorn" in t["name"])
    assert (limit["value"], limit["target"], limit["met"]) == (15 / 40, "≥ 0.55 x", False)
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="must hold the lines"):
        replace_tables("a page", "tables")
