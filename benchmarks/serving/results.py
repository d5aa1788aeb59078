"""What a run has found: samples, and the figures that are made of them.

A sample belongs to a measure (`throughput`), a subject (`FastAPI`), a case (`16 connections`) and a
round. A figure is the median of a quantity over the rounds, with its spread. One error voids every
figure of its subject and case: a server that fails some requests fast is not a fast server.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Sample:
    """One measurement. The names of quantities end in their units."""

    measure: str
    subject: str
    case: str
    round: int
    quantities: Mapping[str, float]
    errors: Mapping[str, int] = field(default_factory=dict)


class Figure(NamedTuple):
    """The median over the rounds, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The figure of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Results:
    """Everything that a run has found; `failures` says why a subject was not measured."""

    machine: Mapping[str, str]
    settings: Mapping[str, float]
    servers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def figure(self, measure: str, subject: str, case: str, quantity: str) -> Figure | None:
        """The figure of one quantity; None where it was not measured, or is void."""
        found = self._of(measure, subject, case)
        if not found or subject in self.failures or self.errors(measure, subject, case):
            return None
        return Figure.of([sample.quantities[quantity] for sample in found])

    def errors(self, measure: str, subject: str, case: str) -> int:
        """The errors of all rounds."""
        return sum(sum(sample.errors.values()) for sample in self._of(measure, subject, case))

    def subjects(self, measure: str) -> list[str]:
        """The subjects of a measure, in the order in which they came first."""
        return list(dict.fromkeys(s.subject for s in self.samples if s.measure == measure))

    def cases(self, measure: str, subject: str) -> list[str]:
        """The cases of a subject, in the order in which they came first."""
        found = (s for s in self.samples if (s.measure, s.subject) == (measure, subject))
        return list(dict.fromkeys(sample.case for sample in found))

    def summary(self) -> list[dict[str, Any]]:
        """Every figure, with the errors that void it."""
        keys = dict.fromkeys((s.measure, s.subject, s.case) for s in self.samples)
        return [
            {
                "measure": measure,
                "subject": subject,
                "case": case,
                "errors": self.errors(measure, subject, case),
                "figures": {
                    quantity: figure._asdict()
                    for quantity in self._of(measure, subject, case)[0].quantities
                    if (figure := self.figure(measure, subject, case, quantity)) is not None
                },
            }
            for measure, subject, case in keys
        ]

    def content(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "servers": self.servers,
            "failures": self.failures,
            "figures": self.summary(),
            "samples": [asdict(sample) for sample in self.samples],
        }

    def _of(self, measure: str, subject: str, case: str) -> list[Sample]:
        wanted = (measure, subject, case)
        return [s for s in self.samples if (s.measure, s.subject, s.case) == wanted]


def readable(value: float) -> str:
    """A value for people: three digits that count, or all of a larger one."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
