"""The extension `classification`: the largest values of an output, in the tensor's own datatype."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from infer_messages import card_of, message_of, property_test, read_answer
from numpy.typing import NDArray

from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype
from models.package.card import ModelCard
from service.api.v2.classification import classes
from service.api.v2.codec import decode, encode
from service.errors import BadInputError

WHOLE = [name for name in NUMPY_DTYPES if NUMPY_DTYPES[name].kind in "iu"]


@pytest.mark.parametrize("datatype", WHOLE)
def test_whole_numbers_are_compared_and_written_as_they_are(datatype: Datatype) -> None:
    limits = np.iinfo(NUMPY_DTYPES[datatype])
    low, high = int(limits.min), int(limits.max)
    values = np.array([[high - 1, low, high, low + 1]], NUMPY_DTYPES[datatype])
    assert classes(values, None, 4) == [[f"{high}:2", f"{high - 1}:0", f"{low + 1}:3", f"{low}:1"]]


def test_whole_numbers_beyond_double_precision_are_distinguished() -> None:
    values = np.array([[2**53, 2**53 + 1, 2]], np.int64)
    assert classes(values, ("a", "b", "c"), 2) == [["9007199254740993:1:b", "9007199254740992:0:a"]]


def test_booleans_are_0_and_1() -> None:
    assert classes(np.array([[False, True]]), None, 2) == [["1:1", "0:0"]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_have_six_decimals(dtype: Any) -> None:
    assert classes(np.array([[0.125, 10]], dtype), None, 2) == [["10.000000:1", "0.125000:0"]]


@property_test
@given(
    arrays_of.arrays(
        st.sampled_from([dtype for dtype in NUMPY_DTYPES.values() if dtype.kind != "O"]),
        arrays_of.array_shapes(min_dims=2, max_dims=3, max_side=4),
    ),
    st.lists(st.sampled_from("abc"), max_size=6),
    st.integers(1, 5),
)
def test_classes_are_in_descending_order_and_equal_values_keep_their_order(
    array: NDArray[Any], labels: list[str], top: int
) -> None:
    for row, texts in zip(array, classes(array, tuple(labels), top), strict=True):
        values = row.ravel()
        numbers = [value for value in values.tolist() if value == value]  # no NaN
        assert len(texts) == min(top, values.size)
        parts = [text.split(":") for text in texts]
        places = [int(index) for _, index, *_ in parts]
        assert len(set(places)) == len(places)
        best = sorted(range(values.size), key=lambda index: _descending(values[index].item()))
        assert places == best[:top]
        for place, (value, _, *label) in zip(places, parts, strict=True):
            assert label == ([labels[place]] if place < len(labels) else [])
            if values[place] in numbers and array.dtype.kind != "f":
                assert int(value) == values[place]


def _descending(value: Any) -> tuple[bool, Any]:
    """Sort key: largest first, NaN last."""
    return (value != value, 0 if value != value else -value)


def fixed_card(batch: int, *shape: int) -> ModelCard:
    tensor: dict[str, tuple[Datatype, tuple[int, ...]]] = {"x": ("FP32", (batch, 2))}
    return card_of(tensor, {"p": ("FP32", (batch, *shape))}, labels=("a", "b", "c"))


def asked(card: ModelCard, output: NDArray[Any], top: int, **own: bool) -> Any:
    rows = np.zeros((card.fixed_batch or len(output), 2), np.float32)
    expected = {"name": "p", "parameters": {"classification": top, **own}}
    message = message_of(card, {"x": rows}, {"x": "flat"}, outputs=[expected])
    return read_answer(*encode(card, decode(card, *message.wire()), {"p": output}))


@pytest.mark.parametrize("binary", [False, True])
def test_a_network_of_a_fixed_batch_gives_one_list_for_the_whole_output(binary: bool) -> None:
    """Clients see `max_batch_size: 0`, so the first dimension need not be rows."""
    output = np.array([[1, 5, 3], [4, 2, 6]], np.float32)
    response = asked(fixed_card(2, 3), output, 4, binary_data=binary)
    assert response.outputs["p"] == ["6.000000:5", "5.000000:1:b", "4.000000:3", "3.000000:2:c"]
    (entry,) = response.content["outputs"]
    assert (entry["shape"], entry["datatype"]) == ([4], "BYTES")
    single = asked(fixed_card(1, 3), output[:1], 9, binary_data=binary)
    assert single.outputs["p"] == ["5.000000:1:b", "3.000000:2:c", "1.000000:0:a"]


@pytest.mark.parametrize("batch", [-1, 2])
def test_an_output_without_values_has_no_classes(batch: int) -> None:
    card = card_of({"x": ("FP32", (batch, 2))}, {"p": ("FP32", (batch, -1))})
    with pytest.raises(BadInputError, match="The output 'p' holds no values here, so no classes"):
        asked(card, np.empty((2, 0), np.float32), 1)
