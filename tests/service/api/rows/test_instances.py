"""Rows of a request become the arrays of a model's inputs, or a sentence for the caller."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from service.api.rows.instances import inputs_of_columns, inputs_of_rows
from service.errors import BadInputError


@pytest.mark.parametrize(
    ("datatype", "taken"), [("FP16", [0.0999755859375, -3]), ("BF16", [0.10009765625, -3])]
)
def test_numbers_of_half_precision_are_sent_as_numbers(datatype: str, taken: list[float]) -> None:
    card = card_of(("x", datatype, [2]))
    assert inputs_of_rows(card, [[0.1, -3]])["x"].tolist() == [taken]
    assert inputs_of_columns(card, {"x": [[0.1, -3]]})["x"].tolist() == [taken]
    with pytest.raises(BadInputError, match=f"holds a number too large for {datatype}"):
        inputs_of_rows(card, [[1, 3.4e38]])


def card_of(*inputs: tuple[str, Any, Sequence[int]]) -> ModelCard:
    specs = tuple(
        TensorSpec(name=name, datatype=datatype, shape=(-1, *inner), meaning="")
        for name, datatype, inner in inputs
    )
    arrays = {
        spec.name: np.zeros(
            (1, *(2 if size == -1 else size for size in spec.shape[1:])), spec.dtype
        )
        for spec in specs
    }
    output = TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="")
    example = Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, arrays[spec.name]) for spec in specs},
        outputs={"y": RecordedTensor.of("FP32", np.zeros((1, 1), np.float32))},
        tolerance=1e-3,
    )
    return ModelCard(
        name="net", version="1", summary="", task="other", inputs=specs, outputs=(output,),
        example=example, intended_use="",
    )  # fmt: skip


NUMBERS = card_of(("x", "FP32", (4,)))
PAIR = card_of(("width", "FP32", (1,)), ("codes", "INT64", (2,)))


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_nested_rows_of_any_shape_become_the_array(array: Any) -> None:
    card = card_of(("x", "FP32", array.shape[1:]))
    found = inputs_of_rows(card, array.tolist())["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)
    flat = array.reshape(len(array), -1).tolist()
    np.testing.assert_array_equal(inputs_of_rows(card, flat)["x"], array)


def test_a_row_of_one_number_may_be_the_number() -> None:
    card = card_of(("x", "FP32", (1,)))
    for rows in ([1.5, 2], [[1.5], [2]], [{"x": 1.5}, {"x": 2}], [{"x": [1.5]}, {"x": [2]}]):
        np.testing.assert_array_equal(inputs_of_rows(card, rows)["x"], [[1.5], [2]])


def test_rows_of_several_inputs_are_objects_and_columns_are_lists() -> None:
    rows = [{"width": 1, "codes": [1, 2]}, {"codes": [3, 4], "width": 2.5}]
    columns = {"codes": [[1, 2], [3, 4]], "width": [1, 2.5]}
    for inputs in (inputs_of_rows(PAIR, rows), inputs_of_columns(PAIR, columns)):
        np.testing.assert_array_equal(inputs["width"], [[1], [2.5]])
        np.testing.assert_array_equal(inputs["codes"], [[1, 2], [3, 4]])
        assert inputs["codes"].dtype == np.int64


def test_a_free_dimension_has_the_size_of_the_rows() -> None:
    card = card_of(("tokens", "INT64", (-1,)))
    found = inputs_of_rows(card, [[1, 2, 3], [4, 5, 6]])["tokens"]
    np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("card", "rows", "message"),
    [
        (NUMBERS, [], "The rows must be a list of one row or more"),
        (NUMBERS, {"x": [1]}, "The rows must be a list of one row or more"),
        (NUMBERS, [[1, 2, 3]], "has the shape [1, 3]; the model takes [-1, 4]"),
        (NUMBERS, [[1, 2, 3, 4], [1, 2]], "does not have the shape [2, 4]"),
        (NUMBERS, [[1, 2, 3, "a"]], "holds a value that is no FP32"),
        (NUMBERS, [[1, 2, 3, None]], "holds a value that is no FP32"),
        (NUMBERS, [[1, 2, 3, True]], "holds true or false"),
        (NUMBERS, [[1, 2, 3, 1e300]], "holds a number too large for FP32"),
        (NUMBERS, [{"y": [1, 2, 3, 4]}], "Each row must be an object with the inputs 'x'"),
        (PAIR, [[1, 2, 3]], "A row must be an object with the inputs 'width', 'codes'"),
        (PAIR, [{"width": 1}], "Each row must be an object with the inputs"),
        (PAIR, [{"width": 1, "codes": [1, 2]}, 3], "Each row must be an object with the inputs"),
        (PAIR, [{"width": 1, "codes": [1, 2.5]}], "holds a value that is no INT64: 2.5"),
        (PAIR, [{"width": [1, 2], "codes": [1, 2]}], "has the shape [1, 2]"),
    ],
)
def test_rows_that_do_not_fit_get_a_sentence(card: ModelCard, rows: Any, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        inputs_of_rows(card, rows)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"width": [1]}, "The input 'codes' is missing"),
        ({"width": [1], "codes": [[1, 2]], "more": [1]}, "The model has no input 'more'"),
        ({"width": 1, "codes": [[1, 2]]}, "The input 'width' must be a list"),
        ({"width": [1, 2], "codes": [[1, 2]]}, "The inputs have different numbers of rows"),
    ],
)
def test_columns_that_do_not_fit_get_a_sentence(columns: Any, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        inputs_of_columns(PAIR, columns)
    assert message in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_json_becomes_rows_or_a_sentence(rows: Any) -> None:
    for card in (NUMBERS, PAIR, card_of(("x", "FP32", (-1,))), card_of(("x", "BOOL", ()))):
        try:
            inputs = inputs_of_rows(card, rows)
        except BadInputError:
            continue
        assert {len(array) for array in inputs.values()} == {len(rows)}
        assert all(spec.takes(inputs[spec.name].shape) for spec in card.inputs)
