"""The report of a run: a Markdown table with a row for each attack and neighbour, and JSON."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.neighbours.rounds import AttackResult, Round
from benchmarks.serving.results import Summary, markdown_table, readable

HEADER = (
    "attack",
    "neighbour",
    "p50, ms",
    "p99, ms",
    "longest, ms",
    "p99 ratio",
    "memory, MB",
    "statuses",
)


def render(
    results: Sequence[AttackResult], conditions: Mapping[str, Any], *, shared_cores: bool
) -> str:
    """Return the report as Markdown.

    Args:
        results: of the attacks.
        conditions: the machine, the versions and the settings of the run, by name.
        shared_cores: whether the clients and the server ran on the same cores.
    """
    late = max((round_.late_ms for result in results for round_ in result.rounds), default=0.0)
    cores = (
        "The clients and the server share the cores, so that a part of each wait is the clients' "
        "own use of them."
        if shared_cores
        else "The neighbours, the attacker and the server have cores of their own."
    )
    sections = [
        ", ".join(f"{name} {value}" for name, value in conditions.items()) + ".",
        f"Quiet → attacked; p50, p99 and their ratio are medians of the rounds, longest is that of "
        f"all rounds; memory (RSS) before → peak → after. {cores} The neighbours' own client was "
        f"late by {readable(late)} ms at most.",
        markdown_table(HEADER, [row for result in results for row in _rows(result)]),
        markdown_table(
            ("attack", "sends", "to the model"),
            [(result.attack, result.sends, result.model) for result in results],
        ),
    ]
    failures = [f"- {r.attack}: not measured: {r.failure}" for r in results if r.failure]
    return "\n\n".join([*sections, *(["\n".join(failures)] if failures else [])])


def content(results: Sequence[AttackResult], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results for JSON; a wait of no request is null."""
    attacks = [asdict(result) for result in results]
    for result in attacks:
        for round_ in result["rounds"]:
            for name, value in round_.items():
                if isinstance(value, float) and math.isnan(value):
                    round_[name] = None
    return {"conditions": dict(conditions), "attacks": attacks}


def _rows(result: AttackResult) -> list[Sequence[str]]:
    """Return the rows of one attack; the memory and its own statuses are in the first."""
    rows: list[Sequence[str]] = []
    for neighbour in dict.fromkeys(round_.neighbour for round_ in result.rounds):
        quiet, attacked = (
            [r for r in result.rounds if r.neighbour == neighbour and r.attacked is state]
            for state in (False, True)
        )
        statuses = f"{_counts(quiet)} → {_counts(attacked)}"
        memory = ""
        if not rows:
            statuses += f"; attacker {_joined(result.statuses)}"
            memory = " → ".join(readable(value) for value in result.memory_mb.values())
        rows.append(
            (
                result.attack,
                neighbour,
                f"{_median([r.p50_ms for r in quiet])} → {_median([r.p50_ms for r in attacked])}",
                f"{_median([r.p99_ms for r in quiet])} → {_median([r.p99_ms for r in attacked])}",
                f"{_longest(quiet)} → {_longest(attacked)}",
                _ratio(quiet, attacked),
                memory,
                statuses,
            )
        )
    return rows


def _ratio(quiet: Sequence[Round], attacked: Sequence[Round]) -> str:
    """Return the median, and the range, of the ratios of each attacked round to its quiet one."""
    ratios = [
        attacked_round.p99_ms / quiet_round.p99_ms
        for quiet_round, attacked_round in zip(quiet, attacked, strict=True)
    ]
    measured = [ratio for ratio in ratios if not math.isnan(ratio)]
    if not measured:
        return "none"
    median, lowest, highest = Summary.of(measured)
    if len(measured) == 1:
        return f"{readable(median)} x"
    return f"{readable(median)} x ({readable(lowest)} to {readable(highest)})"


def _median(values: Sequence[float]) -> str:
    measured = [value for value in values if not math.isnan(value)]
    return readable(Summary.of(measured).median) if measured else "none"


def _longest(rounds: Sequence[Round]) -> str:
    measured = [round_.longest_ms for round_ in rounds if not math.isnan(round_.longest_ms)]
    return readable(max(measured)) if measured else "none"


def _counts(rounds: Sequence[Round]) -> str:
    total: Counter[str] = Counter()
    for round_ in rounds:
        total.update(round_.statuses)
    return _joined(total)


def _joined(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in statuses.items()) or "none"
