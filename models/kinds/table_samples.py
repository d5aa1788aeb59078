"""Rows of a table for the checks of `add`: random ones, and ones whose values are missing."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from models.kinds.table_columns import CategoryColumn, DateColumn, NumberColumn, TableSpec

ROWS = 64
UNKNOWN = "a category that is not known"
"""The text of an unknown category in the checks."""
FIRST, LAST = datetime(2000, 1, 1), datetime(2029, 12, 31)
"""The dates of a column without a range."""


def random_values(table: TableSpec, count: int = ROWS) -> dict[str, list[Any]]:
    """Return `count` random values of each column, the same on every call; none is missing.

    Numbers are within their range, or else have a standard normal distribution, rounded to
    sixteenths; whole numbers without a range are 0 to 9.
    """
    random = np.random.default_rng(0)
    return {column.name: _values(column, random, count) for column in table.columns}


def with_unusual(table: TableSpec, values: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the values, and a further row for each value that may be missing or unknown."""
    extended = {name: list(one) for name, one in values.items()}
    for column in table.columns:
        unusual: list[Any] = [] if column.missing is None else [None]
        if isinstance(column, CategoryColumn) and column.unknown is not None:
            unusual.append(UNKNOWN)
        for value in unusual:
            for name, one in extended.items():
                one.append(value if name == column.name else values[name][0])
    return extended


def _values(
    column: NumberColumn | CategoryColumn | DateColumn, random: np.random.Generator, count: int
) -> list[Any]:
    if isinstance(column, CategoryColumn):
        known = column.categories or (UNKNOWN,)
        return [known[at] for at in random.integers(0, len(known), count)]
    if isinstance(column, DateColumn):
        return _moments(column, random, count)
    if column.type == "boolean":
        return [bool(one) for one in random.integers(0, 2, count)]
    low, high = column.minimum, column.maximum
    if low is None and high is None:
        if column.type == "integer":
            return [int(one) for one in random.integers(0, 10, count)]
        return [float(one) for one in np.round(random.normal(size=count) * 16) / 16]
    low = (high or 0.0) - 255 if low is None else low
    high = low + 255 if high is None else high
    share = random.uniform(size=count)
    numbers = low * (1 - share) + high * share
    if column.type == "integer":
        return [int(one) for one in np.clip(np.round(numbers), np.ceil(low), np.floor(high))]
    return [float(one) for one in np.clip(numbers, low, high)]


def _moments(column: DateColumn, random: np.random.Generator, count: int) -> list[Any]:
    low, high = column.bounds
    low = low if column.minimum else min(FIRST, high)
    high = high if column.maximum else max(LAST, low)
    unit = timedelta(days=1) if column.type == "date" else timedelta(seconds=1)
    steps = random.integers(0, (high - low) // unit, count, endpoint=True)
    moments = [low + int(step) * unit for step in steps]
    return [
        f"{one:%Y-%m-%d}" if column.type == "date" else one.isoformat(sep="T") for one in moments
    ]
