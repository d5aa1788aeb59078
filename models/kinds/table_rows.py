"""Rows of JSON, and fields of CSV, as the values of each column of a table; pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.kinds.table_columns import CategoryColumn, DateColumn, NumberColumn, TableSpec
from models.kinds.table_values import TableError, listed_columns, require_columns, shown_value


def values_of_rows(table: TableSpec, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the values of each column in rows, which are objects, in any order of their names.

    Raises:
        TableError: a row is no object, or its names are not those of the columns.
    """
    names = table.by_name
    for at, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise TableError(
                f"Row {at} must be an object with the columns {listed_columns(names)}, and is "
                f"{shown_value(row)}."
            )
        if row.keys() != names.keys():
            require_columns(table, row, f" of row {at}")
    return {name: [row[name] for row in rows] for name in names}


def values_of_texts(
    column: NumberColumn | CategoryColumn | DateColumn, texts: Sequence[str]
) -> list[Any]:
    """Return fields of a CSV file as the column takes them; an empty field is missing.

    A text that is no value of the column is returned as it is, to be refused with a sentence.
    """
    if not isinstance(column, NumberColumn):
        return [text or None for text in texts]
    if column.type == "boolean":
        return [_BOOLEANS.get(text.lower(), text) for text in texts]
    for number in (int, float):
        try:
            return [number(text) if text else None for text in texts]
        except ValueError:
            continue
    return [_number(text) for text in texts]


_BOOLEANS: Mapping[str, bool | None] = {
    "true": True, "false": False, "1": True, "0": False, "": None,
}  # fmt: skip


def _number(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
