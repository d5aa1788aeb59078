"""The report says what the samples say: medians, spreads, voids and verdicts."""

import json
from pathlib import Path

import pytest

from benchmarks.serving.report import BEGIN, END, render, replace_tables, write
from benchmarks.serving.results import Results, Sample
from benchmarks.serving.servers import BARE, FASTAPI, LITSERVE, MLSERVER, OURS, RAY_SERVE
from benchmarks.serving.targets import Verdict, judge

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
    """Samples of one case; the latencies are a thousandth of the rates."""
    names = {"ours": OURS, "bare": BARE, "fastapi": FASTAPI, "litserve": LITSERVE}
    names |= {"mlserver": MLSERVER, "ray": RAY_SERVE}
    found = Results(MACHINE, {"rounds": 3, "seconds": 5})
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
            found.samples.append(Sample("throughput", names[key].name, CASE, number, quantities))
    return found


def verdict(found: Results, what: str) -> Verdict:
    return next(v for v in judge(found) if v.what == f"{what}, {CASE}")


BEST_OF_FOUR = "requests/s, V2 JSON / best of four"


def test_a_figure_is_the_median_with_its_spread() -> None:
    figure = results(ours=[30.0, 10.0, 20.0]).figure(
        "throughput", OURS.name, CASE, "requests_per_second"
    )
    assert figure == (20, 10, 30)


def test_one_error_in_one_round_voids_the_row() -> None:
    found = results(ours=[10.0, 20.0, 30.0])
    failed = Sample("throughput", OURS.name, CASE, 3, {"requests_per_second": 9e9}, {"status": 1})
    found.samples.append(failed)
    assert found.figure("throughput", OURS.name, CASE, "requests_per_second") is None
    assert f"| {OURS.name} | void: 1 errors |" in render(found)
    assert "9,000,000,000" not in render(found)


def test_an_error_leaves_the_other_cases_alone() -> None:
    found = results(ours=[10.0])
    found.samples.append(
        Sample("throughput", OURS.name, "1 connection", 0, {"p50_ms": 1.0}, {"read": 1})
    )
    assert found.figure("throughput", OURS.name, CASE, "requests_per_second") == (10, 10, 10)


def test_the_best_of_the_peers_is_what_counts() -> None:
    found = results(ours=[100.0], fastapi=[10.0], litserve=[25.0], mlserver=[20.0], ray=[1.0])
    judged = verdict(found, BEST_OF_FOUR)
    assert (judged.value, judged.against, judged.met) == (4, LITSERVE.name, False)


@pytest.mark.parametrize(("ours", "met"), [(50.0, True), (49.0, False)])
def test_a_target_is_met_from_its_bound_on(ours: float, met: bool) -> None:
    found = results(ours=[ours], fastapi=[10.0], litserve=[1.0], mlserver=[1.0], ray=[1.0])
    assert verdict(found, BEST_OF_FOUR).met is met


def test_of_latencies_the_least_is_the_best() -> None:
    judged = verdict(
        results(ours=[20.0], fastapi=[10.0], litserve=[40.0]), "p99, V2 JSON / best peer"
    )
    assert (judged.value, judged.met) == (2, False)
    assert judged.against.startswith(FASTAPI.name)


def test_a_peer_that_was_not_measured_is_named() -> None:
    found = results(ours=[100.0], fastapi=[10.0], mlserver=[1.0], ray=[1.0])
    assert verdict(found, BEST_OF_FOUR).against == "FastAPI; without LitServe"


def test_without_a_figure_there_is_no_verdict() -> None:
    found = results(ours=[100.0])
    assert verdict(found, BEST_OF_FOUR).met is None
    assert "| not measured |" in render(found)


def test_a_server_that_answers_wrongly_is_void_with_its_reason() -> None:
    found = results(ours=[100.0], fastapi=[10.0])
    found.failures[FASTAPI.name] = "FastAPI differs from the network by 0.5"
    page = render(found)
    assert f"| {FASTAPI.name} | void: no right answer |" in page
    assert "FastAPI differs from the network by 0.5" in page
    assert verdict(found, BEST_OF_FOUR).met is None


def test_the_soak_tells_of_each_server_and_judges_ours_alone() -> None:
    found = Results(MACHINE, {"rounds": 1, "seconds": 5})
    for row, case, worst in ((OURS, "300 s", 2.5), (BARE, "60 s", 8.0)):
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
        found.samples.append(Sample("soak", row.name, case, 0, quantities))
    page = render(found)
    assert f"| {OURS.name} | 300 s | 700 | 690 | 2 | 5 | 61 | 2 | 2.5 | 0.3 | 0 |" in page
    assert f"| {BARE.name} | 60 s | 700 | 690 | 2 | 5 | 61 | 2 | 8 | 0.3 | 0 |" in page
    assert "870 MB after the first minute, and within 0.5% from then on" in page
    judged = {verdict.what: verdict.met for verdict in judge(found)}
    assert judged["soak of 300 s, p99 / p50 in the worst window"]
    assert not judged["soak of 300 s, requests answered / asked for"]


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write(results(ours=[10.0, 20.0], bare=[40.0, 40.0]), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("above")
    assert page.endswith("below\n")
    assert "old" not in page
    assert f"| {OURS.name} | 15 (10 to 20) |" in page
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["samples"]) == 4
    limit = next(t for t in content["targets"] if "bare uvicorn" in t["what"])
    assert (limit["value"], limit["target"], limit["met"]) == (15 / 40, "≥ 0.55 x", False)
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="must hold the lines"):
        replace_tables("a page", "tables")
