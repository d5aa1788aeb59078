"""The report of a run: `results.json`, the tables in `README.md`, and `serving.png`."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.serving.measures import (
    CONNECTIONS,
    IN_PROCESS_BATCHES,
    LARGE,
    LARGE_BATCH,
    RUNTIMES,
    connections,
)
from benchmarks.serving.results import Figure, Results, readable
from benchmarks.serving.servers import OURS
from benchmarks.serving.targets import Verdict, judge

BEGIN, END = "<!-- begin of the tables that `make bench` writes -->", "<!-- end of the tables -->"
# dark for 16 connections, light for 64
OUR_COLOURS = ("#08519c", "#6baed6")
LIMIT_COLOURS = ("#525252", "#a6a6a6")
PEER_COLOURS = ("#b35806", "#fdb863")


def write(results: Results, folder: Path) -> list[Path]:
    """Write what was found to `folder`; the tables into its README, where it has the marks."""
    verdicts = judge(results)
    content = results.content()
    content["targets"] = [
        {"what": v.what, "target": _bound(v), "value": v.value, "met": v.met, "against": v.against}
        for v in verdicts
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
    """`page` with what stands between its marks replaced.

    Raises:
        ValueError: it has no marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def render(results: Results) -> str:
    """Every table of the report, as Markdown."""
    sections = [_conditions(results), _targets(judge(results))]
    ran = {sample.measure for sample in results.samples}
    for measure, section in (
        ("throughput", _throughput),
        ("images", _images),
        ("workers", _workers),
        ("footprint", _footprint),
        ("soak", _soak),
    ):
        if measure in ran or (measure == "throughput" and results.failures):
            sections.append(section(results))
    sections.append(_configurations(results))
    return "\n\n".join(sections)


def draw(results: Results, path: Path) -> None:
    """Requests a second and p99 of every server, at 16 and 64 connections, as a PNG."""
    cases = [connections(16), connections(64)]
    rate = "requests_per_second"

    def median(subject: str) -> float:
        figure = results.figure("throughput", subject, cases[-1], rate)
        return figure.median if figure else 0.0

    subjects = sorted(results.subjects("throughput"), key=median)
    canvas = Canvas(figsize=(11, 1.4 + 0.6 * len(subjects)), layout="constrained", dpi=150)
    left, right = canvas.subplots(1, 2, sharey=True)
    left.set_yticks(range(len(subjects)), subjects)
    for place, subject in enumerate(subjects):
        for y, colour, case in zip((0.2, -0.2), _colours(subject), cases, strict=True):
            answered = results.figure("throughput", subject, case, rate)
            waited = results.figure("throughput", subject, case, "p99_ms")
            if answered and waited:
                left.barh(place + y, answered.median, height=0.38, color=colour)
                right.plot(waited.median, place + y, "o", color=colour, markersize=7)
                _mark(left, answered, place + y)
                _mark(right, waited, place + y)
    left.set_title("requests a second: more is better", fontsize=10)
    right.set_title("p99 latency in ms, logarithmic: less is better", fontsize=10)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    left.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (left, right):
        axes.margins(x=0.14, y=0.03)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    rounds = results.settings["rounds"]
    canvas.suptitle(
        "One MNIST image a request through mnist-mlp, one server process\n"
        f"dark: {cases[0]}, light: {cases[1]}; median, least and greatest of {rounds:g} "
        f"round{'s' if rounds > 1 else ''}",
        fontsize=11,
    )
    canvas.savefig(path)


def _mark(axes: Axes, figure: Figure, y: float) -> None:
    """The spread of a figure, and its value beside it."""
    spread = [[figure.median - figure.least], [figure.greatest - figure.median]]
    axes.errorbar(figure.median, y, xerr=spread, fmt="none", ecolor="#222222", capsize=2)
    text = f"{figure.median:,.0f}" if figure.median >= 100 else f"{figure.median:.1f}"
    axes.annotate(
        text,
        (figure.greatest, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _colours(subject: str) -> tuple[str, str]:
    if subject.startswith("fitserve"):
        return OUR_COLOURS
    return LIMIT_COLOURS if subject.startswith("bare") else PEER_COLOURS


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _spread(figure: Figure | None) -> str:
    """`median (least to greatest)`."""
    if figure is None:
        return "void"
    if figure.least == figure.greatest:
        return readable(figure.median)
    return f"{readable(figure.median)} ({readable(figure.least)} to {readable(figure.greatest)})"


def _bound(verdict: Verdict) -> str:
    return f"{'≥' if verdict.at_least else '≤'} {verdict.bound:g} {verdict.unit}".strip()


def _conditions(results: Results) -> str:
    m, s = results.machine, results.settings
    shares = [
        f"{words} {statistics.median(found):.2f}, at most {max(found):.2f}"
        for words, quantity in (("wrk", "generator_cores"), ("all else", "other_cores"))
        if (found := [x.quantities[quantity] for x in results.samples if quantity in x.quantities])
    ]
    return (
        f"{m['date']}: {m['processor']}, {m['cores']} cores, {m['memory']}, {m['kernel']}, Python "
        f"{m['python']}; {m['busy']} of the cores busy before. Medians of rounds "
        f"({s['rounds']:g}, {s['seconds']:g} s each), and in brackets the least and the greatest; "
        "latencies in milliseconds."
        + (f" Cores taken by others than the server: {'; '.join(shares)}." if shares else "")
    )


def _targets(verdicts: Sequence[Verdict]) -> str:
    names = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        (
            verdict.what + (f" ({verdict.against})" if verdict.against else ""),
            _bound(verdict),
            "" if verdict.value is None else f"{verdict.value:.3g} {verdict.unit}".strip(),
            names[verdict.met],
        )
        for verdict in verdicts
    ]
    return "### The targets\n\n" + _table(["", "target", "found", "met"], rows)


def _throughput(results: Results) -> str:
    parts = ["### One image a request"]
    for count in CONNECTIONS:
        case = connections(count)
        rows = []
        for subject in dict.fromkeys((*results.subjects("throughput"), *results.failures)):
            errors = results.errors("throughput", subject, case)
            quantities = ("requests_per_second", "p50_ms", "p99_ms", "server_cores")
            cells = [
                _spread(results.figure("throughput", subject, case, quantity))
                for quantity in quantities
            ]
            if errors or subject in results.failures:
                reason = f"{errors} errors" if errors else "no right answer"
                cells = [f"void: {reason}", "", "", ""]
            rows.append((subject, *cells))
        header = [case, "requests/s", "p50", "p99", "cores taken"]
        parts.append(_table(header, rows))
    failures = [
        f"- {subject}: {reason.splitlines()[0]}" for subject, reason in results.failures.items()
    ]
    return "\n\n".join(parts + (["\n".join(failures)] if failures else []))


def _images(results: Results) -> str:
    quantity = "images_per_second"
    rows = [
        (
            subject,
            f"{count} image{'s' if count > 1 else ''}",
            _spread(
                results.figure("images", subject, f"{count} image{'s' * (count > 1)}", quantity)
            ),
            _spread(
                results.figure("images", subject, f"{count} image{'s' * (count > 1)}", "p50_ms")
            ),
        )
        for subject in RUNTIMES.values()
        for count in IN_PROCESS_BATCHES
    ]
    case = f"{LARGE_BATCH} images"
    ours = [_spread(results.figure("images", LARGE.name, case, q)) for q in (quantity, "p50_ms")]
    rows.append((LARGE.name, case, ours[0], ours[1]))
    return "### Many images a request\n\n" + _table(["", "at once", "images/s", "p50"], rows)


def _workers(results: Results) -> str:
    rows = [
        (
            case,
            *(
                _spread(results.figure("workers", OURS.name, case, quantity))
                for quantity in ("requests_per_second", "p99_ms", "server_cores", "generator_cores")
            ),
        )
        for case in results.cases("workers", OURS.name)
    ]
    header = [OURS.name, "requests/s", "p99", "cores taken", "by wrk"]
    return "### Two workers\n\n" + _table(header, rows)


def _footprint(results: Results) -> str:
    rows = [
        (
            subject,
            *(
                _spread(results.figure("footprint", subject, "one worker", quantity))
                for quantity in ("rss_mb", "pss_mb", "ready_seconds")
            ),
        )
        for subject in results.subjects("footprint")
    ]
    header = ["one worker, seven packages", "RSS, MB", "PSS, MB", "ready after, s"]
    return "### Memory and start\n\n" + _table(header, rows)


def _soak(results: Results) -> str:
    rows = []
    for subject in results.subjects("soak"):
        (case,) = results.cases("soak", subject)
        cells = [
            _spread(results.figure("soak", subject, case, quantity))
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
    ratios = ["p99 / p50 in the middling 10 s", "in the worst", "cores of h2load", "errors"]
    (case,) = results.cases("soak", OURS.name)
    memory, spread = (
        _spread(results.figure("soak", OURS.name, case, quantity))
        for quantity in ("rss_mb", "rss_spread_percent")
    )
    told = f"The memory (RSS) of {OURS.name}: {memory} MB after the first minute"
    table = _table(["at 70% of its own peak", *asked, *ratios], rows)
    return f"### Soak\n\n{table}\n\n{told}, and within {spread}% from then on."


def _configurations(results: Results) -> str:
    rows = [
        (
            name,
            server["configuration"],
            ", ".join(f"{library} {version}" for library, version in server["versions"].items()),
        )
        for name, server in results.servers.items()
    ]
    return "### The servers\n\n" + _table(["", "configuration", "versions"], rows)
