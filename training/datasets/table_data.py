"""Columns of a table → a data set: target and task, splits, vocabularies, inputs.

The vocabulary of a category is that of the training split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from models.kinds.dates import Part, date_parts
from models.kinds.table_columns import CategoryColumn, DateColumn, NumberColumn, TableSpec
from models.kinds.table_values import category_text
from training.datasets.column_types import Column
from training.datasets.dataset import DataError, Split, Task
from training.datasets.table import CATEGORIES, FIRST, MISSING, NUMBERS, UNKNOWN, TableDataset
from training.datasets.table_baselines import baselines_of

MIN_ROWS = 50
MIN_CATEGORY_ROWS = 5
"""Training rows of a category; a rarer one is taken as unknown."""
MAX_CLASSES = 100
MAX_CLASS_NUMBERS = 10
"""Distinct whole numbers of a target that are taken as classes; more are taken as values."""
SHARES = (0.7, 0.85)
"""The ends of the training and of the validation split."""
_PERIODS: Mapping[Part, float] = {"month": 12, "weekday": 7, "hour": 24}
_CALENDAR: tuple[Part, ...] = ("month", "weekday")


@dataclass(frozen=True, kw_only=True)
class TableTask:
    """What is asked of a table.

    Attributes:
        target: the name of the column that is predicted.
        task: None to infer it from the target.
        split_by: a column whose rows are split in the order of its values, or in groups of equal
            texts; the column of groups is no input. None for a random split.
        inputs: the columns to predict from; None for all others.
        unit: of the target.
        units: of columns, by name.
        meanings: of columns, in a few words, by name.
        periods: of columns of numbers that begin anew after some value, by name.
    """

    target: str
    task: Task | None = None
    split_by: str | None = None
    inputs: Sequence[str] | None = None
    unit: str = ""
    units: Mapping[str, str] | None = None
    meanings: Mapping[str, str] | None = None
    periods: Mapping[str, float] | None = None


def table_dataset(
    name: str, summary: str, columns: Mapping[str, Column], asked: TableTask
) -> TableDataset:
    """Return the data set of a table.

    Args:
        name: of the data set.
        summary: one line for a card.
        columns: of the table, by name.
        asked: what to predict, and how to split.

    Raises:
        DataError: the target has one value, too few rows or too many classes, or no column is left.
    """
    notes: list[str] = []
    target = columns[asked.target]
    task = asked.task or task_of(target)
    present = np.flatnonzero(~target.missing)
    if without := len(target.values) - len(present):
        notes.append(f"{without:,} rows without {target.name} are left out.")
    targets, labels = _targets(target, task, present)
    split_by = columns[asked.split_by] if asked.split_by else None
    parts = _split(split_by, present, targets if task == "classification" else None)
    specs: list[NumberColumn | CategoryColumn | DateColumn] = []
    left_out = []
    groups = split_by.name if split_by and split_by.type == "category" else target.name
    inputs = columns if asked.inputs is None else asked.inputs
    for column in [columns[name] for name in inputs]:
        if column.name in (target.name, groups):
            continue
        known = column.values[parts[0]][~column.missing[parts[0]]]
        if not len(known) or (known == known[0]).all():
            left_out.append(column.name)
        else:
            specs.append(_spec(column, parts[0], asked, is_order=column is split_by))
    if left_out:
        notes.append(f"Left out, since they have one value: {', '.join(left_out)}.")
    if not specs:
        raise DataError(f"no column is left to predict {target.name!r} from")
    specs.sort(key=lambda spec: spec.input != NUMBERS)
    places = np.concatenate(
        [_places(columns[spec.name], spec, present) for spec in specs], axis=1, dtype=np.float32
    )
    row_of = np.empty(len(target.values), np.int64)
    row_of[present] = np.arange(len(present))
    splits = [
        Split(torch.from_numpy(places[row_of[part]]), targets[row_of[part]]) for part in parts
    ]
    return TableDataset(
        name=name,
        summary=summary,
        task=task,
        input_kind="columns",
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        labels=labels,
        table=TableSpec(columns=tuple(specs), example=_example(columns, specs, parts)),
        target=target.name,
        periods=tuple(period for spec in specs for period in _periods(spec, asked)),
        unit=asked.unit,
        notes=tuple(notes),
        baselines=baselines_of(),
    )


def task_of(target: Column) -> Task:
    """Return the task of a target: texts, truth values and few whole numbers are classes.

    Raises:
        DataError: it is a date.
    """
    if target.type in ("date", "datetime"):
        raise DataError(
            f"the target {target.name!r} is a {target.type}: predict a number or a category"
        )
    if target.type in ("category", "boolean"):
        return "classification"
    known = np.unique(target.values[~target.missing])
    few = len(known) <= (MAX_CLASS_NUMBERS if target.type == "integer" else 2)
    return "classification" if few else "regression"


def _targets(
    target: Column, task: Task, present: NDArray[np.int64]
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the targets of the rows that have one, and the labels of their classes."""
    values = target.values[present]
    if len(values) < MIN_ROWS:
        raise DataError(
            f"{len(values)} rows have a {target.name!r}: give {MIN_ROWS} or more, so that some are "
            "left for validation and test"
        )
    known, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(known) == 1:
        raise DataError(
            f"the target {target.name!r} has one value, {target.scalar(int(present[0]))!r}, in "
            "every row: there is nothing to learn"
        )
    if task == "regression":
        if target.type not in ("number", "integer", "boolean"):
            raise DataError(f"the target {target.name!r} is a {target.type}, and no number")
        return torch.from_numpy(values.astype(np.float32)).unsqueeze(1), ()
    if len(known) > MAX_CLASSES:
        raise DataError(
            f"the target {target.name!r} has {len(known):,} classes, more than {MAX_CLASSES}"
            + (": give --task regression" if target.type in ("number", "integer") else "")
        )
    _, first = np.unique(indices, return_index=True)
    labels = tuple(category_text(_known(target, int(present[at]))) for at in first)
    rare = int(counts.argmin())
    if counts[rare] < MIN_CATEGORY_ROWS:
        raise DataError(
            f"the class {labels[rare]!r} of the target {target.name!r} has {counts[rare]} of the "
            f"rows: leave its rows out, or give {MIN_CATEGORY_ROWS} or more"
        )
    return torch.from_numpy(indices.astype(np.int64)), labels


def _known(column: Column, row: int) -> bool | int | float | str:
    value = column.scalar(row)
    assert value is not None  # noqa: S101 - rows without a target are left out
    return value


def _split(
    column: Column | None, present: NDArray[np.int64], classes: Tensor | None
) -> list[NDArray[np.int64]]:
    """Return the rows of the training, validation and test split: 70 %, 15 %, 15 %.

    Raises:
        DataError: the column has too few values, or a class is not in the training split.
    """
    if column is None:
        train, rest = train_test_split(
            np.arange(len(present)), train_size=SHARES[0], random_state=0, stratify=classes
        )
        validation, test = train_test_split(
            rest, train_size=0.5, random_state=0,
            stratify=None if classes is None else classes[rest],
        )  # fmt: skip
        return [present[np.sort(part)] for part in (train, validation, test)]
    if column.missing[present].any():
        at = int(present[column.missing[present].argmax()])
        raise DataError(
            f"the column {column.name!r} splits the rows, and is missing in row {at + 1}"
        )
    values = column.values[present]
    if column.type == "category":  # whole groups, in a random order
        values = np.random.default_rng(0).permutation(len(column.categories))[values]
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    # Equal values are of one split.
    ends = [int(np.searchsorted(ordered, ordered[int(share * len(order))])) for share in SHARES]
    parts = [present[part] for part in np.split(order, ends)]
    if min(map(len, parts)) < MIN_CATEGORY_ROWS:
        raise DataError(
            f"the column {column.name!r} has too few values to split by: "
            f"{', '.join(str(len(part)) for part in parts)} rows for training, validation and test"
        )
    if classes is not None:
        row_of = np.zeros(int(present.max()) + 1, np.int64)
        row_of[present] = np.arange(len(present))
        missing = set(classes.tolist()) - set(classes[row_of[parts[0]]].tolist())
        if missing:
            raise DataError(
                f"with --split-by {column.name}, {len(missing)} of the classes are not among the "
                "rows for training: split by another column"
            )
    return parts


def _spec(
    column: Column, train: NDArray[np.int64], asked: TableTask, *, is_order: bool
) -> NumberColumn | CategoryColumn | DateColumn:
    """Return what a column becomes.

    Raises:
        DataError: almost every row has a text of its own.
    """
    nullable = bool(column.missing.any())
    common: Any = {
        "name": column.name,
        "unit": (asked.units or {}).get(column.name, ""),
        "meaning": (asked.meanings or {}).get(column.name, ""),
    }
    if column.type == "category":
        counts = np.bincount(column.values[train] + 1, minlength=len(column.categories) + 1)[1:]
        known = np.flatnonzero(counts >= MIN_CATEGORY_ROWS)
        if not len(known):
            raise DataError(
                f"the column {column.name!r} has another text in almost every row, as "
                f"{column.categories[0]!r}: leave it out with --leave-out {column.name}"
            )
        return CategoryColumn(
            type="category", input=CATEGORIES, first=FIRST,
            categories=tuple(sorted(column.categories[code] for code in known)),
            unknown=UNKNOWN if len(known) < len(column.categories) else None,
            missing=MISSING if nullable else None, **common,
        )  # fmt: skip
    if column.type == "date" or column.type == "datetime":
        days: tuple[Part, ...] = () if is_order else ("days",)
        hour: tuple[Part, ...] = ("hour",) if column.type == "datetime" else ()
        known = column.values[train][~column.missing[train]]
        return DateColumn(
            type=column.type, input=NUMBERS, parts=(*days, *_CALENDAR, *hour), utc=column.utc,
            epoch=str(known.min().astype("datetime64[D]")), missing="nan" if nullable else None,
            **common,
        )  # fmt: skip
    return NumberColumn(
        type=column.type, input=NUMBERS, missing="nan" if nullable else None, **common
    )


def _places(
    column: Column,
    spec: NumberColumn | CategoryColumn | DateColumn,
    rows: NDArray[np.int64],
) -> NDArray[Any]:
    """Return the places of a column in the inputs, float [rows, width]."""
    values = column.values[rows]
    if isinstance(spec, CategoryColumn):
        code_of = np.full(len(column.categories) + 1, UNKNOWN, np.float32)
        code_of[:-1] = [spec.codes.get(text, UNKNOWN) for text in column.categories]
        code_of[-1] = MISSING
        codes: NDArray[Any] = code_of[values][:, None]
        return codes
    if isinstance(spec, DateColumn):
        parts = date_parts(values, spec.parts, spec.origin).astype(np.float32)
        parts[np.isnat(values)] = np.nan
        return parts
    return values[:, None].astype(np.float32)


def _periods(spec: NumberColumn | CategoryColumn | DateColumn, asked: TableTask) -> list[float]:
    if isinstance(spec, CategoryColumn):
        return []
    if isinstance(spec, DateColumn):
        return [_PERIODS.get(part, 0.0) for part in spec.parts]
    return [(asked.periods or {}).get(spec.name, 0.0)]


def _example(
    columns: Mapping[str, Column],
    specs: Sequence[NumberColumn | CategoryColumn | DateColumn],
    parts: Sequence[NDArray[np.int64]],
) -> tuple[dict[str, Any], ...]:
    """Return the first two test rows; a missing number is that of the first row that has one.

    JSON has no NaN, which a recorded prediction would need for it.
    """
    rows = []
    for row in parts[2][:2]:
        values = {}
        for spec in specs:
            column = columns[spec.name]
            at = int(row)
            if spec.input == NUMBERS and column.missing[at]:
                at = int((~column.missing).argmax())
            values[spec.name] = column.scalar(at)
        rows.append(values)
    return tuple(rows)
