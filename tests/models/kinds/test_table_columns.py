"""The record of a table; its values are converted, or refused with a sentence."""

import json
import math
import pickle
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models.kinds.table_columns import CategoryColumn, NumberColumn, TableSpec
from models.kinds.table_rows import values_of_rows, values_of_texts
from models.kinds.table_samples import random_values, with_unusual
from models.kinds.table_values import TableError, table_inputs
from models.kinds.tensor_spec import Datatype, TensorSpec

TABLE = TypeAdapter(TableSpec)


def table(*columns: Mapping[str, Any]) -> TableSpec:
    return TABLE.validate_python({"columns": [{"input": "x", **column} for column in columns]})


def converted(column: Mapping[str, Any], *values: Any, datatype: Datatype = "FP64") -> list[Any]:
    """Return what the values of one column become, in one input."""
    one = table({"name": "c", **column})
    width = one.columns[0].width
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, width), meaning="")
    assert one.mismatch([spec]) is None
    array = table_inputs(one, {"c": list(values)}, [spec])["x"]
    assert (array.shape, array.dtype) == ((len(values), width), spec.dtype)
    rows: list[Any] = array.tolist()
    return [row[0] for row in rows] if width == 1 else rows


NUMBER = {"type": "number", "minimum": -10, "maximum": 1000, "missing": "nan"}
CATEGORY = {"type": "category", "categories": ["UA", "AA", "3", "true"], "unknown": 9, "missing": 8}
DATE = {"type": "date", "parts": ["days", "year", "month", "day", "weekday", "yearday"]}
EVERYTHING = table(
    {"name": "number", **NUMBER},
    {"name": "integer", "type": "integer", "missing": -1},
    {"name": "boolean", "type": "boolean"},
    {"name": "closed", "type": "category", "categories": ["a", "b"], "input": "codes"},
    {"name": "open", **CATEGORY, "input": "codes"},
    {"name": "date", **DATE, "missing": 0},
    {"name": "datetime", "type": "datetime", "parts": ["days", "hour", "minute", "second"]},
)
ROW = {
    "number": 1.5, "integer": 3, "boolean": True, "closed": "a", "open": "UA",
    "date": "2013-05-01", "datetime": "2013-05-01T17:30:05",
}  # fmt: skip


def test_columns_fill_the_inputs_in_the_order_of_the_record() -> None:
    arrays = table_inputs(EVERYTHING, values_of_rows(EVERYTHING, [ROW]), EVERYTHING.inputs())
    days = date(2013, 5, 1).toordinal() - date(1970, 1, 1).toordinal()
    assert arrays["codes"].tolist() == [[0, 0]]
    assert arrays["codes"].dtype == np.int64
    assert arrays["x"].dtype == np.float32
    (row,) = arrays["x"].tolist()
    assert row[:9] == [1.5, 3, 1, days, 2013, 5, 1, 2, 121]
    assert row[9] == pytest.approx(days + (17.5 * 3600 + 5) / 86400, abs=1e-3)
    assert row[10:] == [17, 30, 5]


def test_missing_values_become_what_the_record_says() -> None:
    assert converted({"type": "number", "missing": -1}, None, 2) == [-1, 2]
    assert converted({"type": "date", "missing": 7}, None, "1970-01-02") == [7, 1]
    assert converted(CATEGORY, None, "AA", datatype="INT64") == [8, 1]
    found = converted({**DATE, "missing": "nan"}, None, datatype="FP32")
    assert np.isnan(found).all()
    with pytest.raises(TableError, match=r"of column 'c' in row 2 is missing"):
        converted({"type": "integer"}, 1, None)


def test_categories_are_texts_numbers_and_truth_values_as_json_writes_them() -> None:
    values = ["UA", 3, 3.0, "3", True, "none of these", 3.5, -0.0]
    assert converted(CATEGORY, *values, datatype="INT64") == [0, 2, 2, 2, 3, 9, 9, 9]
    first = {"type": "category", "categories": ["a", "b"], "first": 1, "unknown": 0}
    assert converted(first, "a", "b", "c", datatype="INT32") == [1, 2, 0]


def test_a_category_for_an_input_of_texts_stays_a_text() -> None:
    kept = {"type": "category", "texts": True, "unknown": "keep", "missing": ""}
    assert converted(kept, "é", None, 3, datatype="BYTES") == ["é", "", "3"]
    closed = {"type": "category", "texts": True, "categories": ["a"]}
    assert converted(closed, "a", datatype="BYTES") == ["a"]
    with pytest.raises(TableError, match="none of its categories, 'a'"):
        converted(closed, "b", datatype="BYTES")


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True), st.integers(-5, 5), st.data())
def test_the_codes_of_categories_lead_back_to_them(
    known: list[str], first: int, data: st.DataObject
) -> None:
    column = {"type": "category", "categories": known, "first": first}
    sent = data.draw(st.lists(st.sampled_from(known), min_size=1))
    codes = converted(column, *sent, datatype="INT64")
    assert [known[code - first] for code in codes] == sent


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)), st.booleans())
def test_the_parts_of_a_time_are_those_of_the_calendar(moment: datetime, spaced: bool) -> None:
    parts = ["year", "month", "day", "weekday", "yearday", "hour", "minute", "second", "days"]
    text = moment.isoformat(sep=" " if spaced else "T")
    (found,) = converted({"type": "datetime", "parts": parts, "epoch": "2000-01-01"}, text)
    day = moment.timetuple()
    assert found[:-1] == [*day[:3], day.tm_wday, day.tm_yday, *day[3:6]]
    since = (moment - datetime(2000, 1, 1)) / timedelta(days=1)
    assert found[-1] == pytest.approx(since, rel=1e-12, abs=1e-9)


def test_an_offset_needs_utc() -> None:
    parts = {"type": "datetime", "parts": ["day", "hour"]}
    late = "2013-05-01T23:30:00-02:00"
    assert converted({**parts, "utc": True}, late, "2013-05-01 23:30") == [[2, 1], [1, 23]]
    with pytest.raises(TableError, match="has an offset: send the local time without one"):
        converted(parts, late)
    with pytest.raises(TableError, match="is a time of a day: send the date alone"):
        converted({"type": "date"}, "2013-05-01T23:30")
    assert converted({"type": "date"}, "1970-01-02T00:00:00.000") == [1]  # as pandas writes dates


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, 2**63, -(2**63) - 1, 2**64])
    | st.floats()
    | st.text()
    | st.sampled_from(["UA", "a", "2013-05-01", "2013-02-30", "0000-01-01", "2013-05-01T24:00"])
    | st.sampled_from(
        ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00+23:59", "\u0661-01-01", "NaT"]
    )
)
ANYTHING = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one), max_leaves=5
)
DATATYPES: tuple[Datatype, ...] = (
    "FP16",
    "FP32",
    "FP64",
    "INT8",
    "UINT8",
    "INT32",
    "INT64",
    "BOOL",
)


@given(
    st.sampled_from(EVERYTHING.columns),
    st.lists(ANYTHING, min_size=1, max_size=4),
    st.sampled_from(DATATYPES),
)
def test_any_value_is_converted_or_refused_with_a_sentence(
    column: Any, values: list[Any], datatype: Datatype
) -> None:
    one = TableSpec(columns=(column,))
    spec = TensorSpec(name=column.input, datatype=datatype, shape=(-1, column.width), meaning="")
    if one.mismatch([spec]) is not None:
        return
    try:
        (array,) = table_inputs(one, {column.name: values}, [spec]).values()
    except TableError as error:
        text = str(error)
        assert text.endswith(".")
        assert repr(column.name) in text
        assert len(text) < 400
        assert "\n" not in text
        text.encode(errors="surrogatepass")
    else:
        assert array.shape == (len(values), column.width)
        if array.dtype.kind == "f":
            lacks = np.isnan(array).any(axis=1)
            assert lacks.tolist() == [one is None and column.missing == "nan" for one in values]
            assert not np.isinf(array).any()


@given(st.lists(ANYTHING, max_size=3))
def test_any_rows_are_converted_or_refused(rows: list[Any]) -> None:
    try:
        values_of_rows(EVERYTHING, rows)
    except TableError as error:
        said = str(error)
    else:
        said = "."
        assert rows == []
    assert said.endswith(".")


@given(st.permutations(list(ROW)), st.integers(1, 5))
def test_the_order_of_columns_in_a_request_does_not_matter(names: list[str], count: int) -> None:
    row = {name: ROW[name] for name in names}
    values = values_of_rows(EVERYTHING, [row] * count)
    arrays = table_inputs(EVERYTHING, dict(reversed(values.items())), EVERYTHING.inputs())
    wanted = table_inputs(EVERYTHING, values_of_rows(EVERYTHING, [ROW]), EVERYTHING.inputs())
    for name, array in arrays.items():
        assert np.array_equal(array, np.repeat(wanted[name], count, axis=0))


@pytest.mark.parametrize(
    ("value", "column", "said"),
    [
        ("5", NUMBER, "The value '5' of column 'c' in row 2 is no number; it must be from -10 to"),
        (True, NUMBER, "The value true of column 'c' in row 2 is no number"),
        (math.inf, NUMBER, "The value Infinity of column 'c' in row 2 is no number"),
        (10**400, NUMBER, "is too large"),
        (1000.5, NUMBER, "it must be from -10 to 1000."),
        (-1, {"type": "number", "minimum": 0, "unit": "km"}, "it must be at least 0 km."),
        (2.5, {"type": "integer", "maximum": 9}, "is no whole number; it must be at most 9."),
        ("true", {"type": "boolean"}, "is neither true nor false"),
        ({"a": 1}, CATEGORY, "is no text or number"),
        (20130501, {"type": "date"}, "is no text with a date such as '2013-05-01'"),
        ("2012-12-31", {"type": "date", "minimum": "2013-01-01"}, "it must be at least 2013-01-01"),
    ],
)
def test_a_refusal_names_the_value_its_place_and_what_is_allowed(
    value: Any, column: dict[str, Any], said: str
) -> None:
    fine = {"number": 5, "integer": 5, "boolean": False, "category": "UA", "date": "2013-05-01"}
    with pytest.raises(TableError) as raised:
        converted(column, fine[column["type"]], value)
    assert said in str(raised.value)


def test_an_unknown_category_is_told_the_nearest_known_ones() -> None:
    cities = {"type": "category", "categories": [f"city {at}" for at in range(50)] + ["Hamburg"]}
    with pytest.raises(TableError, match="none of its 51 categories; the nearest are 'Hamburg'"):
        converted(cities, "hamburg", datatype="INT64")
    with pytest.raises(TableError, match="the first are 'city 0', 'city 1', 'city 2'"):
        converted(cities, "XYZQW", datatype="INT64")


def test_a_number_of_thousands_of_digits_is_no_category() -> None:
    assert converted(CATEGORY, 10**5000, datatype="INT64") == [9]
    with pytest.raises(TableError, match="is too large"):
        converted(NUMBER, 10**5000)


def test_numbers_too_large_for_the_input_are_refused() -> None:
    assert converted({"type": "integer"}, 2**53 + 1, datatype="INT64") == [2**53 + 1]
    for datatype, value in (("FP32", 1e39), ("FP16", 1e5), ("INT8", 128), ("INT64", 2**63)):
        with pytest.raises(TableError, match="is larger than the network takes"):
            converted({"type": "integer"}, value, datatype=datatype)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ({"name": "a", "type": "number"}, {"minimum": 2, "maximum": 1}, "minimum above"),
        ({"name": "a", "type": "number"}, {"missing": "none"}, "missing"),
        ({"name": "a", "type": "category"}, {}, "no categories"),
        ({"name": "a", "type": "category"}, {"categories": ["a", "a"]}, "twice"),
        ({"name": "a", "type": "category"}, {"categories": ["a"], "unknown": "keep"}, "a code"),
        ({"name": "a", "type": "category"}, {"categories": ["a"], "missing": ""}, "a code"),
        ({"name": "a", "type": "date"}, {"parts": ["hour"]}, "has no hour"),
        ({"name": "a", "type": "date"}, {"epoch": "soon"}, "is no date such as"),
        ({"name": "a", "type": "text"}, {}, "does not match any of the expected tags"),
        ({"name": "a", "type": "number"}, {"size": 1}, "size"),
    ],
)
def test_a_wrong_record_is_refused(field: Any, value: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        table({**field, **value})


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two columns have one name"):
        table({"name": "a", "type": "number"}, {"name": "a", "type": "number"})


@pytest.mark.parametrize(
    ("column", "datatype", "said"),
    [
        ({"type": "number"}, "INT64", "needs floating-point numbers"),
        ({"type": "integer", "missing": "nan"}, "INT64", "needs floating-point numbers"),
        ({"type": "integer", "missing": 0.5}, "INT64", "has 0.5 for missing values"),
        ({"type": "integer"}, "BOOL", "is integer, and"),
        ({"type": "category", "categories": ["a"], "unknown": 200}, "INT8", "codes from 0 to 200"),
        ({"type": "category", "categories": ["a"]}, "BYTES", "is no text"),
        ({"type": "category", "categories": ["a"], "texts": True}, "INT64", "is text"),
        ({"type": "number"}, "BF16", "needs FP16, FP32 or FP64"),
        ({"type": "date"}, "FP16", "needs FP32, FP64, INT32 or INT64"),
        ({"type": "datetime"}, "INT64", "has fractions of days"),
    ],
)
def test_a_column_that_does_not_fit_its_input_is_named(
    column: dict[str, Any], datatype: Datatype, said: str
) -> None:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 1), meaning="")
    misfit = table({"name": "c", **column}).mismatch([spec])
    assert misfit is not None
    assert said in misfit
    assert misfit.startswith("the column 'c'")


def test_columns_that_do_not_fill_the_inputs_are_refused() -> None:
    one = table({"name": "c", "type": "number"})
    wide = TensorSpec(name="x", datatype="FP32", shape=(-1, 2), meaning="")
    other = TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="")
    assert one.mismatch([wide]) == "the columns give x 1 places, and it is FP32 [-1, 2]"
    assert "is for the input 'x', and the inputs are y" in (one.mismatch([other]) or "")


def test_a_record_survives_json_and_pickle() -> None:
    table_inputs(EVERYTHING, values_of_rows(EVERYTHING, [ROW]), EVERYTHING.inputs())  # fills caches
    content = json.loads(TABLE.dump_json(EVERYTHING))
    assert set(content) == {"columns", "example"}
    assert TABLE.validate_python(content) == EVERYTHING
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING  # noqa: S301


def test_a_record_is_made_in_python() -> None:
    made = TableSpec(
        columns=(
            NumberColumn(name="n", type="number", input="x", missing="nan"),
            CategoryColumn(name="c", type="category", input="y", categories=("a", "b"), unknown=2),
        )
    )
    assert [spec.to_text() for spec in made.inputs()] == ["FP32 [-1, 1]", "INT64 [-1, 1]"]
    assert made.code_range("y") == (0, 2)
    assert made.code_range("x") is None


def test_fields_of_csv_are_values_of_their_columns() -> None:
    kinds = EVERYTHING.by_name
    assert values_of_texts(kinds["number"], ["1e3", "", "2"]) == [1000, None, 2]
    assert values_of_texts(kinds["number"], ["1", "far", ""]) == [1, "far", None]
    assert values_of_texts(kinds["integer"], [str(2**60 + 1), ""]) == [2**60 + 1, None]
    assert values_of_texts(kinds["boolean"], ["True", "0", "", "2"]) == [True, False, None, "2"]
    assert values_of_texts(kinds["open"], ["3", ""]) == ["3", None]
    assert values_of_texts(kinds["date"], ["2013-05-01", ""]) == ["2013-05-01", None]


def test_the_rows_of_the_checks_fit_their_table() -> None:
    values = random_values(EVERYTHING)
    assert values == random_values(EVERYTHING)
    more = with_unusual(EVERYTHING, values)
    arrays = table_inputs(EVERYTHING, more, EVERYTHING.inputs())
    assert len(arrays["codes"]) == 64 + 5  # missing: number, integer, open, date; unknown: open
    assert {8, 9} <= set(arrays["codes"][:, 1].tolist())
