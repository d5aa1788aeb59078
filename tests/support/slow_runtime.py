"""A slow runtime."""

import time
from collections.abc import Mapping
from typing import Any

from tiny import answer

from models.package.card import RuntimeName


class SlowRuntime:
    """Computes the line after a delay in seconds, and records its batches."""

    def __init__(self, name: RuntimeName, device: str, seconds: float) -> None:
        self.name = name
        self.device = device
        self.batches: list[int] = []
        self._seconds = seconds
        self.cost_varies = False

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the line."""
        self.batches.append(len(inputs["x"]))
        time.sleep(self._seconds)
        return {"y": answer("x", inputs["x"])}
