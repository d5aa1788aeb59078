"""The results of a run: samples and their summaries.

A sample belongs to a scenario (`throughput`), a subject (`FastAPI`), a case (`16 connections`) and
a round. A summary is the median of a quantity over the rounds, with its range. A single error voids
every summary of its subject and case, because a failed request takes less time than an inference.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Sample:
    """One measurement. The name of a quantity ends in its unit."""

    scenario: str
    subject: str
    case: str
    round: int
    quantities: Mapping[str, float]
    errors: Mapping[str, int] = field(default_factory=dict)


class Summary(NamedTuple):
    """The median over the rounds, the lowest and the highest value."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Return the summary of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """All results of a run. `failures` has the reasons why subjects were not measured."""

    machine: Mapping[str, str]
    settings: Mapping[str, float]
    servers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def summary(self, scenario: str, subject: str, case: str, quantity: str) -> Summary | None:
        """Return the summary of a quantity, or None if it is void or was not measured."""
        samples = self._of(scenario, subject, case)
        if not samples or subject in self.failures or self.errors(scenario, subject, case):
            return None
        return Summary.of([sample.quantities[quantity] for sample in samples])

    def errors(self, scenario: str, subject: str, case: str) -> int:
        """Return the number of errors in all rounds."""
        return sum(sum(sample.errors.values()) for sample in self._of(scenario, subject, case))

    def subjects(self, scenario: str) -> list[str]:
        """Return the subjects of a scenario, in the order of their first sample."""
        return list(dict.fromkeys(s.subject for s in self.samples if s.scenario == scenario))

    def cases(self, scenario: str, subject: str) -> list[str]:
        """Return the cases of a subject, in the order of their first sample."""
        samples = (s for s in self.samples if (s.scenario, s.subject) == (scenario, subject))
        return list(dict.fromkeys(sample.case for sample in samples))

    def summaries(self) -> list[dict[str, Any]]:
        """Return all summaries, with the errors that void them."""
        keys = dict.fromkeys((s.scenario, s.subject, s.case) for s in self.samples)
        return [
            {
                "scenario": scenario,
                "subject": subject,
                "case": case,
                "errors": self.errors(scenario, subject, case),
                "quantities": {
                    quantity: summary._asdict()
                    for quantity in self._of(scenario, subject, case)[0].quantities
                    if (summary := self.summary(scenario, subject, case, quantity)) is not None
                },
            }
            for scenario, subject, case in keys
        ]

    def content(self) -> dict[str, Any]:
        """Return all results, for JSON."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "servers": self.servers,
            "failures": self.failures,
            "summaries": self.summaries(),
            "samples": [asdict(sample) for sample in self.samples],
        }

    def _of(self, scenario: str, subject: str, case: str) -> list[Sample]:
        key = (scenario, subject, case)
        return [s for s in self.samples if (s.scenario, s.subject, s.case) == key]


def readable(value: float) -> str:
    """Format a value with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; a `|` inside a cell becomes `/`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
