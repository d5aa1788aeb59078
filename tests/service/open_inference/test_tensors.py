"""One tensor ↔ one array: what passes, and what neither the shape nor the datatype allows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from infer_messages import IN_JSON, property_test

from models.card import NUMPY_DTYPES, Datatype, TensorSpec
from service.errors import BadInputError
from service.open_inference.tensors import check_shape, from_bytes, from_json, to_bytes

WHOLE = [name for name in NUMPY_DTYPES if NUMPY_DTYPES[name].kind in "iu"]


def spec_of(datatype: Datatype, *shape: int) -> TensorSpec:
    return TensorSpec(name="t", datatype=datatype, shape=shape, meaning="-")


@property_test
@given(st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=4), st.data())
def test_a_shape_passes_where_every_dimension_is_the_model_s_or_free(
    shape: list[int], data: st.DataObject
) -> None:
    given_shape = data.draw(st.lists(st.integers(-1, 4), max_size=5))
    right = (
        len(given_shape) == len(shape)
        and all(size in (-1, found) for size, found in zip(shape, given_shape, strict=True))
        and min(given_shape) >= 0
        and 0 not in given_shape[1:]
    )
    if right:
        assert check_shape(spec_of("FP32", *shape), given_shape) == tuple(given_shape)
    else:
        with pytest.raises(BadInputError, match="Tensor 't' has the shape"):
            check_shape(spec_of("FP32", *shape), given_shape)


def test_only_the_rows_may_be_none() -> None:
    spec = spec_of("FP32", -1, -1)
    assert check_shape(spec, [0, 2]) == (0, 2)
    with pytest.raises(BadInputError, match=r"'t' has the shape \[2, 0\]"):
        check_shape(spec, [2, 0])


@pytest.mark.parametrize("datatype", WHOLE)
def test_a_whole_number_out_of_the_datatype_s_range_is_refused_and_never_wrapped(
    datatype: Datatype,
) -> None:
    limits = np.iinfo(NUMPY_DTYPES[datatype])
    for value in (int(limits.min) - 1, int(limits.max) + 1, float(limits.max) * 4, 0.5, 1.0):
        with pytest.raises(BadInputError, match=f"'t' holds a value that is no {datatype}"):
            from_json(spec_of(datatype, -1), (1,), [value], booleans=False)


@pytest.mark.parametrize("datatype", [name for name in IN_JSON if name != "BOOL"])
@pytest.mark.parametrize("value", [None, "1", [], {}, True, False])
def test_what_is_no_number_is_refused_by_every_datatype(datatype: Datatype, value: Any) -> None:
    with pytest.raises(BadInputError, match=f"'t' .* {datatype}"):
        from_json(spec_of(datatype, -1), (2,), [1, value], booleans=True)


@pytest.mark.parametrize("value", [0, 1, 1.0, None, "true", []])
def test_a_bool_is_true_or_false(value: Any) -> None:
    assert from_json(spec_of("BOOL", -1), (2,), [True, False], booleans=True).tolist() == [
        True,
        False,
    ]
    with pytest.raises(BadInputError, match="'t' must hold true and false alone"):
        from_json(spec_of("BOOL", -1), (2,), [True, value], booleans=True)
    with pytest.raises(BadInputError, match="'t' is BOOL: its bytes must be 0 or 1"):
        from_bytes(spec_of("BOOL", -1), (2,), b"\x01\x02", 0)


@property_test
@given(arrays_of.arrays(np.int16, arrays_of.array_shapes(max_dims=4, max_side=3)), st.data())
def test_data_that_is_nested_in_another_way_than_the_shape_says_is_refused(
    array: Any, data: st.DataObject
) -> None:
    spec = spec_of("INT16", *[-1] * array.ndim)
    nested, flat = array.tolist(), array.ravel().tolist()
    for sent in (nested, flat):
        np.testing.assert_array_equal(from_json(spec, array.shape, sent, booleans=False), array)
    # One row at some depth loses its last value, or gets one more of what it holds.
    place = nested
    for _ in range(data.draw(st.integers(0, array.ndim - 1))):
        place = place[data.draw(st.integers(0, len(place) - 1))]
    if data.draw(st.booleans()):
        place.pop()
    else:
        place.append(place[-1])
    with pytest.raises(BadInputError, match="The data of tensor 't' does not have the shape"):
        from_json(spec, array.shape, nested, booleans=False)


@pytest.mark.parametrize("row", [3, None, "34", {"a": 3, "b": 4}])
def test_a_row_is_a_list(row: Any) -> None:
    with pytest.raises(BadInputError, match="The data of tensor 't' does not have the shape"):
        from_json(spec_of("FP32", -1, 2), (2, 2), [[1, 2], row], booleans=False)


def test_no_rows_are_no_values() -> None:
    for datatype in IN_JSON:
        found = from_json(spec_of(datatype, -1, 2), (0, 2), [], booleans=False)
        assert (found.shape, found.dtype) == ((0, 2), NUMPY_DTYPES[datatype])
        assert from_bytes(spec_of(datatype, -1, 2), (0, 2), b"abc", 3).shape == (0, 2)


def test_binary_numbers_are_little_endian_and_row_major() -> None:
    found = from_bytes(spec_of("UINT16", -1, 2), (2, 2), b"-\1\0\2\0\0\1\0\2-", 1)
    assert found.tolist() == [[1, 2], [256, 512]]


@property_test
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=5))
def test_a_text_is_its_length_and_its_utf_8(texts: list[str]) -> None:
    raw, found = to_bytes(texts), []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    assert found == texts
