"""Tests of tables: types are inferred, and wrong files are answered by one sentence."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.datasets import DataError
from training.datasets import table_files as files
from training.datasets.column_types import MAX_CATEGORIES, Column, columns_of
from training.datasets.table_files import read_table


def read(folder: Path, text: str | bytes, **options: Any) -> dict[str, Column]:
    """Read a CSV file with this content."""
    file = folder / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(file, progress=False, **options)


def lines(*values: object) -> str:
    """Return a CSV file with the one column x."""
    return "\n".join(["x", *map(str, values)]) + "\n"


@pytest.mark.parametrize(
    ("values", "kind", "first"),
    [
        (["1.5", "2", ""], "number", 1.5),
        (["1", "", "-3"], "integer", 1),
        (["1.0", "2.0"], "integer", 1),
        (["True", "", "false"], "boolean", True),
        (["UA", "AA", "NA"], "category", "UA"),
        (["1", "2", "3+", "3+", "more"], "category", "1"),
        (["2013-05-01", "", "2013-05-02"], "date", "2013-05-01"),
        (["2013-05-01T17:30", "2013-05-02"], "datetime", "2013-05-01T17:30:00"),
        (["2013-05-01 17:30:00+02:00", "2013-05-02"], "datetime", "2013-05-01T15:30:00"),
    ],
)  # fmt: skip
def test_types_are_inferred(tmp_path: Path, values: list[str], kind: str, first: object) -> None:
    column = read(tmp_path, "id,x\n" + "".join(f"0,{value}\n" for value in values))["x"]
    assert column.type == kind
    assert column.scalar(0) == first
    assert [column.scalar(at) is None for at in range(len(values))] == [
        value in ("", "NA") for value in values
    ]


def test_a_category_is_read_as_it_is_written_even_where_it_looks_like_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK_ROWS", 3)
    column = read(tmp_path, lines("007", "08", "1", "a", "b", "c", "d", "e"))["x"]
    assert column.categories[:3] == ("007", "08", "1")


def test_the_type_does_not_depend_on_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (
        "n,d,k\n" + "".join(f"{at},2013-01-{at:02},k{at % 2}\n" for at in range(1, 20)) + ",,\n"
    )
    whole = read(tmp_path, content)
    monkeypatch.setattr(files, "CHUNK_ROWS", 4)
    for name, column in read(tmp_path, content).items():
        assert (column.type, column.categories) == (whole[name].type, whole[name].categories)
        np.testing.assert_array_equal(column.values, whole[name].values)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        ("a,b\n", "it holds no rows"),
        ("a,a\n1,2\n", "two columns have the name 'a'"),
        ("a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a,b\n1,2,3\n3,4,5\n", "more fields than its first line"),
        (b"a\n\xff\xfe\n", "not in UTF-8"),
        (lines(1, 2, "oops", 4), "mixes numbers with other values, as 'oops' in row 3"),
        (lines("2013-01-01", "soon", "2013-01-03"), "mixes dates with other values, as 'soon'"),
        (lines("2013-01-01", "2013-02-30"), "mixes dates with other values, as '2013-02-30'"),
        (lines(1, "inf"), "has inf in row 2, and must have finite numbers"),
        (lines(1, "1e300"), "has 1e+300 in row 2"),
        (lines(*(f"k{at}" for at in range(10_000))), "more than 5,000 different texts, as 'k0'"),
        (lines(*range(10_000), "12 kg"), "as '12 kg' in row 10001"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_answered_by_one_sentence(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(DataError, match=re.escape(said)) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_a_date_in_the_future_is_a_mistake_unless_the_type_is_stated(tmp_path: Path) -> None:
    future = f"{datetime.now(UTC) + timedelta(days=400):%Y-%m-%d}"
    with pytest.raises(DataError, match=f"has {future} in row 2, a date in the future"):
        read(tmp_path, lines("2013-01-01", future))
    column = read(tmp_path, lines("2013-01-01", future), types={"x": "date"})["x"]
    assert column.scalar(1) == future


def test_the_advice_on_mixed_values_works(tmp_path: Path) -> None:
    content = lines(1, 2, "oops", 4)
    number = read(tmp_path, content, types={"x": "number"})["x"]
    assert [number.scalar(at) for at in range(4)] == [1, 2, None, 4]
    category = read(tmp_path, content, types={"x": "category"})["x"]
    assert category.categories == ("1", "2", "oops", "4")


@pytest.mark.parametrize(
    ("values", "kind", "known"),
    [
        ([1, 2.5, 3], "integer", [1, None, 3]),
        ([0, 1, 5], "boolean", [False, True, None]),
        (["1", "true", "maybe"], "boolean", [True, True, None]),
        (["2013-01-01", "soon"], "date", ["2013-01-01", None]),
    ],
)
def test_values_that_are_none_of_a_stated_type_are_missing(
    tmp_path: Path, values: list[object], kind: str, known: list[object]
) -> None:
    column = read(tmp_path, lines(*values), types={"x": kind})["x"]
    assert [column.scalar(at) for at in range(len(values))] == known


def test_numbers_are_no_dates(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds numbers, as 2013, and is no date: omit its --type"):
        read(tmp_path, lines(2013, 2014), types={"x": "date"})


def test_columns_that_are_left_out_are_not_looked_at(tmp_path: Path) -> None:
    names = ",".join(f"k{at}" for at in range(2))
    content = f"{names}\n" + "".join(f"{at},t{at}\n" for at in range(MAX_CATEGORIES + 10))
    assert list(read(tmp_path, content, leave_out=["k1"])) == ["k0"]
    with pytest.raises(DataError, match="there is no column 'k9'; the columns are 'k0', 'k1'"):
        read(tmp_path, content, leave_out=["k9"])


def test_the_number_of_each_row_has_no_name_and_is_left_out(tmp_path: Path) -> None:
    assert list(read(tmp_path, ",x\n0,5\n1,6\n")) == ["x"]


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"n": [1.5, None], "k": ["a", None], "b": [True, False],
         "d": pd.to_datetime(["2013-01-01 10:00", None])}
    )  # fmt: skip
    frame.to_parquet(tmp_path / "table.parquet")
    frame.to_csv(tmp_path / "table.csv", index=False)
    parquet = read_table(tmp_path / "table.parquet", progress=False)
    for name, column in read_table(tmp_path / "table.csv", progress=False).items():
        assert parquet[name].type == column.type
        assert [parquet[name].scalar(at) for at in (0, 1)] == [column.scalar(at) for at in (0, 1)]


def test_parquet_without_pyarrow_is_answered_by_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow, or save the table as CSV"):
        read_table(tmp_path / "table.parquet", progress=False)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.integers(-(10**6), 10**6), st.booleans(),
                  st.text("ab,\" '0é", min_size=1), st.dates(datetime(1900, 1, 1).date())),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_any_column_is_read_or_refused_by_a_sentence(values: list[Any]) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    try:
        column = columns_of([frame], {})["x"].column()
    except DataError as error:
        assert "'x'" in str(error)  # noqa: PT017 - either outcome is right
        return
    assert len(column.values) == len(values)
    assert [column.scalar(at) is None for at in range(len(values))] == [
        value is None for value in values
    ]
