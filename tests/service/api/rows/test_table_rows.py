"""Rows of a table in each dialect: any body becomes arrays, or a sentence for the caller."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from table_networks import COLUMNS, ROWS

from models.kinds.table_columns import TableSpec
from models.kinds.table_rows import values_of_rows
from models.kinds.table_values import table_inputs
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from service.api.rows.dialects import Dialect, Media, example_of
from service.api.rows.routes import DIALECTS
from service.errors import BadInputError, ServiceError

JSON, CSV = Media("application/json"), Media("text/csv")
NAMES = list(ROWS[0])
PREDICT, V1, INVOCATIONS = (DIALECTS[name] for name in ("predict", "v1", "invocations"))


@cache
def card() -> ModelCard:
    """Return the card of `table_networks.Flights`, whose outputs are not asked for."""
    table = TypeAdapter(TableSpec).validate_python({"columns": COLUMNS, "example": ROWS[:1]})
    inputs = tuple(table.inputs())
    arrays = table_inputs(table, values_of_rows(table, ROWS[:1]), inputs)
    output = TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="")
    example = Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, arrays[spec.name]) for spec in inputs},
        outputs={"y": RecordedTensor.of("FP32", np.zeros((1, 1), np.float32))},
        tolerance=1e-3,
    )
    return ModelCard(
        name="flights", version="1", summary="", task="other", inputs=inputs, outputs=(output,),
        table=table, example=example, intended_use="",
    )  # fmt: skip


def wanted() -> Mapping[str, Any]:
    table = card().table
    assert table is not None
    return table_inputs(table, values_of_rows(table, ROWS), card().inputs)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (PREDICT, {"instances": ROWS}),
        (V1, {"inputs": {name: [row[name] for row in ROWS] for name in NAMES}}),
        (INVOCATIONS, {"dataframe_records": ROWS}),
        (
            INVOCATIONS,
            {"dataframe_split": {"columns": NAMES, "data": [list(row.values()) for row in ROWS]}},
        ),
        (INVOCATIONS, ROWS),
    ],
)
def test_the_forms_of_every_dialect_are_read(dialect: Dialect, body: Any) -> None:
    inputs = dialect.read(card(), orjson.dumps(body), JSON).inputs
    for name, array in wanted().items():
        np.testing.assert_array_equal(inputs[name], array)


def test_a_table_without_names_has_the_order_of_the_card() -> None:
    names = [column["name"] for column in COLUMNS]
    data = [[row[name] for name in names] for row in ROWS]
    body = orjson.dumps({"dataframe_split": {"data": data}})
    inputs = INVOCATIONS.read(card(), body, JSON).inputs
    for name, array in wanted().items():
        np.testing.assert_array_equal(inputs[name], array)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("head", [False, True])
def test_csv_has_commas_semicolons_or_tabs(separator: str, head: bool) -> None:
    names = [column["name"] for column in COLUMNS]
    data = [[row[name] for name in names] for row in ROWS]
    rows = [["" if one is None else str(one) for one in row] for row in data]
    lines = "\n".join(separator.join(row) for row in ([names] if head else []) + rows)
    from_csv = INVOCATIONS.read(card(), lines.encode(), CSV).inputs
    for name, array in wanted().items():
        np.testing.assert_array_equal(from_csv[name], array)


def test_a_decimal_comma_is_refused() -> None:
    names = [column["name"] for column in COLUMNS]
    row = {**ROWS[0], "distance": "1,5"}
    lines = ";".join(names) + "\n" + ";".join(str(row[name]) for name in names)
    with pytest.raises(BadInputError, match=r"'1,5'.* is no number"):
        INVOCATIONS.read(card(), lines.encode(), CSV)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False)
    | st.text() | st.sampled_from(["AA", "JFK", "2013-05-01", "", "carrier"]),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(NAMES), one),
    max_leaves=8,
)  # fmt: skip
ANY_ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)), min_size=1, max_size=3)
BODIES = st.one_of(
    VALUES,
    ANY_ROWS.map(lambda rows: {"instances": rows}),
    ANY_ROWS.map(lambda rows: {"dataframe_records": rows}),
    VALUES.map(lambda value: {"instances": value}),
    VALUES.map(lambda value: {"inputs": value}),
    VALUES.map(lambda value: {"dataframe_records": value}),
    st.builds(
        lambda names, data: {"dataframe_split": {"columns": names, "data": data}}, VALUES, VALUES
    ),
)


@given(st.sampled_from([PREDICT, V1, INVOCATIONS]), BODIES)
def test_any_body_is_read_or_refused_with_a_sentence(dialect: Dialect, body: Any) -> None:
    try:
        request = dialect.read(card(), json.dumps(body).encode(errors="replace"), JSON)
    except ServiceError as error:
        said = str(error)
    else:
        said = "."
        for spec in card().inputs:
            array = request.inputs[spec.name]
            assert array.shape[1:] == spec.shape[1:]
            assert array.dtype == spec.dtype
    assert said.endswith(".")
    assert len(said) < 1000


@given(st.lists(st.lists(st.text(max_size=5) | st.sampled_from(NAMES), max_size=7), max_size=4))
def test_any_csv_is_read_or_refused_with_a_sentence(lines: list[list[str]]) -> None:
    body = "\n".join(",".join(line) for line in lines).encode(errors="replace")
    try:
        INVOCATIONS.read(card(), body, CSV)
    except BadInputError as error:
        said = str(error)
    else:
        said = "."
    assert said.endswith(".")


def test_a_name_that_stands_twice_is_refused() -> None:
    body = {"dataframe_split": {"columns": ["carrier", "carrier"], "data": [["AA", "UA"]]}}
    with pytest.raises(BadInputError, match="Two columns have one name"):
        INVOCATIONS.read(card(), orjson.dumps(body), JSON)


def test_the_example_of_the_card_is_in_the_terms_of_callers() -> None:
    assert example_of(card()) == {"instances": ROWS[:1]}
