"""Networks for rows of a table: the columns are declared, and the sample is rows in these terms.

The service makes the inputs of a row as declared (`models/kinds/table_columns.py`). The same
conversion runs here, in another process, since this package imports nothing of `models`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fitserve.doors import door_of
from fitserve.exported import Exported, ExportError, Table, environment, reason

ONLY = "only"
"""The name of the only input while the columns name none."""


def export_table(
    network: Any,
    sample: Any,
    columns: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any] | None,
    labels: Sequence[str],
) -> Exported:
    """Return a network for rows of a table as files.

    Args:
        network: of any library; takes arrays by the inputs that the columns name.
        sample: a data frame, a mapping of names to columns, or a list of mappings.
        columns: as `models.kinds.table_columns.TableSpec` describes them, without their classes.
        transform: the training library's own steps, from the sample to arrays or tensors by input,
            or to one; the declared columns must give the same.
        labels: the classes.

    Raises:
        ExportError: a row does not fit the columns, or the network cannot be exported.
    """
    table = Table([dict(column) for column in columns], _values(sample))
    unnamed = [column for column in table.columns if not column.get("input")]
    if unnamed and len(unnamed) < len(table.columns):
        raise ExportError(
            f"the column {unnamed[0].get('name')!r} names no input: give each column its input, or "
            "none if the network has one"
        )
    named = table
    if unnamed:
        named = table._replace(columns=[{**column, "input": ONLY} for column in table.columns])
    arrays = _transformed(transform, sample) if transform else _converted(named)
    if isinstance(arrays, Mapping) and set(arrays) == {ONLY}:
        arrays = arrays[ONLY]
    exported = door_of(network).export(network, [arrays], labels)
    return replace(exported, table=table)


def _transformed(transform: Callable[[Any], Any], sample: Any) -> Any:
    try:
        return transform(sample)
    except Exception as error:
        raise ExportError(f"the transform fails on the sample: {reason(error)}") from error


def _converted(table: Table) -> dict[str, Any]:
    """Return the inputs of the rows, [rows, places] each.

    Raises:
        ExportError: a value does not fit its column.
    """
    with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
        file, arrays = Path(folder, "table.json"), Path(folder, "arrays.npz")
        file.write_text(table.to_json())
        command = [sys.executable, "-P", "-m", "models.sources.table_files", str(file), str(arrays)]
        result = subprocess.run(command, env=environment(), capture_output=True, text=True)  # noqa: S603
        if result.returncode:
            raise ExportError(result.stderr.strip().splitlines()[-1].removeprefix("error: "))
        with np.load(arrays, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    return {
        name: array.astype(object) if array.dtype.kind == "U" else array
        for name, array in found.items()
    }


def _values(sample: Any) -> dict[str, list[Any]]:
    """Return the values of each column, as JSON writes them; NaN and NaT are None.

    Raises:
        ExportError: the sample is no table of two rows or more.
    """
    if isinstance(sample, list) and sample and all(isinstance(row, Mapping) for row in sample):
        names = list(sample[0])
        if any(list(row) != names and set(row) != set(names) for row in sample):
            raise ExportError("the rows of the sample have different columns")
        columns = {name: [row[name] for row in sample] for name in names}
    elif hasattr(sample, "columns"):
        columns = {name: sample[name].tolist() for name in sample.columns}
    elif isinstance(sample, Mapping):
        columns = {
            name: one.tolist() if hasattr(one, "tolist") else list(one)
            for name, one in sample.items()
        }
    else:
        raise ExportError(
            f"the sample is a {type(sample).__name__}: give rows as a data frame, a mapping of "
            "names to columns, or a list of mappings"
        )
    if len({len(one) for one in columns.values()}) != 1 or len(next(iter(columns.values()))) < 2:
        raise ExportError("the sample must have two rows or more, and as many of each column")
    return {str(name): [_plain(value) for value in one] for name, one in columns.items()}


def _plain(value: Any) -> Any:
    """Return a value as JSON writes it: missing ones of numpy and pandas as None, dates as text."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        text: str = value.isoformat()
        return text.removesuffix("T00:00:00")
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
