"""Dates and times in ISO 8601, and the numbers that stand for them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Part = Literal[
    "days", "year", "month", "day", "weekday", "yearday", "hour", "minute", "second"
]  # fmt: skip
PARTS: tuple[Part, ...] = get_args(Part)
TIME_PARTS = {"hour", "minute", "second"}
"""The parts that a date does not have."""

_FORM = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_MICROSECONDS = 86_400_000_000
"""Of a day."""


def parse_date(text: str, *, is_date: bool, utc: bool) -> datetime:
    """Return the moment that a text names, without an offset.

    Args:
        text: as 2013-05-01, 2013-05-01T17:30 or 2013-05-01 17:30:00.5+02:00.
        is_date: the time of the day must be midnight, if there is one.
        utc: an offset is taken into account; otherwise there must be none.

    Raises:
        ValueError: the text has another form; the message is the rest of a sentence about it.
    """
    if not _FORM.fullmatch(text):
        form = "2013-05-01" if is_date else "2013-05-01T17:30:00"
        raise ValueError(f"is no {'date' if is_date else 'time'} such as {form}")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            if not utc:
                raise ValueError("has an offset: send the local time without one")
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        if str(error).startswith("has an offset"):
            raise
        raise ValueError("is no date of the calendar") from None
    if is_date and (moment.hour, moment.minute, moment.second, moment.microsecond) != (0, 0, 0, 0):
        raise ValueError("is a time of a day: send the date alone")
    return moment


def date_parts(
    moments: NDArray[np.datetime64], parts: Sequence[Part], origin: np.datetime64
) -> NDArray[np.float64]:
    """Return the numbers [moments, parts] of moments.

    Args:
        moments: datetime64[us].
        parts: the names of the numbers.
        origin: the moment with 0 `days`.
    """
    days, months = moments.astype("datetime64[D]"), moments.astype("datetime64[M]")
    years = moments.astype("datetime64[Y]")
    seconds = (moments - days).astype(np.int64) // 1_000_000
    return np.stack(
        [_part(name, moments - origin, days, months, years, seconds) for name in parts], axis=1
    )


def _part(
    name: Part,
    since: NDArray[np.timedelta64],
    days: NDArray[np.datetime64],
    months: NDArray[np.datetime64],
    years: NDArray[np.datetime64],
    seconds: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return one part of moments.

    Args:
        name: of the part.
        since: the time since the epoch, timedelta64[us].
        days: the moments, datetime64[D].
        months: the same, datetime64[M].
        years: the same, datetime64[Y].
        seconds: of the day.
    """
    found: Any
    match name:
        case "days":
            found = since.astype(np.int64) / _MICROSECONDS
        case "year":
            found = years.astype(np.int64) + 1970
        case "month":
            found = months.astype(np.int64) % 12 + 1
        case "day":
            found = (days - months).astype(np.int64) + 1
        case "weekday":
            found = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
        case "yearday":
            found = (days - years).astype(np.int64) + 1
        case "hour":
            found = seconds // 3600
        case "minute":
            found = seconds // 60 % 60
        case "second":
            found = seconds % 60
    return np.asarray(found, np.float64)
