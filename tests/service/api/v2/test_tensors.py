"""Conversion of one tensor: valid data, and refusals by shape and datatype."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from infer_messages import IN_JSON, property_test

from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype, TensorSpec
from service.api.v2.tensors import check_shape, from_bytes, from_json
from service.api.v2.texts import to_bytes
from service.errors import BadInputError

WHOLE = [name for name in NUMPY_DTYPES if NUMPY_DTYPES[name].kind in "iu"]


def spec_of(datatype: Datatype, *shape: int) -> TensorSpec:
    return TensorSpec(name="t", datatype=datatype, shape=shape, meaning="-")


@property_test
@given(st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=4), st.data())
def test_a_shape_is_accepted_if_every_dimension_matches_or_is_free(
    shape: list[int], data: st.DataObject
) -> None:
    given_shape = data.draw(st.lists(st.integers(-1, 4), max_size=5))
    right = (
        len(given_shape) == len(shape)
        and all(
            size in (-1, given_size) for size, given_size in zip(shape, given_shape, strict=True)
        )
        and min(given_shape) >= 0
    )
    if right:
        assert check_shape(spec_of("FP32", *shape), given_shape) == tuple(given_shape)
    else:
        with pytest.raises(BadInputError, match="Tensor 't' has the shape"):
            check_shape(spec_of("FP32", *shape), given_shape)


def test_only_a_free_dimension_may_be_empty() -> None:
    """A decoder's cache is empty before its first token."""
    assert check_shape(spec_of("FP32", -1, 2, -1, 4), [1, 2, 0, 4]) == (1, 2, 0, 4)
    with pytest.raises(BadInputError, match=r"'t' has the shape \[2, 0\]"):
        check_shape(spec_of("FP32", -1, 2), [2, 0])


@pytest.mark.parametrize("datatype", IN_JSON)
@pytest.mark.parametrize("data", [[], [[[], []]]])
def test_a_tensor_without_values_is_an_array_without_values(datatype: Datatype, data: Any) -> None:
    spec = spec_of(datatype, -1, 2, -1, 4)
    for decoded in (
        from_json(spec, (1, 2, 0, 4), data, booleans=False),
        from_bytes(spec, (1, 2, 0, 4), b"", 0),
    ):
        assert (decoded.shape, decoded.dtype) == ((1, 2, 0, 4), NUMPY_DTYPES[datatype])
    with pytest.raises(BadInputError, match="does not have the shape"):
        from_json(spec, (1, 2, 0, 4), [1], booleans=False)


@pytest.mark.parametrize("datatype", WHOLE)
def test_a_whole_number_out_of_range_is_refused_and_never_wrapped(
    datatype: Datatype,
) -> None:
    limits = np.iinfo(NUMPY_DTYPES[datatype])
    for value in (int(limits.min) - 1, int(limits.max) + 1, float(limits.max) * 4, 0.5, 1e300):
        with pytest.raises(BadInputError, match=f"'t' holds a value that is no {datatype}"):
            from_json(spec_of(datatype, -1), (1,), [value], booleans=False)


@pytest.mark.parametrize("datatype", [name for name in IN_JSON if name != "BOOL"])
@pytest.mark.parametrize("value", [None, "1", [], {}, True, False])
def test_a_value_that_is_not_a_number_is_refused_by_every_datatype(
    datatype: Datatype, value: Any
) -> None:
    with pytest.raises(BadInputError, match=f"'t' .* {datatype}"):
        from_json(spec_of(datatype, -1), (2,), [1, value], booleans=True)


@pytest.mark.parametrize("datatype", WHOLE)
def test_whole_numbers_may_be_written_as_floats(datatype: Datatype) -> None:
    """The client of the protocol's working group writes all numbers as floats."""
    spec = spec_of(datatype, -1)
    limits = np.iinfo(NUMPY_DTYPES[datatype])
    for sent in ([1.0, 0.0, -0.0, 127.0], [1, 2.0, 3, 0.0], [[1.0], [2.0], [3], [4.0]]):
        shape = (4, 1) if isinstance(sent[0], list) else (4,)
        decoded = from_json(spec_of(datatype, *[-1] * len(shape)), shape, sent, booleans=False)
        assert decoded.dtype == NUMPY_DTYPES[datatype]
        np.testing.assert_array_equal(decoded, sent)
    assert from_json(spec, (2,), [1.0, int(limits.max)], booleans=False)[1] == limits.max
    for value in (1.5, -0.5, 2.0**53 + 2, 1e300, float(limits.max) * 2 + 2):
        with pytest.raises(BadInputError, match=f"'t' holds a value that is no {datatype}: "):
            from_json(spec, (2,), [1.0, value], booleans=False)


def test_a_float_that_lost_digits_is_not_a_whole_number() -> None:
    spec = spec_of("INT64", -1)
    assert from_json(spec, (1,), [2.0**53], booleans=False).tolist() == [2**53]
    assert from_json(spec, (1,), [2**53 + 1], booleans=False).tolist() == [2**53 + 1]
    with pytest.raises(BadInputError, match=r"no INT64: 1e\+18, a float of too many digits\."):
        from_json(spec, (1,), [1e18], booleans=False)


def test_a_bool_may_be_written_as_1_and_0() -> None:
    spec = spec_of("BOOL", -1)
    for sent in ([1, 0, 1], [1.0, 0.0, 1.0], [True, 0, 1.0]):
        assert from_json(spec, (3,), sent, booleans=True).tolist() == [True, False, True]


@pytest.mark.parametrize("value", [2, -1, 0.5, None, "true", [], {}])
def test_a_bool_is_true_or_false(value: Any) -> None:
    assert from_json(spec_of("BOOL", -1), (2,), [True, False], booleans=True).tolist() == [
        True,
        False,
    ]
    with pytest.raises(BadInputError, match="'t' is BOOL: it must hold true and false, or 1 and 0"):
        from_json(spec_of("BOOL", -1), (2,), [True, value], booleans=True)
    with pytest.raises(BadInputError, match="'t' is BOOL: its bytes must be 0 or 1"):
        from_bytes(spec_of("BOOL", -1), (2,), b"\x01\x02", 0)


@property_test
@given(arrays_of.arrays(np.int16, arrays_of.array_shapes(max_dims=4, max_side=3)), st.data())
def test_data_nested_differently_from_the_shape_is_refused(array: Any, data: st.DataObject) -> None:
    spec = spec_of("INT16", *[-1] * array.ndim)
    nested, flat = array.tolist(), array.ravel().tolist()
    for sent in (nested, flat):
        np.testing.assert_array_equal(from_json(spec, array.shape, sent, booleans=False), array)
    # One row at some depth loses its last value, or gets another one.
    inner = nested
    for _ in range(data.draw(st.integers(0, array.ndim - 1))):
        inner = inner[data.draw(st.integers(0, len(inner) - 1))]
    if data.draw(st.booleans()):
        inner.pop()
    else:
        inner.append(inner[-1])
    with pytest.raises(BadInputError, match="The data of tensor 't' does not have the shape"):
        from_json(spec, array.shape, nested, booleans=False)


@pytest.mark.parametrize("row", [3, None, "34", {"a": 3, "b": 4}])
def test_a_row_is_a_list(row: Any) -> None:
    with pytest.raises(BadInputError, match="The data of tensor 't' does not have the shape"):
        from_json(spec_of("FP32", -1, 2), (2, 2), [[1, 2], row], booleans=False)


def test_no_rows_are_no_values() -> None:
    for datatype in IN_JSON:
        decoded = from_json(spec_of(datatype, -1, 2), (0, 2), [], booleans=False)
        assert (decoded.shape, decoded.dtype) == ((0, 2), NUMPY_DTYPES[datatype])
        assert from_bytes(spec_of(datatype, -1, 2), (0, 2), b"abc", 3).shape == (0, 2)


def test_binary_numbers_are_little_endian_and_row_major() -> None:
    decoded = from_bytes(spec_of("UINT16", -1, 2), (2, 2), b"-\1\0\2\0\0\1\0\2-", 1)
    assert decoded.tolist() == [[1, 2], [256, 512]]


@property_test
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=5))
def test_a_text_is_its_length_and_its_utf_8(texts: list[str]) -> None:
    raw, decoded = to_bytes(texts), []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        decoded.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    assert decoded == texts
