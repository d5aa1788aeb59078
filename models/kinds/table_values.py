"""Values of a table → the inputs of a network, as pure functions.

A value is a scalar of JSON; null (None) is a missing value. Every value is converted, or refused
with a sentence that names its row, counted from 1, its column, and what is allowed.
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import eq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kinds.dates import date_parts
from models.kinds.table_columns import (
    NAN,
    CategoryColumn,
    DateColumn,
    NumberColumn,
    TableSpec,
    ends_text,
)
from models.kinds.tensor_spec import TensorSpec

SHOWN = 60
"""Characters of a value in a message."""
COMPARED = 200
"""The most categories that are compared with an unknown one, for a message."""
Values = Mapping[str, Sequence[Any]]
"""The values of each column by its name; as many of each."""


class TableError(ValueError):
    """Rows that do not fit a table. The message is one sentence."""


def table_inputs(
    table: TableSpec, values: Values, inputs: Sequence[TensorSpec]
) -> dict[str, NDArray[Any]]:
    """Return the inputs of rows.

    Args:
        table: whose columns fill the inputs (`TableSpec.mismatch`).
        values: of each column; every column must be there, and no other.
        inputs: the specifications of the inputs, with the rows first.

    Returns:
        Arrays in the datatypes of the inputs, [rows, places].

    Raises:
        TableError: a column is unknown or absent, or a value is not allowed.
    """
    require_columns(table, values)
    if len({len(one) for one in values.values()}) > 1:
        raise TableError("The columns have different numbers of rows.")
    return {
        spec.name: _input(spec, [(one, values[one.name]) for one in table.by_input[spec.name]])
        for spec in inputs
    }


def require_columns(table: TableSpec, given: Mapping[Any, Any], place: str = "") -> None:
    """Check that the names are those of all columns.

    Args:
        table: the columns.
        given: a value for each name.
        place: of the names, for the message, as ` of row 3`.

    Raises:
        TableError: a column is unknown or absent.
    """
    names = table.by_name
    if unknown := [name for name in given if name not in names]:
        near = difflib.get_close_matches(str(unknown[0])[:SHOWN], list(names)[:COMPARED], n=1)
        hint = f"the nearest is {near[0]!r}" if near else f"the columns are {listed_columns(names)}"
        raise TableError(f"The column {shown_value(unknown[0])}{place} is unknown; {hint}.")
    if missing := [name for name in names if name not in given]:
        raise TableError(
            f"The column {missing[0]!r}{place} is absent; send null if its value is not known."
            if names[missing[0]].missing is not None
            else f"The column {missing[0]!r}{place} is absent."
        )


def _input(
    spec: TensorSpec,
    columns: Sequence[tuple[NumberColumn | CategoryColumn | DateColumn, Sequence[Any]]],
) -> NDArray[Any]:
    """Return one input, of its columns and their values."""
    arrays = [_places(column, values, spec.dtype) for column, values in columns]
    whole = np.concatenate(arrays, axis=1) if len(arrays) > 1 else arrays[0]
    return whole.reshape(len(whole), *spec.shape[1:])


def _places(
    column: NumberColumn | CategoryColumn | DateColumn, values: Sequence[Any], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the places of a column in its input, [rows, width], in the datatype of the input."""
    present = values
    absent = [at for at, value in enumerate(values) if value is None]
    if absent:
        if column.missing is None:
            raise _refused(column, absent[0], None, "is missing, and must be sent")
        present = [value for value in values if value is not None]
    rows = _Rows(column, values)
    if isinstance(column, NumberColumn):
        found = _numbers(column, present, rows, dtype)
    elif isinstance(column, CategoryColumn):
        found = _codes(column, present, rows, dtype)
    else:
        found = _dates(column, present, rows, dtype)
    if not absent:
        return found
    places = np.empty((len(values), column.width), dtype)
    is_nan = column.missing == NAN and dtype.kind == "f"
    places[absent] = np.nan if is_nan else column.missing
    places[[at for at, value in enumerate(values) if value is not None]] = found
    return places


class _Rows:
    """The values of a column, to name the row of one that is refused."""

    def __init__(
        self, column: NumberColumn | CategoryColumn | DateColumn, values: Sequence[Any]
    ) -> None:
        self._column = column
        self._values = values

    def refused(self, is_bad: Callable[[Any], bool], reason: str) -> TableError:
        """Return the error for the first present value that is bad."""
        at, value = next(
            (at, value)
            for at, value in enumerate(self._values)
            if value is not None and is_bad(value)
        )
        return _refused(self._column, at, value, reason)


def _numbers(
    column: NumberColumn, values: Sequence[Any], rows: _Rows, dtype: np.dtype[Any]
) -> NDArray[Any]:
    kinds = {*map(type, values)}
    boolean = column.type == "boolean"
    if boolean:
        if not kinds <= {bool, int, float} or not {*values} <= {0, 1}:
            raise rows.refused(
                lambda one: type(one) not in (bool, int, float) or one not in (0, 1),
                "is neither true nor false",
            )
        return np.array(values, dtype).reshape(-1, 1)
    if not kinds <= {int, float}:
        raise rows.refused(
            lambda one: type(one) not in (int, float), f"is no {_kind(column)}{_range(column)}"
        )
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        raise rows.refused(_overflows, f"is too large{_range(column)}") from None
    if not np.isfinite(numbers).all():
        raise rows.refused(lambda one: not np.isfinite(one), f"is no {_kind(column)}")
    if column.type == "integer" and (numbers != np.floor(numbers)).any():
        raise rows.refused(lambda one: one != int(one), f"is no whole number{_range(column)}")
    low = -np.inf if column.minimum is None else column.minimum
    high = np.inf if column.maximum is None else column.maximum
    if numbers.size and (numbers.min() < low or numbers.max() > high):
        raise rows.refused(
            lambda one: not low <= one <= high, f"is outside of its range{_range(column)}"
        )
    return _converted(numbers, values, rows, dtype).reshape(-1, 1)


def _converted(
    numbers: NDArray[np.float64], values: Sequence[Any], rows: _Rows, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return numbers in the datatype of the input; whole numbers keep all their digits."""
    reason = "is larger than the network takes"
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if numbers.size and not limits.min <= min(values) <= max(values) <= limits.max:
            raise rows.refused(lambda one: not limits.min <= one <= limits.max, reason)
        return np.array([int(one) for one in values], dtype)
    with np.errstate(over="ignore"):
        found = numbers.astype(dtype)
        if not np.isfinite(found).all():
            raise rows.refused(lambda one: not np.isfinite(dtype.type(one)), reason)
    return found


def _codes(
    column: CategoryColumn, values: Sequence[Any], rows: _Rows, dtype: np.dtype[Any]
) -> NDArray[Any]:
    kinds = {*map(type, values)}
    if not kinds <= {str, int, float, bool}:
        raise rows.refused(
            lambda one: type(one) not in (str, int, float, bool), "is no text or number"
        )
    texts = values if kinds <= {str} else [category_text(value) for value in values]
    codes = column.codes
    found: list[Any] = [codes.get(text) for text in texts]
    if None in found:
        if column.unknown is None:
            at = found.index(None)
            raise rows.refused(
                lambda one: category_text(one) == texts[at], _unknown(column, texts[at])
            )
        unknown = column.unknown
        if unknown == "keep":
            for text in texts:
                _require_utf8(text, rows)
            found = list(texts)
        else:
            found = [unknown if code is None else code for code in found]
    places = np.empty(len(found), dtype)
    places[:] = found
    return places.reshape(-1, 1)


def category_text(value: str | int | float | bool) -> str:
    """Return a value as the text of a category, as JSON writes it: whole floats without `.0`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    try:
        return repr(value)
    except ValueError:  # of an int with thousands of digits
        return "a number of thousands of digits"


def _dates(
    column: DateColumn, values: Sequence[Any], rows: _Rows, dtype: np.dtype[Any]
) -> NDArray[Any]:
    if not {*map(type, values)} <= {str}:
        form = "2013-05-01" if column.type == "date" else "2013-05-01T17:30:00"
        raise rows.refused(
            lambda one: type(one) is not str, f"is no text with a {column.type} such as {form!r}"
        )
    moments: dict[str, datetime] = {}  # days are often repeated
    for value in dict.fromkeys(values):
        try:
            moments[value] = column.moment(value)
        except ValueError as error:
            raise rows.refused(partial(eq, value), str(error)) from None
    low, high = column.bounds
    if moments and not low <= min(moments.values()) <= max(moments.values()) <= high:
        allowed = ends_text(column.minimum, column.maximum)
        raise rows.refused(
            lambda one: not low <= moments[one] <= high,
            f"is outside of its range; it must be {allowed}",
        )
    distinct = np.array(list(moments.values()), "datetime64[us]")
    parts = date_parts(distinct, column.parts, column.origin)
    places = dict(zip(moments, range(len(moments)), strict=True))
    with np.errstate(over="ignore"):
        return parts.astype(dtype)[[places[value] for value in values]]


def _refused(
    column: NumberColumn | CategoryColumn | DateColumn, at: int, value: Any, reason: str
) -> TableError:
    if value is None:
        return TableError(f"The value of column {column.name!r} in row {at + 1} {reason}.")
    return TableError(
        f"The value {shown_value(value)} of column {column.name!r} in row {at + 1} {reason}."
    )


def _unknown(column: CategoryColumn, text: str) -> str:
    known = column.categories
    if len(known) <= 10:
        return f"is none of its categories, {', '.join(map(repr, known))}"
    folded = {one.lower(): one for one in known[:COMPARED]}
    near = difflib.get_close_matches(text[:SHOWN].lower(), folded, n=3, cutoff=0.4)
    listed = [folded[one] for one in near] or known[:3]
    kind = "the nearest" if near else "the first"
    return f"is none of its {len(known)} categories; {kind} are {', '.join(map(repr, listed))}"


def _require_utf8(text: str, rows: _Rows) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise rows.refused(lambda one: one == text, "has no form in UTF-8") from None


def _overflows(value: int | float) -> bool:
    try:
        float(value)
    except OverflowError:
        return True
    return False


def _kind(column: NumberColumn) -> str:
    return "whole number" if column.type == "integer" else "number"


def _range(column: NumberColumn) -> str:
    """Return the range and the unit as the end of a sentence."""
    if column.minimum is None and column.maximum is None:
        return f", in {column.unit}" if column.unit else ""
    unit = f" {column.unit}" if column.unit else ""
    low, high = (None if end is None else f"{end:.15g}" for end in (column.minimum, column.maximum))
    return f"; it must be {ends_text(low, high)}{unit}"


def listed_columns(names: Mapping[str, Any]) -> str:
    """Return the first names as text."""
    shown = [repr(name) for name in list(names)[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def shown_value(value: Any) -> str:
    """Return a value as JSON writes it, cut."""
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = f"({type(value).__name__})"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
