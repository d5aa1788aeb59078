"""A network for rows of a table: numbers, categories, dates and missing values."""

from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fitserve

COLUMNS: list[dict[str, Any]] = [
    {
        "name": "carrier", "type": "category", "input": "codes", "categories": ["AA", "UA"],
        "unknown": 2, "missing": 3, "meaning": "the airline",
    },
    {"name": "origin", "type": "category", "input": "codes", "categories": ["EWR", "JFK", "LGA"]},
    {
        "name": "distance", "type": "number", "input": "numbers", "unit": "miles", "minimum": 0,
        "maximum": 6000,
    },
    {"name": "dep_time", "type": "integer", "input": "numbers", "missing": "nan"},
    {"name": "late", "type": "boolean", "input": "numbers"},
    {"name": "day", "type": "date", "input": "numbers", "parts": ["month", "weekday"]},
]  # fmt: skip
"""In the order of the inputs `codes` [-1, 2] and `numbers` [-1, 5]."""
ROWS: list[dict[str, Any]] = [
    {
        "day": "2013-01-01", "carrier": "UA", "distance": 1400, "dep_time": 517, "late": False,
        "origin": "JFK",
    },
    {
        "day": "2013-05-04", "carrier": None, "distance": 762.5, "dep_time": None, "late": True,
        "origin": "EWR",
    },
    {
        "day": "2013-12-24", "carrier": "B6", "distance": 0, "dep_time": 2359, "late": False,
        "origin": "LGA",
    },
    {
        "day": "2013-07-07", "carrier": "AA", "distance": 2475, "dep_time": 600, "late": True,
        "origin": "JFK",
    },
]  # fmt: skip


class Flights(nn.Module):
    """A sum whose terms can be told apart: each column has a place of its own among the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.carriers = nn.Embedding.from_pretrained(torch.tensor([[1.0], [2], [3], [4]]))
        self.origins = nn.Embedding.from_pretrained(torch.tensor([[10.0], [20], [30]]))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Return the sum of each row, [N, 1]; -1 stands for a missing number."""
        terms = self.carriers(codes[:, 0]) + self.origins(codes[:, 1])
        known = torch.where(torch.isnan(numbers), torch.full_like(numbers, -1.0), numbers)
        weights = torch.tensor([0.001, 0.01, 100.0, 1000.0, 20000.0])
        return terms + (known * weights).sum(dim=1, keepdim=True)


def expected(row: dict[str, Any]) -> float:
    """Return what `Flights` answers to a row, by its definition."""
    day = date.fromisoformat(row["day"])
    carrier = {"AA": 1, "UA": 2, None: 4}.get(row["carrier"], 3)
    origin = {"EWR": 10, "JFK": 20, "LGA": 30}[row["origin"]]
    departure = -1 if row["dep_time"] is None else row["dep_time"]
    number = 0.001 * row["distance"] + 0.01 * departure + 100 * row["late"]
    return carrier + origin + number + 1000 * day.month + 20000 * day.weekday()


def save_flights(repository: Path) -> Path:
    """Write the package `flights`."""
    return fitserve.save("flights", Flights(), ROWS, table=COLUMNS, repository=repository)
