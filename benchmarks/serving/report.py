"""The report of a run: `results.json`, the tables in `README.md`, and `serving.png`."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.serving.results import Results, Summary, markdown_table, readable
from benchmarks.serving.scenarios import (
    CONNECTIONS,
    IN_PROCESS_BATCHES,
    LARGE,
    LARGE_BATCH,
    RUNTIMES,
    connections,
)
from benchmarks.serving.servers import OURS
from benchmarks.serving.targets import TargetResult, check_targets

BEGIN, END = "<!-- begin of the tables that `make bench` writes -->", "<!-- end of the tables -->"
# Dark for 16 connections, light for 64.
OUR_COLOURS = ("#08519c", "#6baed6")
LIMIT_COLOURS = ("#525252", "#a6a6a6")
PEER_COLOURS = ("#b35806", "#fdb863")


def write(results: Results, folder: Path) -> list[Path]:
    """Write the report to `folder`, with the tables between the markers of its README."""
    target_results = check_targets(results)
    content = results.content()
    content["targets"] = [
        {
            "name": result.name,
            "target": _bound(result),
            "value": result.value,
            "met": result.met,
            "baseline": result.baseline,
        }
        for result in target_results
    ]
    files = [folder / "results.json", folder / "README.md"]
    files[0].write_text(json.dumps(content, indent=1) + "\n")
    page = files[1].read_text() if files[1].is_file() else f"{BEGIN}\n{END}\n"
    files[1].write_text(replace_tables(page, render(results)))
    if results.subjects("throughput"):
        files.append(folder / "serving.png")
        draw(results, files[2])
    return files


def replace_tables(page: str, tables: str) -> str:
    """Return `page` with `tables` between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def render(results: Results) -> str:
    """Return the tables of the report as Markdown."""
    sections = [_conditions(results), _targets(check_targets(results))]
    ran = {sample.scenario for sample in results.samples}
    for scenario, section in (
        ("throughput", _throughput),
        ("images", _images),
        ("footprint", _footprint),
        ("soak", _soak),
    ):
        if scenario in ran or (scenario == "throughput" and results.failures):
            sections.append(section(results))
    sections.append(_configurations(results))
    return "\n\n".join(sections)


def draw(results: Results, path: Path) -> None:
    """Draw requests/s and p99 of every server, at 16 and 64 connections, as a PNG."""
    cases = [connections(16), connections(64)]
    rate = "requests_per_second"

    def median(subject: str) -> float:
        summary = results.summary("throughput", subject, cases[-1], rate)
        return summary.median if summary else 0.0

    subjects = sorted(results.subjects("throughput"), key=median)
    figure = Figure(figsize=(11, 1.4 + 0.6 * len(subjects)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_yticks(range(len(subjects)), subjects)
    for index, subject in enumerate(subjects):
        for y, colour, case in zip((0.2, -0.2), _colours(subject), cases, strict=True):
            answered = results.summary("throughput", subject, case, rate)
            waited = results.summary("throughput", subject, case, "p99_ms")
            if answered and waited:
                left.barh(index + y, answered.median, height=0.38, color=colour)
                right.plot(waited.median, index + y, "o", color=colour, markersize=7)
                _mark(left, answered, index + y)
                _mark(right, waited, index + y)
    left.set_title("requests a second: more is better", fontsize=10)
    right.set_title("p99 latency in ms, logarithmic: less is better", fontsize=10)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.locator_params(axis="x", nbins=6)
    for axes in (left, right):
        axes.margins(x=0.14, y=0.03)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    rounds = results.settings["rounds"]
    figure.suptitle(
        "One MNIST image a request through mnist-mlp, one worker process unless stated\n"
        f"dark: {cases[0]}, light: {cases[1]}; median, lowest and highest of {rounds:g} "
        f"round{'s' if rounds > 1 else ''}",
        fontsize=11,
    )
    figure.savefig(path)


def _mark(axes: Axes, summary: Summary, y: float) -> None:
    """Draw the range of a summary and the value of its median."""
    error = [[summary.median - summary.lowest], [summary.highest - summary.median]]
    axes.errorbar(summary.median, y, xerr=error, fmt="none", ecolor="#222222", capsize=2)
    text = f"{summary.median:,.0f}" if summary.median >= 100 else f"{summary.median:.1f}"
    axes.annotate(
        text,
        (summary.highest, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _colours(subject: str) -> tuple[str, str]:
    if subject.startswith("fitserve"):
        return OUR_COLOURS
    return LIMIT_COLOURS if subject.startswith(("bare", "minimal")) else PEER_COLOURS


def _median_and_range(summary: Summary | None) -> str:
    """Return `median (lowest to highest)`."""
    if summary is None:
        return "void"
    if summary.lowest == summary.highest:
        return readable(summary.median)
    return f"{readable(summary.median)} ({readable(summary.lowest)} to {readable(summary.highest)})"


def _bound(result: TargetResult) -> str:
    return f"{'≥' if result.at_least else '≤'} {result.bound:g} {result.unit}".strip()


def _conditions(results: Results) -> str:
    m, s = results.machine, results.settings
    shares = [
        f"{label} {statistics.median(values):.2f}, at most {max(values):.2f}"
        for label, quantity in (("wrk", "generator_cores"), ("all else", "other_cores"))
        if (values := [x.quantities[quantity] for x in results.samples if quantity in x.quantities])
    ]
    return (
        f"{m['date']}: {m['processor']}, {m['cores']} cores, {m['memory']}, {m['kernel']}, Python "
        f"{m['python']}; {m['busy']} of the cores busy before. Medians of rounds "
        f"({s['rounds']:g}, {s['seconds']:g} s each), and in brackets the lowest and the highest; "
        "latencies in milliseconds."
        + (
            f" Cores used by other processes than the server: {'; '.join(shares)}."
            if shares
            else ""
        )
    )


def _targets(target_results: Sequence[TargetResult]) -> str:
    names = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        (
            result.name + (f" ({result.baseline})" if result.baseline else ""),
            _bound(result),
            "" if result.value is None else f"{result.value:.3g} {result.unit}".strip(),
            names[result.met],
        )
        for result in target_results
    ]
    return "### The targets\n\n" + markdown_table(["", "target", "found", "met"], rows)


def _throughput(results: Results) -> str:
    sections = ["### One image a request"]
    for count in CONNECTIONS:
        case = connections(count)
        rows = []
        for subject in dict.fromkeys((*results.subjects("throughput"), *results.failures)):
            errors = results.errors("throughput", subject, case)
            quantities = ("requests_per_second", "p50_ms", "p99_ms", "server_cores")
            cells = [
                _median_and_range(results.summary("throughput", subject, case, quantity))
                for quantity in quantities
            ]
            if errors or subject in results.failures:
                reason = f"{errors} errors" if errors else "the reason is below"
                cells = [f"void: {reason}", "", "", ""]
            rows.append((subject, *cells))
        header = [case, "requests/s", "p50", "p99", "cores taken"]
        sections.append(markdown_table(header, rows))
    reasons: dict[str, list[str]] = {}
    for subject, reason in results.failures.items():
        reasons.setdefault(reason.splitlines()[0], []).append(subject)
    failures = [f"- {', '.join(subjects)}: {reason}" for reason, subjects in reasons.items()]
    return "\n\n".join(sections + (["\n".join(failures)] if failures else []))


def _images(results: Results) -> str:
    quantity = "images_per_second"
    rows = [
        (
            subject,
            f"{count} image{'s' if count > 1 else ''}",
            _median_and_range(
                results.summary("images", subject, f"{count} image{'s' * (count > 1)}", quantity)
            ),
            _median_and_range(
                results.summary("images", subject, f"{count} image{'s' * (count > 1)}", "p50_ms")
            ),
        )
        for subject in RUNTIMES.values()
        for count in IN_PROCESS_BATCHES
    ]
    case = f"{LARGE_BATCH} images"
    ours = [
        _median_and_range(results.summary("images", LARGE.name, case, q))
        for q in (quantity, "p50_ms")
    ]
    rows.append((LARGE.name, case, ours[0], ours[1]))
    return "### Many images a request\n\n" + markdown_table(
        ["", "at once", "images/s", "p50"], rows
    )


def _footprint(results: Results) -> str:
    rows = [
        (
            subject,
            *(
                _median_and_range(results.summary("footprint", subject, "one worker", quantity))
                for quantity in ("rss_mb", "pss_mb", "ready_seconds")
            ),
        )
        for subject in results.subjects("footprint")
    ]
    header = ["one worker, seven packages", "RSS, MB", "PSS, MB", "ready after, s"]
    return "### Memory and start\n\n" + markdown_table(header, rows)


def _soak(results: Results) -> str:
    rows = []
    for subject in results.subjects("soak"):
        (case,) = results.cases("soak", subject)
        cells = [
            _median_and_range(results.summary("soak", subject, case, quantity))
            for quantity in (
                "rate_per_second",
                "requests_per_second",
                "p50_ms",
                "p99_ms",
                "longest_ms",
                "median_window_ratio",
                "worst_window_ratio",
                "generator_cores",
            )
        ]
        rows.append((subject, case, *cells, str(results.errors("soak", subject, case))))
    asked = ["for", "requests/s asked for", "answered", "p50", "p99", "longest"]
    ratios = ["p99 / p50, median window", "worst window", "cores of h2load", "errors"]
    (case,) = results.cases("soak", OURS.name)
    memory, memory_range = (
        _median_and_range(results.summary("soak", OURS.name, case, quantity))
        for quantity in ("rss_mb", "rss_spread_percent")
    )
    text = f"The memory (RSS) of {OURS.name}: {memory} MB after the first minute"
    table = markdown_table(["at 70% of its own peak", *asked, *ratios], rows)
    return f"### Soak\n\n{table}\n\n{text}, and within {memory_range}% from then on."


def _configurations(results: Results) -> str:
    rows = [
        (
            name,
            server["configuration"],
            ", ".join(f"{library} {version}" for library, version in server["versions"].items()),
        )
        for name, server in results.servers.items()
    ]
    return "### The servers\n\n" + markdown_table(["", "configuration", "versions"], rows)
