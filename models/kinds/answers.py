"""How an output becomes an answer in the card's terms: its labels, or a number with its unit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
MULTI_LABEL_THRESHOLD = 0.5
"""The default of networks with several labels for a row."""


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class LabelsSpec:
    """Which labels of an output are answered.

    Attributes:
        top: the largest number of labels with scores; None for all of a few, or the best of many.
        threshold: labels with a lower score are left out.
        multi_label: a row has any number of labels: those with a score of the threshold or more.
    """

    top: int | None = Field(default=None, ge=1)
    threshold: float | None = None
    multi_label: bool = False

    @property
    def least(self) -> float | None:
        """The lowest score of a label that is answered; None for any."""
        if self.threshold is None and self.multi_label:
            return MULTI_LABEL_THRESHOLD
        return self.threshold

    def to_text(self) -> str:
        """Return the choice in words, as `several labels, top 5, from a score of 0.5`."""
        parts = ["several labels"] if self.multi_label else []
        parts += [] if self.top is None else [f"top {self.top}"]
        parts += [] if self.least is None else [f"from a score of {self.least:g}"]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True, config=_STRICT)
class NumberSpec:
    """How a number is answered: `output * scale + offset`, in a unit.

    Attributes:
        unit: as `minutes`; "" for none.
        scale: the deviation by which the targets were divided in training.
        offset: the mean that was subtracted from them.
    """

    unit: str = Field(default="", max_length=100)
    scale: float = 1.0
    offset: float = 0.0

    def values(self, output: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of an output, in its precision unless they are too large for it."""
        if (self.scale, self.offset) == (1, 0):
            return output
        exact = output.astype(np.float64) * self.scale + self.offset
        with np.errstate(over="ignore"):
            rounded = exact.astype(output.dtype)
        return rounded if np.isfinite(rounded).all() else exact

    def to_text(self) -> str:
        """Return the conversion in words, as `output x 12.5 + 40, in minutes`."""
        scaled = (self.scale, self.offset) != (1, 0)
        parts = [f"output x {self.scale:g} + {self.offset:g}"] if scaled else []
        parts += [f"in {self.unit}"] if self.unit else []
        return ", ".join(parts)
