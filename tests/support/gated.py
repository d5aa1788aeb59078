"""A runtime that a test can hold, and that can fail."""

import threading
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from tiny import answer

from models.package.card import RuntimeName

GUILTY = 13.0


class Gated:
    """Computes the line while its gate is open, records its batches, and may fail."""

    name: RuntimeName = "onnx"
    device = "cpu"
    cost_varies = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the line when the gate is open."""
        self.batches.append(len(inputs["x"]))
        self.entered.set()
        assert self.gate.wait(30)
        if (inputs["x"] == GUILTY).any():
            raise RuntimeError("no model can bear this number")
        return {"y": answer("x", inputs["x"])}
