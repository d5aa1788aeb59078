"""A runtime that takes its time."""

import time
from collections.abc import Mapping
from typing import Any

from tiny import answer

from models.card import RuntimeName


class Paced:
    """Computes the line, after so many seconds, and notes its batches."""

    def __init__(self, name: RuntimeName, device: str, seconds: float) -> None:
        self.name = name
        self.device = device
        self.batches: list[int] = []
        self._seconds = seconds
        self.steady = True

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the line."""
        self.batches.append(len(inputs["x"]))
        time.sleep(self._seconds)
        return {"y": answer("x", inputs["x"])}
