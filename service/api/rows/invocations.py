"""The endpoint of MLflow's scoring server and of Amazon SageMaker: `/invocations`.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html

JSON with `dataframe_split`, `dataframe_records`, `instances` or `inputs`, a JSON list of rows, or
CSV with or without a first line of names, with commas, semicolons or tabs. The answer is JSON with
`predictions`, or CSV for `Accept: text/csv`.
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from models.package.card import ModelCard
from service.api.rows.dialects import (
    PREDICTIONS,
    Dialect,
    Media,
    RowsRequest,
    Written,
    parse,
    to_json,
)
from service.api.rows.predictions import rows_of
from service.api.rows.requests import request_of_columns, request_of_rows
from service.api.rows.tables import require_width, values_of_lines
from service.batching.batch import Arrays
from service.errors import BadInputError
from service.json_body import Body

JSON, CSV = "json", "csv"
_SEPARATORS = ",;\t"
_FIELDS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def _read(card: ModelCard, body: Body, media: Media) -> RowsRequest:
    form = CSV if media.accept == "text/csv" else JSON
    if media.content_type == "text/csv":
        if card.table is not None:
            values = values_of_lines(card.table, _lines(card, body))
            return request_of_columns(card, values, media, form=form)
        return _table(card, *_csv(card, body), media)._replace(form=form)
    content, booleans = parse(body, media)
    if isinstance(content, list):
        return request_of_rows(card, content, media, booleans=booleans, form=form)
    given = [name for name in _FIELDS if name in content] if isinstance(content, dict) else []
    if len(given) != 1:
        raise BadInputError(f"The body must be a JSON object with one of {', '.join(_FIELDS)}.")
    value = content[given[0]]
    if given[0] == "dataframe_split":
        return _split(card, value, media)._replace(form=form)
    if given[0] == "dataframe_records":
        return _records(card, value, media)._replace(form=form)
    read = request_of_columns if isinstance(value, dict) else request_of_rows
    return read(card, value, media, booleans=booleans, form=form)


def _split(card: ModelCard, value: Any, media: Media) -> RowsRequest:
    """Return the request with a data frame as pandas writes it with orient="split"."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise BadInputError(
            "'dataframe_split' must be an object with 'columns' and 'data', a list of rows."
        )
    return _table(card, value.get("columns"), value["data"], media)


def _records(card: ModelCard, value: Any, media: Media) -> RowsRequest:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise BadInputError("'dataframe_records' must be a list of objects, one for each row.")
    if card.table is not None:
        return request_of_rows(card, value, media)
    names = list(value[0])
    if any(row.keys() != value[0].keys() for row in value):
        raise BadInputError("The rows of 'dataframe_records' have different columns.")
    return _table(card, names, [[row[name] for name in names] for row in value], media)


def _table(card: ModelCard, names: Any, rows: Sequence[Any], media: Media) -> RowsRequest:
    """Return the request with a table: a column for each input, one input of all, or texts."""
    if card.table is not None:
        names = list(card.table.by_name) if names is None else names
    elif len(card.inputs) == 1 and names != [card.inputs[0].name]:
        return request_of_rows(card, list(rows), media)
    if not isinstance(names, list):
        wanted = ", ".join(card.table.by_name if card.table else (one.name for one in card.inputs))
        raise BadInputError(f"The columns have no names; the model takes {wanted}.")
    require_width(names, rows)
    columns = {str(name): [row[at] for row in rows] for at, name in enumerate(names)}
    return request_of_columns(card, columns, media)


def _csv(card: ModelCard, body: Body) -> tuple[list[str] | None, list[list[Any]]]:
    """Return the names in the first line, if it has names, and the rows.

    For a model that takes text, the first line has names if they are those of its inputs.

    Raises:
        BadInputError: the body is no CSV, or holds text where the model takes a number.
    """
    lines = _lines(card, body)
    texts = {spec.name for spec in card.inputs if spec.datatype == "BYTES"}
    inputs, names = {spec.name for spec in card.inputs}, None
    if lines and ({*lines[0]} == inputs if texts else not all(map(_is_number, lines[0]))):
        names, *lines = lines
    if texts == inputs:
        return names, lines
    columns = {at for at, name in enumerate(names or ()) if name in texts}
    try:
        return names, [
            [one if at in columns else _number(one) for at, one in enumerate(line)]
            for line in lines
        ]
    except ValueError as error:
        raise BadInputError(
            f"The CSV holds a value that is no number with a decimal point: {error}."
        ) from error


def _lines(card: ModelCard, body: Body) -> list[list[str]]:
    """Return the fields of each line of CSV, which commas, semicolons or tabs divide.

    Raises:
        BadInputError: the body is no CSV.
    """
    try:
        text = bytes(body).decode()
        separator = _separator(card, text)
        return [line for line in csv.reader(io.StringIO(text), delimiter=separator) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"The body is no CSV in UTF-8: {error}.") from error


def _separator(card: ModelCard, text: str) -> str:
    """Return what divides the first line into as many fields as a row has; else the comma."""
    if card.table is not None:
        width = len(card.table.by_name)
    elif len(card.inputs) > 1:
        width = len(card.inputs)
    else:
        sizes = card.inputs[0].row_shape
        width = 1 if -1 in sizes else math.prod(sizes)
    for separator in _SEPARATORS if width > 1 else "":
        if len(next(csv.reader(io.StringIO(text), delimiter=separator), ())) == width:
            return separator
    return ","


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write(card: ModelCard, request: RowsRequest, outputs: Arrays) -> Written:
    rows = rows_of(card, outputs, request.tokens)
    written = to_json(card, request, outputs, {"predictions": rows})
    if request.form == JSON:
        return written
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for at in range(len(rows)):
        lines.writerow(
            value for spec in card.outputs for value in outputs[spec.name][at].ravel().tolist()
        )
    return Written(text.getvalue().encode(), b"text/csv; charset=utf-8")


DIALECT = Dialect(
    name="invocations",
    endpoint="/invocations",
    summary="A prediction of the default model, as MLflow's and SageMaker's servers answer.",
    read=_read,
    write=_write,
    response=PREDICTIONS,
)
