"""Files of a table: its columns, rows in its terms, and the arrays that these become.

As a program, it makes arrays of rows for `fitserve`, which imports nothing of `models`:

    python -m models.sources.table_files TABLE.json ARRAYS.npz
"""

import csv
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from models.errors import AddError
from models.kinds.table_columns import TableSpec
from models.kinds.table_rows import values_of_rows, values_of_texts
from models.kinds.table_values import TableError, table_inputs
from models.runtimes.runtime import Arrays
from models.sources.importing import read_file
from models.sources.samples import read_arrays

_TABLE = TypeAdapter(TableSpec)
_MAX_BYTES = 2**28
TABLE_FILE = "table.json"
"""In the folder of an export: {"columns": […], "values": {column: […]}}."""


class GivenTable(NamedTuple):
    """The columns of a table, and rows in its terms.

    Attributes:
        spec: the columns, which may name no input yet.
        values: of each column; None if no rows were given.
        made: the inputs that the export's own steps made of these rows; may be empty.
        answers: what the network itself computed for these rows; may be empty.
        given: whether the rows were given; otherwise they are random, or None.
        whole: the places of the rows without NaN, once the rows are converted.
    """

    spec: TableSpec
    values: dict[str, list[Any]] | None = None
    made: Arrays = MappingProxyType({})
    answers: Arrays = MappingProxyType({})
    given: bool = True
    whole: Sequence[int] = ()


def parse_columns(content: Any, file: str) -> TableSpec:
    """Return a table: a list of columns, or an object with the list as `columns`.

    Raises:
        AddError: the content has another form.
    """
    stated = {"columns": content} if isinstance(content, list) else content
    try:
        return _TABLE.validate_python(stated)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AddError(f"{file}: of the columns, {place or 'the list'}: {first['msg']}") from None


def read_table(columns: Path, rows: Path | None, answers: Path | None = None) -> GivenTable:
    """Return the table in a JSON file, with the rows and their answers in other files.

    Raises:
        AddError: a file cannot be read, or has another form.
    """
    table = parse_columns(_json(columns), columns.name)
    if answers is not None and rows is None:
        raise AddError("--answers is for given rows: give these with --sample")
    return GivenTable(
        table,
        None if rows is None else read_rows(rows, table),
        answers={} if answers is None else read_arrays(answers),
    )


def read_given(folder: Path) -> GivenTable | None:
    """Return the table in the folder of an export, without arrays; None if there is none.

    Raises:
        AddError: its file cannot be read, or has another form.
    """
    file = folder / TABLE_FILE
    if not file.is_file():
        return None
    content = _json(file)
    table = parse_columns(content.get("columns"), TABLE_FILE)
    return GivenTable(table, content.get("values"))


def read_rows(file: Path, table: TableSpec) -> dict[str, list[Any]]:
    """Return the values of each column in a file of rows.

    Args:
        file: CSV with a first line of names, whose empty fields are missing values; or JSON, a list
            of objects.
        table: its columns.

    Raises:
        AddError: the file cannot be read, or a row does not fit the columns.
    """
    try:
        if file.suffix == ".npz":
            raise AddError(f"{file}: with --table, give rows in its terms: a .csv or .json file")
        if file.suffix == ".csv":
            return _csv(file, table)
        content = _json(file)
        if isinstance(content, dict) and "instances" in content:
            content = content["instances"]
        if not isinstance(content, list) or not content:
            raise AddError(f"{file}: it holds no rows: give a list of objects, or a CSV file")
        return values_of_rows(table, content)
    except TableError as error:
        raise AddError(f"{file}: {error}") from error


def arrays_of(table: TableSpec, values: Mapping[str, list[Any]]) -> dict[str, NDArray[Any]]:
    """Return the inputs of rows, for a network that does not state its datatypes.

    Raises:
        AddError: a value does not fit its column.
    """
    try:
        return table_inputs(table, values, table.inputs())
    except TableError as error:
        raise AddError(f"the sample does not fit: {error}") from error


@contextmanager
def as_arrays(table: GivenTable) -> Iterator[Path]:
    """Yield an .npz file with the inputs of the rows.

    Raises:
        AddError: there are no rows, or a value does not fit its column.
    """
    if table.values is None:
        raise AddError("give rows with --sample FILE.csv, or a list of objects in a JSON file")
    spec = table.spec
    if unnamed := [column.name for column in spec.columns if not column.input]:
        raise AddError(
            f'the column {unnamed[0]!r} names no input: give "input" for each column, since the '
            "network is exported with these inputs"
        )
    with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
        file = Path(folder, "rows.npz")
        save_arrays(file, arrays_of(spec, table.values))
        yield file


def save_arrays(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an .npz file; texts as arrays of a fixed length."""
    saved = {
        name: array.astype("U") if array.dtype == object else array
        for name, array in arrays.items()
    }
    np.savez(file, **saved)  # type: ignore[arg-type] # names are no options of savez


def _csv(file: Path, table: TableSpec) -> dict[str, list[Any]]:
    try:
        text = read_file(file, _MAX_BYTES).decode("utf-8-sig")
        names, *rows = [line for line in csv.reader(io.StringIO(text)) if line] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise AddError(f"{file}: it is no CSV in UTF-8 ({error})") from error
    if not rows:
        raise AddError(f"{file}: it holds no rows: give a first line of names, and a line for each")
    if short := [at for at, row in enumerate(rows, start=1) if len(row) != len(names)]:
        raise TableError(f"Row {short[0]} has another number of fields than the first line.")
    columns = table.by_name
    fields = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return {
        name: values_of_texts(columns[name], texts) if name in columns else texts
        for name, texts in fields.items()
    }


def _json(file: Path) -> Any:
    try:
        return json.loads(read_file(file, _MAX_BYTES))
    except ValueError as error:
        raise AddError(f"{file}: it is no JSON: {error}") from error


def main(table: Path, arrays: Path) -> int:
    """Make arrays of the rows in a file like `TABLE_FILE`; return 0, or 1 after an error."""
    try:
        content = _json(table)
        spec = parse_columns(content["columns"], "the table")
        save_arrays(arrays, arrays_of(spec, content["values"]))
    except AddError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
