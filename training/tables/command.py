"""`fit --table`: from a file of a table to a recipe, with what was understood of it shown first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from models.kinds.table_columns import CategoryColumn
from models.package.card import PACKAGE_NAME_RULE, is_package_name
from training.datasets.column_types import TYPES, Column, ColumnType
from training.datasets.dataset import DataError, Task
from training.datasets.table import TableDataset
from training.datasets.table_data import TableTask, table_dataset, task_of
from training.datasets.table_files import column_names, read_table, require_column
from training.recipe import Recipe
from training.tables.leaks import giveaways, sentence
from training.tables.recipe import table_recipe

SHOWN = 40
"""Characters of what a column holds."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of `fit --table`.

    Attributes:
        target: the column that is predicted.
        split_by: the column whose order or groups split the rows.
        task: regression or classification; None to infer it.
        leave_out: columns that are not read.
        types: stated types, as COLUMN=TYPE.
        unit: of the target.
    """

    target: str | None = None
    split_by: str | None = None
    task: Task | None = None
    leave_out: Sequence[str] = ()
    types: Sequence[str] = ()
    unit: str = ""


def require_table(options: TableOptions, file: Path | None, recipes: Sequence[str]) -> None:
    """Check that there is a table if an option is given, and no recipe beside a table.

    Raises:
        DataError: the options do not belong together.
    """
    if file and recipes:
        raise DataError(f"--table makes a recipe of its own: omit {', '.join(recipes)}")
    given = [name for name, value in vars(options).items() if value]
    if given and not file:
        option = {"types": "type"}.get(given[0], given[0].replace("_", "-"))
        raise DataError(f"--{option} needs --table, with the file of a table")


def recipe_of_table(
    file: Path, options: TableOptions, name: str | None, console: Console
) -> Recipe:
    """Read a table, show its columns, and return a recipe for it.

    Args:
        file: the table.
        options: what to learn.
        name: of the package; by default, that of the file.
        console: where the columns are shown.

    Raises:
        DataError: the file, an option or a column cannot be used; the message says what to change.
    """
    name = name or file.name.split(".")[0]
    if not is_package_name(name):
        raise DataError(f"the name {name!r} {PACKAGE_NAME_RULE}: give another --name")
    names = column_names(file)
    if options.target is None:
        raise DataError(f"name the column to predict with --target; there are {', '.join(names)}")
    for given in (options.target, *filter(None, [options.split_by])):
        require_column(given, names)
        if given in options.leave_out:
            raise DataError(f"the column {given!r} is left out, and is needed")
    if options.target == options.split_by:
        raise DataError(f"the target {options.target!r} cannot split the rows: name another column")
    columns = read_table(file, types=_types(options.types), leave_out=options.leave_out)
    _require_numbers(columns[options.target], options.task)
    data = table_dataset(
        name,
        f"{file.name}, {len(next(iter(columns.values())).values):,} rows",
        columns,
        TableTask(
            target=options.target, task=options.task, split_by=options.split_by, unit=options.unit
        ),
    )
    console.print(_overview(columns, data, options))
    notes = [sentence(name, data.target, score) for name, score in giveaways(data).items()]
    for note in (*data.notes, *notes):
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    return table_recipe(name, data, tuple(notes))


def _types(texts: Sequence[str]) -> Mapping[str, ColumnType]:
    """Return the stated types of columns.

    Raises:
        DataError: a text is not COLUMN=TYPE.
    """
    stated: dict[str, ColumnType] = {}
    for text in texts:
        column, _, kind = text.rpartition("=")
        if not column or kind not in TYPES:
            raise DataError(f"--type {text!r}: give COLUMN=TYPE, with one of {', '.join(TYPES)}")
        stated[column] = next(one for one in TYPES if one == kind)
    return stated


def _require_numbers(target: Column, task: Task | None) -> None:
    """Check that a stated task fits the target.

    Raises:
        DataError: it does not.
    """
    suggested = task_of(target)
    if task == "regression" and target.type in ("category", "date", "datetime"):
        raise DataError(
            f"the target {target.name!r} is a {target.type}, and a regression needs numbers: omit "
            f"--task, for a {suggested}"
        )


def _overview(columns: Mapping[str, Column], data: TableDataset, options: TableOptions) -> Table:
    """Return a table of the columns: their types, values and missing values."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("column", "type", "holds", "missing", "is"):
        shown.add_column(head, no_wrap=head == "column")
    inputs = data.table.by_name
    for column in columns.values():
        spec = inputs.get(column.name)
        role = "left out"
        if column.name == data.target:
            labels = f", {len(data.labels)} classes" if data.labels else ""
            role = f"the target of a {data.task}{labels}"
        elif isinstance(spec, CategoryColumn):
            role = f"embedded, {len(spec.categories):,} known"
        elif spec is not None:
            role = "scaled" if column.type not in ("date", "datetime") else "parts of the calendar"
        if column.name == options.split_by:
            role += ", splits the rows"
        missing = int(column.missing.sum())
        shown.add_row(column.name, column.type, _holds(column), f"{missing:,}" if missing else "",
                      role)  # fmt: skip
    splits = data.record().splits
    shown.caption = (
        f"{splits.train:,} rows train, {splits.validation:,} validate, {splits.test:,} test"
    )
    return shown


def _holds(column: Column) -> str:
    if column.type == "category":
        text = ", ".join(column.categories[:5])
        count = len(column.categories)
        return f"{count:,}: {text[:SHOWN]}" + (" …" if count > 5 or len(text) > SHOWN else "")
    known = np.flatnonzero(~column.missing)
    if not len(known):
        return "nothing"
    low, high = (
        column.scalar(int(known[at(column.values[known])])) for at in (np.argmin, np.argmax)
    )
    return f"{low} to {high}" if isinstance(low, str | bool) else f"{low:.6g} to {high:.6g}"
