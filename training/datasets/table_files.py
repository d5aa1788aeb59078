"""Files of tables: CSV or Parquet, read in chunks, so that a large table needs little memory."""

import csv
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.errors import EmptyDataError, ParserError
from tqdm import tqdm

from training.datasets.column_types import Column, ColumnType, columns_of
from training.datasets.dataset import DataError

CHUNK_ROWS = 50_000


def read_table(
    path: Path,
    *,
    types: Mapping[str, ColumnType] | None = None,
    leave_out: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Column]:
    """Read a table.

    Args:
        path: a .csv file in UTF-8 with the names in its first line, or a .parquet file. A column
            without a name, as the number of each row, is not read.
        types: stated types of columns, by name. Values that are none of a stated type are missing.
        leave_out: columns that are not read.
        progress: whether to show progress on a terminal.

    Returns:
        The columns by name.

    Raises:
        DataError: the file cannot be read, holds no rows, or a column is of no type.
    """
    stated = dict(types or {})
    names = column_names(path)
    for name in (*stated, *leave_out):
        require_column(name, names)
    wanted = [name for name in names if name not in leave_out]
    while True:
        texts = {name for name, kind in stated.items() if kind == "category"}
        builders = columns_of(_chunks(path, wanted, texts, progress), stated)
        again = [name for name, builder in builders.items() if builder.needs_text]
        columns = {name: builder.column() for name, builder in builders.items()}
        if not again:
            return columns
        # So that the category 007, read as a number in some chunks, stays as it is written.
        stated |= dict.fromkeys(again, "category")


def require_column(name: str, names: Sequence[str]) -> None:
    """Check that a column exists.

    Raises:
        DataError: it does not; the message names the nearest.
    """
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(map(repr, names[:20])) + (" …" if len(names) > 20 else "")
    hint = f"the nearest is {near[0]!r}" if near else f"the columns are {shown}"
    raise DataError(f"there is no column {name!r}; {hint}")


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a file; those without a name are left out.

    Raises:
        DataError: the file cannot be read, holds no table, or two columns have one name.
    """
    try:
        if path.suffix == ".parquet":
            names = list(_parquet(path).schema_arrow.names)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                names, first = next(lines, []), next(lines, [])
            if any(first[len(names) :]):  # pandas would leave these fields out
                raise DataError(f"{path}: its rows have more fields than its first line")
        else:
            raise DataError(f"{path}: a table is a .csv or a .parquet file")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: it is not in UTF-8: save it as CSV in UTF-8") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: it cannot be read as a table ({error})") from error
    names = [str(name) for name in names if name]
    if not names:
        raise DataError(f"{path}: it is empty: give a table with the names in its first line")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns have the name {twice[0]!r}: rename one")
    return names


def _parquet(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed here: pip install pyarrow, or "
            "save the table as CSV"
        ) from None
    return ParquetFile(path)


def _chunks(
    path: Path, names: Sequence[str], texts: set[str], progress: bool
) -> Iterator[pd.DataFrame]:
    """Yield the rows in chunks, and show how much of the file is read."""
    bar: Any = tqdm(
        total=path.stat().st_size, unit="B", unit_scale=True, desc=f"reading {path.name}",
        disable=None if progress else True,
    )  # fmt: skip
    if bar.disable and progress:
        sys.stderr.write(f"reading {path.name}\n")
    rows = 0
    with bar:
        if path.suffix == ".parquet":
            file = _parquet(path)
            for batch in file.iter_batches(CHUNK_ROWS, columns=list(names)):
                rows += len(batch)
                bar.update(int(bar.total * len(batch) / max(1, file.metadata.num_rows)))
                chunk = batch.to_pandas()
                yield chunk.astype({name: "str" for name in texts if chunk[name].dtype != "str"})
        else:
            for chunk in _csv(path, names, texts, bar):
                rows += len(chunk)
                yield chunk
    if not rows:
        raise DataError(f"{path}: it holds no rows, only the names of the columns")


def _csv(path: Path, names: Sequence[str], texts: set[str], bar: Any) -> Iterator[pd.DataFrame]:
    try:
        with path.open("rb") as file, pd.read_csv(
            file, dtype=dict.fromkeys(texts, str), chunksize=CHUNK_ROWS, encoding="utf-8-sig",
            low_memory=False, skipinitialspace=True, index_col=False,
        ) as chunks:  # fmt: skip
            for chunk in chunks:
                bar.update(file.tell() - bar.n)
                yield chunk[list(names)]
    except UnicodeDecodeError:
        raise DataError(f"{path}: it is not in UTF-8: save it as CSV in UTF-8") from None
    except EmptyDataError:
        raise DataError(f"{path}: it is empty") from None
    except ParserError as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise DataError(f"{path}: it cannot be read as CSV ({reason})") from error
