"""Tests of data sets of tables: targets, splits, vocabularies, and inputs as in the service."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.kinds.table_columns import CategoryColumn
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import table_inputs
from training.datasets import DataError
from training.datasets.column_types import Column, columns_of
from training.datasets.table import FIRST, MISSING, UNKNOWN, TableDataset
from training.datasets.table_data import TableTask, table_dataset
from training.tables.leaks import giveaways

ROWS = 400


def columns(frame: pd.DataFrame) -> dict[str, Column]:
    """Return the columns of a frame."""
    return {name: builder.column() for name, builder in columns_of([frame], {}).items()}


def dataset(frame: pd.DataFrame, target: str = "y", **options: Any) -> TableDataset:
    """Return the data set of a frame."""
    return table_dataset("rows", "rows", columns(frame), TableTask(target=target, **options))


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return 400 rows with a column of each type, of which some lack values."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "size": random.normal(50, 10, ROWS),
            "count": random.integers(0, 40, ROWS).astype(float),
            "on": random.random(ROWS) < 0.5,
            "kind": random.choice(["a", "b", "c"], ROWS),
            "day": pd.date_range("2013-01-01", periods=ROWS).strftime("%Y-%m-%d"),
            "group": [f"g{at // 8}" for at in range(ROWS)],
        }
    )
    rows["y"] = rows["size"] + random.normal(0, 5, ROWS)
    rows.loc[3:30, "count"] = np.nan
    rows.loc[5:40, "kind"] = None
    rows.loc[[7, 8], "kind"] = "rare"
    return rows


def test_inputs_are_those_that_the_service_makes_of_the_raw_rows(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    known = columns(frame)
    by_target = {float(np.float32(known["y"].values[at])): at for at in range(ROWS)}
    rows = [by_target[float(value)] for value in data.test.targets[:, 0]]
    raw = [{one.name: known[one.name].scalar(at) for one in data.table.columns} for at in rows]
    made = table_inputs(data.table, values_of_rows(data.table, raw), data.table.inputs())
    own = dict(zip(made, data.parts(data.test.inputs), strict=True))
    for name, array in made.items():
        np.testing.assert_allclose(own[name].numpy(), array, rtol=1e-6)


def test_vocabularies_are_those_of_the_training_split(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    kind = data.table.by_name["kind"]
    assert isinstance(kind, CategoryColumn)
    assert kind.categories == ("a", "b", "c")
    assert (kind.unknown, kind.missing, kind.first) == (UNKNOWN, MISSING, FIRST)
    place = data.numbers + [one.name for one in data.table.by_input["categories"]].index("kind")
    counts = data.all_rows.inputs[:, place].int().bincount(minlength=5).tolist()
    assert counts[:2] == [2, 34]


def test_a_category_of_which_all_are_known_refuses_others(frame: pd.DataFrame) -> None:
    kind = dataset(frame[~frame["kind"].isin(["rare"])]).table.by_name["kind"]
    assert isinstance(kind, CategoryColumn)
    assert kind.unknown is None


def test_rows_are_split_in_the_order_of_a_column(frame: pd.DataFrame) -> None:
    data = dataset(frame.sample(frac=1, random_state=0), split_by="day")
    days = frame.set_index(frame["y"].astype(np.float32))["day"]
    first, second, third = (
        days[split.targets[:, 0].numpy()] for split in (data.train, data.validation, data.test)
    )
    assert first.max() < second.min() <= second.max() < third.min()
    assert (len(first), len(second), len(third)) == (280, 60, 60)
    assert data.table.by_name["day"].parts == ("month", "weekday")  # type: ignore[union-attr]


def test_groups_stay_together_and_are_no_input(frame: pd.DataFrame) -> None:
    data = dataset(frame, split_by="group")
    groups = frame.set_index(frame["y"].astype(np.float32))["group"]
    sets = [
        set(groups[split.targets[:, 0].numpy()])
        for split in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 50
    assert "group" not in data.table.by_name


def test_rows_without_a_target_and_columns_of_one_value_are_left_out(frame: pd.DataFrame) -> None:
    frame.loc[:99, "y"] = np.nan
    data = dataset(frame.assign(same=1, empty=None))
    assert len(data.all_rows) == 300
    assert data.notes[0] == "100 rows without y are left out."
    assert data.notes[1] == "Left out, since they have one value: same, empty."


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        (["no", "yes"], "classification", ("no", "yes")),
        ([True, False], "classification", ("false", "true")),
        ([0, 1, 2], "classification", ("0", "1", "2")),
        (list(range(11)), "regression", ()),
        ([0.5, 1.5, 2.5], "regression", ()),
    ],
)
def test_the_task_is_inferred_from_the_target(
    frame: pd.DataFrame, values: list[Any], task: str, labels: tuple[str, ...]
) -> None:
    frame["y"] = [values[at % len(values)] for at in range(ROWS)]
    data = dataset(frame)
    assert (data.task, data.labels) == (task, labels)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"y": 1.0}, {}, "the target 'y' has one value, 1, in every row"),
        ({"y": None}, {}, "0 rows have a 'y': give 50 or more"),
        ({"y": "2013-01-01"}, {}, "is a date: predict a number or a category"),
        ({"y": [f"k{at}" for at in range(ROWS)]}, {}, "has 400 classes, more than 100"),
        ({"y": range(ROWS)}, {"task": "classification"}, "give --task regression"),
        ({"y": ["a"] * 398 + ["b"] * 2}, {}, "the class 'b' of the target 'y' has 2 of the rows"),
        ({"name": [f"k{at}" for at in range(ROWS)]}, {}, "'name' has another text in almost every"),
        ({"day": None}, {"split_by": "day"}, "'day' splits the rows, and is missing in row 1"),
        ({"group": "g"}, {"split_by": "group"}, "'group' has too few values to split by"),
        (
            {"y": ["a"] * 200 + ["b"] * 200}, {"split_by": "day"},
            None,
        ),
        (
            {"y": ["a"] * 300 + ["b"] * 100}, {"split_by": "day"},
            "1 of the classes are not among the rows for training",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_answered_by_one_sentence(
    frame: pd.DataFrame, change: dict[str, Any], options: dict[str, Any], said: str | None
) -> None:
    changed = frame.assign(**change)
    if said is None:
        assert dataset(changed, **options).labels == ("a", "b")
        return
    with pytest.raises(DataError, match=re.escape(said)) as error:
        dataset(changed, **options)
    assert "\n" not in str(error.value)


def test_columns_that_give_the_target_away_are_named(frame: pd.DataFrame) -> None:
    frame["copy"] = np.exp(frame["y"] / 5)  # another scale, in the same order
    assert set(giveaways(dataset(frame))) == {"copy"}
    frame["high"] = np.where(frame["y"] > 50, "high", "low")
    frame["flag"] = frame["high"].map({"high": "H", "low": "L"})
    assert set(giveaways(dataset(frame.drop(columns=["y", "copy"]), target="high"))) == {"flag"}


def test_an_ordinary_column_gives_nothing_away(frame: pd.DataFrame) -> None:
    assert giveaways(dataset(frame)) == {}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(60, 200), gaps=st.floats(0, 0.5))
def test_splits_hold_every_row_once(seed: int, rows: int, gaps: float) -> None:
    random = np.random.default_rng(seed)
    order = random.integers(0, 30, rows)
    frame = pd.DataFrame({"y": np.arange(rows) + 0.5, "x": random.normal(size=rows), "t": order})
    frame.loc[random.random(rows) < gaps, "x"] = np.nan
    for split_by in (None, "t"):
        data = dataset(frame, split_by=split_by)
        assert sorted(data.all_rows.targets[:, 0].tolist()) == frame["y"].tolist()
        assert all(len(split) >= 5 for split in (data.train, data.validation, data.test))


def test_the_digest_is_of_the_inputs(frame: pd.DataFrame) -> None:
    data = dataset(frame)
    other = replace(data, test=replace(data.test, inputs=data.test.inputs + 1))
    assert data.record().sha256 != other.record().sha256
    assert data.train.inputs.dtype == torch.float32
