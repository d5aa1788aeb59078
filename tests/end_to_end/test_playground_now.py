"""The tab Now: charts of the last minute from the metrics, and a burst with its batches."""

import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import AWAY, Visitor, opened
from live_server import TIMED, Server, serving, temporary_home
from playwright.sync_api import Locator, Page, Route, expect
from prometheus_client.parser import text_string_to_metric_families

BURST = 500
NONE = "\N{EN DASH}"  # in place of a value


def metrics(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    text = httpx.get(f"{server.url}/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def value_of(page: Page, title: str) -> Locator:
    """The current value, or values, next to the title of a chart."""
    return page.locator("#charts figure").filter(has_text=title).locator("b")


def test_the_charts_count_predictions_but_not_the_reads_of_the_page(
    visitor: Visitor, server: Server
) -> None:
    page = opened(visitor, server, "now")
    rate = value_of(page, "Requests a second")
    expect(rate).to_have_text("0.0")  # two reads of the metrics
    expect(value_of(page, "Latency").first).to_have_text(NONE)
    page.select_option("#now-network", "curve-tanh")
    body = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}
    with httpx.Client(base_url=server.url) as client:
        deadline = time.monotonic() + 20
        while rate.text_content() in ("0.0", NONE) and time.monotonic() < deadline:
            for _ in range(10):
                client.post("/v2/models/curve-tanh/infer", json=body)
    assert float(rate.text_content() or "") > 5
    expect(value_of(page, "Rows in a batch")).to_have_text("2.0")
    for latency in value_of(page, "Latency").all_text_contents():
        assert 0 < float(latency.removesuffix(" ms")) < 1000
    expect(value_of(page, "Rows that wait")).to_have_text("0")
    for line in page.locator("#charts path.line").all():
        assert "M" in (line.get_attribute("d") or "")
    page.select_option("#now-network", "moons-tanh")
    expect(rate).to_have_text("0.0")
    expect(page.locator("#now-said")).to_be_empty()
    page.get_by_role("button", name="Read the values out").click()
    expect(page.locator("#now-said")).to_contain_text("Requests a second: 0.0")


def test_the_metrics_are_only_read_while_the_tab_is_shown(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "now")
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    expect(value_of(page, "Requests a second")).to_have_text("0.0")
    assert f"{server.url}/metrics" in asked_for
    page.click("#tab-points")
    page.wait_for_timeout(300)
    asked_for.clear()
    page.wait_for_timeout(2_500)
    assert f"{server.url}/metrics" not in asked_for


def test_a_burst_is_served_and_shown_with_its_batches(visitor: Visitor, server: Server) -> None:
    page = opened(visitor, server, "now")
    button = page.locator("#burst")
    expect(button).to_be_enabled()
    names = ("fitserve_batch_requests_sum", "fitserve_batch_requests_count")
    before = [metrics(server, name, model="mnist-cnn") for name in names]
    button.click()
    expect(button).to_be_disabled()
    expect(page.locator("#burst-said")).to_contain_text(f"{BURST} of {BURST} were answered")
    expect(button).to_be_enabled()
    expect(page.locator("#burst-trouble")).to_be_empty()
    after = [metrics(server, name, model="mnist-cnn") for name in names]
    requests, batches = np.subtract(after, before)
    assert requests == BURST
    result = page.locator("#burst-result .bars")
    counts = [int(text.split()[0]) for text in result.locator(".number").all_text_contents()]
    assert sum(counts) == batches
    least = [
        int(text.split()[0]) for text in result.locator("span:nth-child(3n+1)").all_text_contents()
    ]
    assert least[0] == 1
    assert np.dot(counts, least) <= BURST  # each batch has at least the first number of its label


def test_disabled_metrics_are_reported_and_a_burst_works_without_them(
    visitor: Visitor, root: Path, shipped: Path, tmp_path: Path
) -> None:
    visitor.expect("status of 404")
    shutil.copytree(shipped / "curve-tanh", tmp_path / "curve-tanh")
    settings = TIMED | {
        "FITSERVE_MODEL_REPOSITORY": str(tmp_path), "FITSERVE_METRICS": "off"
    }  # fmt: skip
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        page = opened(visitor, server, "now")
        expect(page.locator("#now-trouble")).to_contain_text("switched off")
        expect(page.locator("#charts")).to_be_hidden()
        page.locator("#burst").click()
        expect(page.locator("#burst-said")).to_contain_text(f"{BURST} of {BURST} were answered")
        expect(page.locator("#burst-result")).to_contain_text("not known")
        page.close()  # before the server ends


def test_an_outage_of_the_server_ends_a_burst_with_a_sentence(
    visitor: Visitor, root: Path, shipped: Path, tmp_path: Path
) -> None:
    visitor.expect(AWAY)
    shutil.copytree(shipped / "mnist-cnn", tmp_path / "mnist-cnn")
    settings = TIMED | {"FITSERVE_MODEL_REPOSITORY": str(tmp_path)}
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        page = opened(visitor, server, "now")
        routes: list[Route] = []

        def hold_back(route: Route) -> None:
            routes.append(route)
            if len(routes) <= 100:
                route.continue_()

        page.route("**/infer", hold_back)
        page.locator("#burst").click()
        progress = page.locator("#burst-progress")
        expect(progress).to_have_js_property("value", 100)
        while len(routes) < BURST:
            page.wait_for_timeout(50)
        server.kill()
        server.process.wait(10)
        for route in routes[100:]:
            route.continue_()
        expect(page.locator("#burst-trouble")).to_contain_text("The server went away")
        expect(page.locator("#burst-trouble")).to_contain_text("400 got no answer")
        expect(page.locator("#burst-said")).to_contain_text(f"100 of {BURST} were answered")
        expect(page.locator("#burst")).to_be_enabled()
        expect(progress).to_be_hidden()


# Computations of the page.


def test_the_metrics_format_is_parsed_as_prometheus_defines_it(page: Page) -> None:
    text = 'a_total{path="\\"x\\\\y\\",\\n{}",le="+Inf"} 1.5e3\n# a{b="c"} 7\nplain 2\n\nb{} +Inf\n'
    result = page.evaluate(
        """async (text) => {
            const { parse } = await import("./playground/prometheus.js");
            return parse(text).map(({ name, labels, value }) => [name, labels, String(value)]);
        }""",
        text,
    )
    assert result == [
        ["a_total", {"path": '"x\\y",\n{}', "le": "+Inf"}, "1500"],
        ["plain", {}, "2"],
        ["b", {}, "Infinity"],
    ]


@pytest.mark.parametrize(
    ("later", "share", "expected"),
    [
        ([10, 20, 20], 0.5, 0.1),  # at the end of the first bucket
        ([10, 20, 20], 0.25, 0.05),  # linear inside it
        ([0, 20, 20], 0.5, 0.55),  # inside the second
        ([0, 0, 5], 0.5, 1.0),  # beyond the last bound
        ([0, 0, 0], 0.5, None),
    ],
)
def test_a_quantile_is_that_of_prometheus(
    page: Page, later: list[int], share: float, expected: float | None
) -> None:
    result = page.evaluate(
        """async ([later, share]) => {
            const { between, histogram, parse, quantile } =
                await import("./playground/prometheus.js");
            const look = (counts) => histogram(parse(["0.1", "1.0", "+Inf"]
                .map((le, index) => `h_bucket{m="a",le="${le}"} ${counts[index] + 3 * index}`)
                .join("\\n")), "h");
            return quantile(between(look([0, 0, 0]), look(later)), share);
        }""",
        [later, share],
    )
    assert result == (expected if expected is None else pytest.approx(expected))
