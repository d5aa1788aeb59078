"""The checks compute as many rows as a budget of time allows."""

import time
from typing import Any

import numpy as np
import pytest

from models.proofs.proof_budget import LEAST_ROWS, RUNS, SECONDS, affordable
from models.sources.samples import LARGEST_BATCH, Samples


class Network:
    """A network that takes some time for each row."""

    name = "onnx"
    device = "cpu"
    cost_varies = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, inputs: Any) -> Any:
        """Return the input after some time."""
        time.sleep(self.seconds * len(inputs["x"]))
        return {"y": inputs["x"]}


def samples(count: int, fixed_batch: int | None = None) -> Samples:
    return Samples({"x": np.zeros((count, 2), np.float32)}, True, fixed_batch)


def test_a_quick_network_computes_every_row() -> None:
    found = affordable(Network(0), samples(64))  # type: ignore[arg-type]
    assert (found.count, found.largest_check) == (64, LARGEST_BATCH)


def test_a_slow_network_computes_the_rows_that_the_time_allows() -> None:
    seconds = SECONDS / RUNS / 20
    found = affordable(Network(seconds), samples(64))  # type: ignore[arg-type]
    assert LEAST_ROWS <= found.count == found.largest_check <= 20


@pytest.mark.parametrize(
    ("given", "fixed", "kept"), [(64, None, LEAST_ROWS), (3, None, 3), (64, 5, 5)]
)
def test_the_fewest_rows_are_computed_whatever_they_take(
    given: int, fixed: int | None, kept: int
) -> None:
    found = affordable(Network(0.2), samples(given, fixed))  # type: ignore[arg-type]
    assert found.count == kept


def test_a_network_that_fails_is_left_to_the_checks() -> None:
    def fails(_: Any) -> Any:
        raise ValueError

    given = samples(64)
    assert affordable(fails, given) is given  # type: ignore[arg-type]
