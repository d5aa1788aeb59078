"""The options of `add` that say how outputs are answered in the card's terms."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from models.errors import AddError
from models.kinds.answers import LabelsSpec, NumberSpec
from models.kinds.tensor_spec import TensorSpec


class AnswerOptions(NamedTuple):
    """The answers of a package, as `models add` is told them; None where nothing is said."""

    labels: LabelsSpec | None = None
    number: NumberSpec | None = None

    def misfit(self, outputs: Sequence[TensorSpec]) -> str | None:
        """Return why the answers do not fit the outputs, with what to change; None if they do."""
        if self.labels and not any(spec.labels for spec in outputs):
            return "--top, --threshold and --multi-label need labels: give the classes with --label"
        if self.number and not any(_is_number(spec) for spec in outputs):
            return (
                "--unit, --scale and --offset need an output of floating-point numbers without "
                "labels: leave them out"
            )
        return None

    def of(self, spec: TensorSpec) -> dict[str, Any]:
        """Return the fields of an output that say how it is answered."""
        if spec.labels:
            return {"answer": self.labels} if self.labels else {}
        return {"answer": self.number} if self.number and _is_number(spec) else {}


def _is_number(spec: TensorSpec) -> bool:
    return not spec.labels and spec.dtype.kind == "f"


def add_answer_options(added: argparse.ArgumentParser) -> None:
    """Add the options that say how outputs are answered."""
    added.add_argument(
        "--top", type=int, metavar="K", help="answer the K labels of the best scores"
    )
    added.add_argument(
        "--threshold", type=float, metavar="SCORE", help="leave out labels of a lower score"
    )
    added.add_argument(
        "--multi-label", action="store_true",
        help="a row has any number of labels: those from the threshold on (default 0.5)",
    )  # fmt: skip
    added.add_argument("--unit", metavar="TEXT", help="of an output that is a number, as minutes")
    added.add_argument(
        "--scale", type=float, metavar="FACTOR",
        help="answer output x FACTOR + OFFSET, as for targets that were standardized in training",
    )  # fmt: skip
    added.add_argument("--offset", type=float, metavar="OFFSET", help="see --scale")


def answer_of(options: argparse.Namespace) -> AnswerOptions:
    """Return how outputs are answered.

    Raises:
        AddError: a value is out of its range.
    """
    labels = {"top": options.top, "threshold": options.threshold}
    number = {"unit": options.unit, "scale": options.scale, "offset": options.offset}
    labels = {name: value for name, value in labels.items() if value is not None}
    number = {name: value for name, value in number.items() if value is not None}
    try:
        return AnswerOptions(
            LabelsSpec(**labels, multi_label=options.multi_label)
            if labels or options.multi_label
            else None,
            NumberSpec(**number) if number else None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise AddError(f"--{first['loc'][-1]} is {first['input']!r}: {first['msg']}") from None
