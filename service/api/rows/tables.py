"""Rows with the columns of a table ↔ the arrays of a model's inputs, as pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.kinds.table_columns import CategoryColumn, DateColumn, NumberColumn, TableSpec
from models.kinds.table_rows import values_of_rows, values_of_texts
from models.kinds.table_values import TableError, Values, table_inputs
from models.package.card import ModelCard
from service.api.rows.instances import require_rows_apart
from service.api.v2.tensors import check_shape
from service.batching.batch import Arrays
from service.errors import BadInputError

_TYPES = {"category": "string", "date": "string", "datetime": "string"}
LONGEST = 100
"""The most categories of a column that the API's description lists."""


def inputs_of_table_rows(card: ModelCard, table: TableSpec, rows: Any) -> Arrays:
    """Return the inputs of a list of rows, which are objects.

    Raises:
        BadInputError: a row does not fit the columns.
    """
    if not isinstance(rows, list) or not rows:
        raise BadInputError("The rows must be a list of one object or more.")
    try:
        return inputs_of_table(card, table, values_of_rows(table, rows))
    except TableError as error:
        raise BadInputError(str(error)) from error


def inputs_of_table(card: ModelCard, table: TableSpec, values: Any) -> Arrays:
    """Return the inputs of the values of each column.

    Raises:
        BadInputError: a column is unknown or absent, or a value is not allowed.
    """
    lists = isinstance(values, Mapping) and all(isinstance(one, list) for one in values.values())
    if not lists or not all(values.values()):
        raise BadInputError("Each column must be a list of one value or more.")
    try:
        arrays = table_inputs(table, values, card.inputs)
    except TableError as error:
        raise BadInputError(str(error)) from error
    for spec in card.inputs:
        check_shape(spec, list(arrays[spec.name].shape))
    require_rows_apart(card, len(next(iter(arrays.values()))))
    return arrays


def values_of_lines(table: TableSpec, lines: Sequence[Sequence[str]]) -> Values:
    """Return the values of each column in the lines of a CSV file.

    Without a line of names, the fields are in the order of the columns of the table.

    Raises:
        BadInputError: a line has another number of fields, or a name stands twice.
    """
    columns = table.by_name
    names: Sequence[str] = list(columns)
    if lines and not columns.keys().isdisjoint(lines[0]):
        names, *lines = lines
    require_width(names, lines)
    fields = [list(texts) for texts in zip(*lines, strict=True)] or [[] for _ in names]
    return {
        name: values_of_texts(columns[name], texts) if name in columns else texts
        for name, texts in zip(names, fields, strict=True)
    }


def require_width(names: Sequence[Any], rows: Sequence[Any]) -> None:
    """Check that each row is a list of a value for each name, and no name stands twice.

    Raises:
        BadInputError: it is not.
    """
    if len({*map(str, names)}) < len(names):
        raise BadInputError("Two columns have one name.")
    for at, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            raise BadInputError(f"Row {at} must have {len(names)} values, one for each column.")


def row_schema(table: TableSpec) -> dict[str, Any]:
    """Return the schema of a row, as OpenAPI describes it."""
    properties = {column.name: _schema(column) for column in table.columns}
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _schema(column: NumberColumn | CategoryColumn | DateColumn) -> dict[str, Any]:
    said = "; ".join(filter(None, (column.meaning, column.to_text())))
    schema: dict[str, Any] = {"type": _TYPES.get(column.type, column.type), "description": said}
    if column.missing is not None:
        schema["nullable"] = True
    if isinstance(column, NumberColumn):
        if column.minimum is not None:
            schema["minimum"] = column.minimum
        if column.maximum is not None:
            schema["maximum"] = column.maximum
    elif isinstance(column, DateColumn):
        if column.type == "date":
            schema["format"] = "date"
    elif column.unknown is None and len(column.categories) <= LONGEST:
        missing = [None] if column.missing is not None else []
        schema["enum"] = [*column.categories, *missing]
    return schema
