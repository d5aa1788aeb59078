"""The codec: valid messages are decoded exactly, and any other is refused with one sentence."""

import copy
import json
import re
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from infer_messages import (
    IN_JSON,
    Message,
    Tensors,
    card_of,
    message_of,
    messages,
    property_test,
    read_answer,
    same_values,
    tensors,
    values,
)
from numpy.typing import NDArray

from models.kinds.tensor_spec import NUMPY_DTYPES, Datatype
from models.package.card import ModelCard
from service.api.v2.codec import BULKY_BYTES, InferRequest, decode, encode, is_bulky
from service.errors import BadInputError

PLANE = card_of(
    {"x": ("FP32", (-1, 2))},
    {"p": ("FP32", (-1, 3)), "q": ("INT64", (-1,)), "h": ("FP16", (-1, 1))},
    labels=("left", "right", "up"),
)
PAIR = card_of({"x": ("FP32", (-1, 2)), "n": ("INT8", (-1,))})
POINT = np.array([[0.5, -1.0]], np.float32)


def one_row_request(**fields: Any) -> Message:
    """Return a request of one row to PLANE."""
    return message_of(PLANE, {"x": POINT}, {"x": "flat"}, **fields)


def outputs_of(rows: int) -> dict[str, NDArray[Any]]:
    """Return the outputs of PLANE."""
    return {
        "p": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) / 8,
        "q": np.arange(rows, dtype=np.int64) - 2**62,
        "h": np.full((rows, 1), 0.5, np.float16),
    }


# Inputs.


@pytest.mark.slow
@property_test
@given(messages(), st.booleans())
def test_the_model_gets_the_values_that_were_sent(message: Message, say_length: bool) -> None:
    body, length = message.wire()
    if say_length and length is None:
        length = str(len(body)).encode()
    request = decode(message.card, body, length)
    assert request.inputs.keys() == message.arrays.keys()
    for name, array in message.arrays.items():
        decoded = request.inputs[name]
        assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
        assert same_values(decoded, array)
    assert request.id == message.content.get("id")
    assert [output.spec for output in request.outputs] == list(message.card.outputs)


@pytest.mark.parametrize("datatype", list(NUMPY_DTYPES))
def test_every_value_of_a_datatype_is_decoded_from_every_format(datatype: Datatype) -> None:
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        extremes = [limits.min, limits.max, limits.tiny, limits.smallest_subnormal, -0.0, 0.1]
    elif datatype == "BYTES":
        extremes = ["", "a\0é😀"]
    else:
        extremes = [0, 1] if datatype == "BOOL" else [np.iinfo(dtype).min, np.iinfo(dtype).max]
    array = np.array(extremes, dtype).reshape(-1, 2)
    if datatype == "BF16":
        array = array.astype(ml_dtypes.bfloat16).astype(np.float32)
    card = card_of({"t": (datatype, (-1, 2))})
    for form in ("binary",) if datatype == "BF16" else ("flat", "nested", "binary"):
        message = message_of(card, {"t": array}, {"t": form})  # type: ignore[dict-item]
        decoded = decode(card, *message.wire()).inputs["t"]
        assert decoded.dtype == dtype
        assert same_values(decoded, array)


@pytest.mark.parametrize("number", [65_520, -1e5, 1e39])
def test_a_number_beyond_the_range_of_half_precision_is_refused(number: float) -> None:
    card = card_of({"t": ("FP16", (-1,))})
    tensor = {"name": "t", "datatype": "FP16", "shape": [1], "data": [number]}
    with pytest.raises(BadInputError, match="holds a number too large for FP16"):
        decode(card, json.dumps({"inputs": [tensor]}).encode(), None)


def test_large_binary_tensors_are_bulky_and_arrive_whole() -> None:
    rows = BULKY_BYTES // 12 + 1
    request = decode(
        PLANE, *one_row_request(outputs=[{"name": "p", "parameters": {"binary_data": True}}]).wire()
    )
    outputs = outputs_of(rows)
    outputs["p"][:] = np.random.default_rng(0).normal(size=(rows, 3))
    assert is_bulky(request, outputs)
    assert not is_bulky(request, outputs_of(2))
    answered = read_answer(*encode(PLANE, request, outputs))
    assert answered.outputs["p"].tobytes() == outputs["p"].tobytes()


def test_other_threads_run_while_large_binary_tensors_are_copied() -> None:
    """A lock held for the copy would hold the event loop for as long."""
    request = decode(
        PLANE, *one_row_request(outputs=[{"name": "p", "parameters": {"binary_data": True}}]).wire()
    )
    outputs = outputs_of(10_000_000)
    seconds = 0.0

    def write() -> None:
        nonlocal seconds
        time.sleep(0.01)  # until the other thread waits
        start = time.perf_counter()
        encode(PLANE, request, outputs)
        seconds = time.perf_counter() - start

    writing = threading.Thread(target=write)
    writing.start()
    longest = 0.0
    while writing.is_alive():
        before = time.perf_counter()
        time.sleep(0.0005)
        longest = max(longest, time.perf_counter() - before)
    assert longest < seconds / 2


def test_half_precision_is_written_with_all_its_digits() -> None:
    outputs = outputs_of(2)
    outputs["h"][:] = np.array([[0.1], [-6e-8]], np.float16)
    request = decode(PLANE, *one_row_request(outputs=[{"name": "h"}]).wire())
    (answered,) = read_answer(*encode(PLANE, request, outputs)).content["outputs"]
    assert np.array(answered["data"], np.float16).tolist() == outputs["h"].ravel().tolist()


BRAIN = card_of({"x": ("BF16", (-1, 2))}, {"y": ("BF16", (-1, 2))})
BINARY = [{"name": "y", "parameters": {"binary_data": True}}]


def test_bfloat16_has_two_bytes_for_each_number() -> None:
    numbers = np.array([[1.0, -2.5], [3.140625, 0.0]], np.float32)
    sent = message_of(BRAIN, {"x": numbers}, {"x": "binary"}, outputs=BINARY)
    assert len(sent.tensors[0]) == 8
    request = decode(BRAIN, *sent.wire())
    assert request.inputs["x"].tolist() == numbers.tolist()
    raw = decode(BRAIN, sent.tensors[0][:4], b"0")  # one row, without a header
    assert raw.inputs["x"].tolist() == [[1.0, -2.5]]
    answered = read_answer(*encode(BRAIN, request, {"y": numbers * np.float32(1.001)}))
    assert answered.outputs["y"].tolist() == numbers.tolist()
    assert answered.content["outputs"][0]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize(
    ("form", "outputs", "sentence"),
    [
        ("flat", BINARY, "Receiving BF16 data via JSON is not supported.* for input 'x'"),
        ("binary", [], "Sending BF16 data via JSON is not supported.* for output 'y'"),
        ("binary", [{"name": "y"}], "Sending BF16 data via JSON is not supported"),
    ],
)
def test_bfloat16_in_json_is_refused_as_by_triton(
    form: Any, outputs: list[Any], sentence: str
) -> None:
    rows = np.ones((1, 2), np.float32)
    with pytest.raises(BadInputError, match=sentence):
        decode(BRAIN, *message_of(BRAIN, {"x": rows}, {"x": form}, outputs=outputs).wire())


def test_bfloat16_of_another_length_is_refused() -> None:
    sent = message_of(BRAIN, {"x": np.ones((1, 2), np.float32)}, {"x": "binary"}, outputs=BINARY)
    body, length = sent.wire()
    body = body.replace(b'"binary_data_size": 4', b'"binary_data_size": 8')
    with pytest.raises(BadInputError, match=r"size 8; its shape and datatype make 4 bytes"):
        decode(BRAIN, body, length)


def test_classes_of_bfloat16_are_texts() -> None:
    top = [{"name": "y", "parameters": {"classification": 1}}]
    sent = message_of(BRAIN, {"x": np.ones((1, 2), np.float32)}, {"x": "binary"}, outputs=top)
    request = decode(BRAIN, *sent.wire())
    answered = read_answer(*encode(BRAIN, request, {"y": np.float32([[1, 3]])}))
    assert answered.outputs["y"] == [["3.000000:1"]]


def test_whole_numbers_and_whole_floats_are_interchangeable() -> None:
    floats = card_of({"t": ("FP64", (-1,))})
    body = b'{"inputs": [{"name": "t", "datatype": "FP64", "shape": [2], "data": [3, 1e30]}]}'
    assert decode(floats, body, None).inputs["t"].tolist() == [3.0, 1e30]
    whole = card_of({"t": ("INT32", (-1,))})
    body = body.replace(b"FP64", b"INT32").replace(b"1e30", b"4.0")
    assert decode(whole, body, None).inputs["t"].tolist() == [3, 4]
    with pytest.raises(BadInputError, match=r"'t' holds a value that is no INT32: 4\.5"):
        decode(whole, body.replace(b"4.0", b"4.5"), None)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_an_aligned_binary_tensor_is_a_view_and_another_is_copied(
    kind: type[bytes],
) -> None:
    card = card_of({"t": ("FP64", (-1, 4))})
    array = np.arange(8, dtype=np.float64).reshape(2, 4)
    plain, length = message_of(card, {"t": array}, {"t": "binary"}).wire()
    assert length is not None
    memories = set()
    for shift in range(8):
        body, start = kind(b" " * shift + plain), int(length) + shift
        decoded = decode(card, body, b"%d" % start).inputs["t"]
        np.testing.assert_array_equal(decoded, array)
        assert decoded.flags.aligned
        sent = np.frombuffer(body, np.uint8)
        aligned = (sent.ctypes.data + start) % 8 == 0
        assert np.shares_memory(decoded, sent) == aligned
        memories.add(aligned)
    assert memories == {True, False}


def test_unknown_fields_are_ignored() -> None:
    """KServe's client sends the model's name, MLServer's a content type."""
    message = one_row_request(model_name="tiny", parameters={"content_type": "np"})
    message.content["inputs"][0]["parameters"] = {"content_type": "np"}
    assert decode(PLANE, *message.wire()).inputs["x"].tolist() == POINT.tolist()


@pytest.mark.parametrize(("microseconds", "seconds"), [(0, None), (1, 1e-6), (2_500_000, 2.5)])
def test_a_timeout_is_in_microseconds_and_none_if_zero(
    microseconds: int, seconds: float | None
) -> None:
    request = decode(
        PLANE, *one_row_request(parameters={"timeout": microseconds, "priority": 3}).wire()
    )
    assert request.timeout == seconds
    assert decode(PLANE, *one_row_request().wire()).timeout is None


# A request without a JSON header.


def test_a_raw_request_is_one_row_and_gets_every_output_as_binary() -> None:
    request = decode(PLANE, POINT.tobytes(), b"0")
    np.testing.assert_array_equal(request.inputs["x"], POINT)
    response = read_answer(*encode(PLANE, request, outputs_of(1)))
    assert response.binary == {"p", "q", "h"}
    assert "id" not in response.content


def test_a_raw_request_to_a_network_of_a_fixed_batch_is_the_whole_input() -> None:
    card = card_of({"t": ("FP32", (2, 3))}, {"y": ("FP32", (2, 3))})
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(decode(card, array.tobytes(), b"0").inputs["t"], array)
    for size in (12, 20, 23, 25, 48):
        with pytest.raises(BadInputError, match=r"; the 2 rows of 't' \(FP32 \[2, 3\]\) take 24\."):
            decode(card, bytes(size), b"0")


def test_shared_memory_is_refused() -> None:
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    message = one_row_request(outputs=[{"name": "p", "parameters": region}])
    with pytest.raises(BadInputError, match="The output 'p' names a shared_memory_region"):
        decode(PLANE, *message.wire())
    message = one_row_request()
    message.content["inputs"][0]["parameters"] = region
    for _ in range(2):  # with data and without
        with pytest.raises(BadInputError, match="The input 'x' names a shared_memory_region"):
            decode(PLANE, *message.wire())
        message.content["inputs"][0].pop("data", None)


@pytest.mark.parametrize("first", [-1, 1])
def test_a_raw_request_may_have_one_variable_dimension_besides_the_rows(first: int) -> None:
    card = card_of({"t": ("INT16", (first, 2, -1, 3))})
    array = np.arange(24, dtype=np.int16).reshape(1, 2, 4, 3)
    np.testing.assert_array_equal(decode(card, array.tobytes(), b"0").inputs["t"], array)
    for wrong in (b"", array.tobytes()[:-2]):
        with pytest.raises(BadInputError, match=r"one row of 't' \(INT16 .*\) takes 12"):
            decode(card, wrong, b"0")


@pytest.mark.parametrize(
    "inputs",
    [
        {"t": ("INT8", (-1, -1, -1))},
        {"t": ("INT8", (1, -1, -1))},
        {"t": ("INT8", (-1,)), "u": ("INT8", (-1,))},
    ],
)
def test_an_ambiguous_raw_request_is_refused(inputs: Tensors) -> None:
    with pytest.raises(
        BadInputError, match="models with one input and one variable dimension beside"
    ):
        decode(card_of(inputs), bytes(9), b"0")


# Outputs.


@st.composite
def asked_for(draw: st.DrawFn) -> tuple[ModelCard, dict[str, Any], dict[str, bool], Any]:
    """Draw a card, the outputs of a request, which of them are binary, and the arrays."""
    flags = st.sampled_from([None, True, False])
    card = card_of({"x": ("FP32", (-1, 2))}, draw(tensors("uvw", IN_JSON)))
    rows = draw(st.integers(1, 3))
    whole = draw(flags)
    fields: dict[str, Any] = {} if whole is None else {"parameters": {"binary_data_output": whole}}
    expected = {spec.name: bool(whole) for spec in card.outputs}
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(card.outputs), unique_by=lambda spec: spec.name))
        fields["outputs"] = []
        for spec in chosen:
            own = draw(flags)
            entry: dict[str, Any] = {"name": spec.name}
            if own is not None:
                entry["parameters"] = {"binary_data": own}
            fields["outputs"].append(entry)
            expected[spec.name] = bool(whole) if own is None else own
        if chosen:
            expected = {spec.name: expected[spec.name] for spec in chosen}
    arrays = {
        spec.name: draw(values(spec, rows, finite=not expected.get(spec.name, False)))
        for spec in card.outputs
    }
    return card, fields, expected, arrays


@pytest.mark.slow
@property_test
@given(asked_for())
def test_the_response_has_the_requested_outputs_in_the_requested_formats(
    drawn: tuple[ModelCard, dict[str, Any], dict[str, bool], dict[str, NDArray[Any]]],
) -> None:
    card, fields, expected, arrays = drawn
    body, length = message_of(card, {"x": POINT}, {"x": "flat"}, **fields).wire()
    response = read_answer(*encode(card, decode(card, body, length), arrays))
    assert list(response.outputs) == list(expected)
    assert response.binary == {name for name, binary in expected.items() if binary}
    for name, decoded in response.outputs.items():
        if isinstance(decoded, list):
            assert decoded == arrays[name].tolist()
            continue
        assert (decoded.dtype, decoded.shape) == (arrays[name].dtype, arrays[name].shape)
        assert decoded.tobytes() == arrays[name].tobytes()


def test_a_response_without_binary_outputs_is_only_json() -> None:
    request = decode(PLANE, *one_row_request(id="é", outputs=[{"name": "q"}]).wire())
    body, length = encode(PLANE, request, outputs_of(2))
    assert length is None
    assert json.loads(body) == {
        "model_name": "tiny",
        "model_version": "1",
        "id": "é",
        "outputs": [
            {"name": "q", "datatype": "INT64", "shape": [2], "data": [-(2**62), 1 - 2**62]}
        ],
    }


def test_an_id_is_returned_and_none_is_generated() -> None:
    outputs = [{"name": "q"}]
    for identity in ("", "mine", None):
        request = decode(PLANE, *one_row_request(id=identity, outputs=outputs).wire())
        content = read_answer(*encode(PLANE, request, outputs_of(1))).content
        assert content.get("id") == identity
        assert ("id" in content) == (identity is not None)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("h", np.inf, "The output 'h' of model 'tiny' holds infinity or NaN .* ask for binary"),
        ("p", np.nan, "The output 'p' of model 'tiny' holds infinity or NaN .* ask for binary"),
        ("p", -np.inf, "The output 'p' of model 'tiny' holds infinity or NaN .* ask for binary"),
    ],
)
def test_values_that_json_cannot_represent_must_be_requested_as_binary(
    name: str, value: float, reason: str
) -> None:
    outputs = outputs_of(2)
    outputs[name][0, 0] = value
    with pytest.raises(BadInputError, match=reason):
        encode(PLANE, decode(PLANE, *one_row_request(outputs=[{"name": name}]).wire()), outputs)
    entry = {"name": name, "parameters": {"binary_data": True}}
    encoded = encode(PLANE, decode(PLANE, *one_row_request(outputs=[entry]).wire()), outputs)
    np.testing.assert_array_equal(read_answer(*encoded).outputs[name], outputs[name])


# Classes instead of values.


def classified(top: int, output: NDArray[Any], **parameters: bool) -> Any:
    entry = {"name": "p", "parameters": {"classification": top, **parameters}}
    request = decode(PLANE, *one_row_request(outputs=[entry]).wire())
    return read_answer(*encode(PLANE, request, {"p": output})).outputs["p"]


@pytest.mark.parametrize("binary", [True, False])
def test_classes_are_the_largest_values_with_their_index_and_label(binary: bool) -> None:
    output = np.array([[0.125, 0.5, 0.375], [0.5, 0.0, -1.0]], np.float32)
    assert classified(2, output, binary_data=binary) == [
        ["0.500000:1:right", "0.375000:2:up"],
        ["0.500000:0:left", "0.000000:1:right"],
    ]


def test_equal_values_keep_their_order() -> None:
    assert classified(3, np.array([[1, 2, 2]], np.float32)) == [
        ["2.000000:1:right", "2.000000:2:up", "1.000000:0:left"]
    ]


@pytest.mark.parametrize("top", [3, 4, 2**63 - 1, 2**64 - 1])
def test_more_classes_than_exist_gives_all(top: int) -> None:
    (found,) = classified(top, np.array([[3, 1, 2]], np.float32))
    assert [text.split(":")[1] for text in found] == ["0", "2", "1"]


def test_labels_may_be_missing_and_values_may_be_nan() -> None:
    card = card_of({"x": ("FP32", (-1, 2))}, {"p": ("FP32", (-1, 2))})
    entry = {"name": "p", "parameters": {"classification": 1}}
    message = message_of(card, {"x": POINT}, {"x": "flat"}, outputs=[entry])
    outputs = {"p": np.array([[np.nan, np.inf]], np.float32)}
    response = read_answer(*encode(card, decode(card, *message.wire()), outputs))
    assert response.outputs["p"] == [["inf:1"]]


# Sizes beyond those that were proved.

LONGER = (
    "Tensor 'x' has the size 6 in axis 1; the model takes at most 5: send less, or have the model "
    "added again with --max-length x.1=N."
)


@pytest.mark.parametrize("form", ["JSON", "binary", "raw", "without data"])
def test_a_larger_size_than_the_maximum_is_refused_before_the_data_are_read(form: str) -> None:
    card = card_of({"x": ("FP32", (-1, -1, 2))})
    limited = (replace(card.inputs[0], max_shape=(-1, 5, 2)),)
    card = card.model_copy(update={"inputs": limited})
    for length in (5, 6):
        rows = np.ones((1, length, 2), np.float32)
        if form == "raw":
            wire: tuple[bytes, bytes | None] = rows.tobytes(), b"0"
        elif form == "without data":
            tensor = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": None}
            wire = json.dumps({"inputs": [tensor]}).encode(), None
        else:
            tensor_form: Literal["flat", "binary"] = "flat" if form == "JSON" else "binary"
            wire = message_of(card, {"x": rows}, {"x": tensor_form}).wire()
        if length == 6:
            with pytest.raises(BadInputError, match=f"^{re.escape(LONGER)}$"):
                decode(card, *wire)
        elif form != "without data":
            np.testing.assert_array_equal(decode(card, *wire).inputs["x"], rows)


# Refusals name the field, and say what to change.

SHAPE = "'x' has the shape .*; the model takes [-1, 2], where -1 is any size."
MISMATCH = "'x' does not have the shape [1, 2]: send it flat, in row-major order, or nested"
REFUSED: list[tuple[str, Any, str]] = [
    ("inputs", None, "The request's 'inputs' must be a list of objects."),
    ("inputs", {}, "The request's 'inputs' must be a list of objects."),
    ("inputs", [1], "The request's 'inputs' must be a list of objects."),
    ("inputs", [], "The input 'x' is missing."),
    ("inputs.0.name", "z", "The model has no input 'z'; it has 'x'."),
    ("inputs.0.name", ["x"], "The model has no input ['x']; it has 'x'."),
    ("inputs.0.datatype", "FP64", "'x' has the datatype 'FP64'; it is FP32."),
    ("inputs.0.datatype", None, "'x' has the datatype None; it is FP32."),
    *(
        ("inputs.0.shape", shape, SHAPE)
        for shape in (None, 2, "12", [], [1], [1, 3], [1, 2, 1], [-1, 2], [1.0, 2], [True, 2])
    ),
    *(("inputs.0.shape", [size, 2], SHAPE) for size in (2**31, 2**60, 2**63, 1e30)),
    ("inputs.0.shape", [1] * 10_000, SHAPE),
    ("inputs.0.shape", [2, 2], "'x' does not have the shape [2, 2]"),
    ("inputs.0.shape", [2**31 - 1, 2], "'x' does not have the shape [2147483647, 2]"),
    ("inputs.0.data", None, "The data of tensor 'x' must be a list."),
    ("inputs.0.data", "ab", "The data of tensor 'x' must be a list."),
    ("inputs.0.data", {"0": 1}, "The data of tensor 'x' must be a list."),
    ("inputs.0.data", [], MISMATCH),
    ("inputs.0.data", [1], MISMATCH),
    ("inputs.0.data", [1, 2, 3], MISMATCH),
    ("inputs.0.data", [[1], [2]], MISMATCH),
    ("inputs.0.data", [[1, 2], 3], MISMATCH),
    ("inputs.0.data", [[[1, 2]]], MISMATCH),
    ("inputs.0.data", [[[1], [2]]], "'x' holds a value that is no FP32"),
    ("inputs.0.data", [1, [2]], "'x' holds a value that is no FP32"),
    ("inputs.0.data", [1, "2"], "'x' holds a value that is no FP32"),
    ("inputs.0.data", [1, None], "'x' holds a value that is no FP32"),
    ("inputs.0.data", [1, True], "'x' is FP32, and holds true or false."),
    ("inputs.0.data", [1, 1e39], "'x' holds a number too large for FP32."),
    ("inputs.0.parameters", [], "The input 'x' has 'parameters' that are no object."),
    ("inputs.0.parameters", {"triton_x": 1}, "'x' has the parameter 'triton_x': that prefix is"),
    (
        "inputs.0.parameters",
        {"binary_data_size": 8},
        "'x' needs either 'data' or the parameter 'binary_data_size'.",
    ),
    ("outputs", {}, "The request's 'outputs' must be a list of objects."),
    ("outputs", ["p"], "The request's 'outputs' must be a list of objects."),
    ("outputs", [{}], "The model has no output None; it has 'p', 'q', 'h'."),
    ("outputs", [{"name": "p"}, {"name": "p"}], "The output 'p' is asked for twice."),
    ("outputs", [{"name": "p", "parameters": 1}], "The output 'p' has 'parameters' that are no"),
    (
        "outputs",
        [{"name": "p", "parameters": {"binary_data": 1}}],
        "The output 'p' has a parameter 'binary_data' that is neither true nor false.",
    ),
    *(
        (
            "outputs",
            [{"name": "p", "parameters": {"classification": top}}],
            "'classification' of the output 'p' must be a whole number from 1",
        )
        for top in (0, -1, 1.5, True, "1", None)
    ),
    ("id", 5, "The request's 'id' must be a string."),
    ("parameters", [], "The request has 'parameters' that are no object."),
    (
        "parameters",
        {"binary_data_output": "yes"},
        "The request has a parameter 'binary_data_output' that is neither true nor false.",
    ),
    *(
        ("parameters", {name: value}, f"The request's '{name}' must be a whole number from 0.")
        for name in ("timeout", "priority")
        for value in (-1, 1.5, True, "1", None)
    ),
]


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    REFUSED,
    ids=[f"{place}-{n}" for n, (place, *_) in enumerate(REFUSED)],
)
def test_an_error_names_the_problem_and_says_what_to_change(
    place: str, value: Any, reason: str
) -> None:
    content = copy.deepcopy(one_row_request().content)
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    target: Any = content
    for part in path:
        target = target[part]
    target[last] = value
    with pytest.raises(BadInputError) as refused:
        decode(PLANE, json.dumps(content).encode(), None)
    sentence = str(refused.value)
    assert re.search(re.escape(reason).replace(r"\.\*", ".*"), sentence), sentence
    assert sentence.endswith(".")
    assert len(sentence) < 300


@pytest.mark.parametrize(
    ("body", "length", "reason"),
    [
        (b"", None, "The body is not JSON"),
        (b"{", None, "The body is not JSON"),
        (b"[" * 250_000, None, "The body is not JSON"),
        (b"[" * 250_000 + b"]" * 250_000, None, "The body is not JSON"),
        (b'{"inputs": ' + b'{"a":' * 250_000, None, "The body is not JSON"),
        (b'{"id": NaN}', None, "The body is not JSON"),
        (b'{"id": "\xff"}', None, "The body is not JSON"),
        (b"[]", None, "The body must be a JSON object"),
        *(
            (b"{}", length, "Length must be a whole number from 0 to the 2 bytes of the body")
            for length in (b"", b"-1", b"3", b"99999999999", b"9" * 5000, b"2.0", b"\xb2", b" 2")
        ),
        (b'{"inputs": []}xyz', b"14", "There are 3 bytes behind the last input"),
    ],
)
def test_a_body_that_is_not_a_request_is_refused(body: bytes, length: bytes, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        decode(PLANE, body, length)


@pytest.mark.parametrize(
    ("size", "sent", "reason"),
    [
        (8, 7, "'x' needs 8 bytes, and 7 are left of the body"),
        (8, 9, "There are 1 bytes behind the last input"),
        (7, 8, "'x' has the binary_data_size 7; its shape and datatype make 8 bytes"),
        (-8, 8, "'x' has the binary_data_size -8; its shape and datatype make 8 bytes"),
        ("8", 8, "'x' has the binary_data_size '8'; its shape and datatype make 8 bytes"),
        (8.0, 8, "'x' has the binary_data_size 8.0; its shape and datatype make 8 bytes"),
    ],
)
def test_a_binary_tensor_has_the_size_of_its_shape(size: Any, sent: int, reason: str) -> None:
    message = message_of(PLANE, {"x": POINT}, {"x": "binary"})
    message.content["inputs"][0]["parameters"] = {"binary_data_size": size}
    with pytest.raises(BadInputError, match=reason):
        decode(PLANE, *message._replace(tensors=(bytes(sent),)).wire())


def test_inputs_must_have_equal_rows_and_be_given_once() -> None:
    arrays = {"x": POINT, "n": np.zeros(2, np.int8)}
    uneven = message_of(PAIR, arrays, {"x": "flat", "n": "binary"})
    with pytest.raises(BadInputError, match="different numbers of rows"):
        decode(PAIR, *uneven.wire())
    with pytest.raises(BadInputError, match="The input 'n' is missing"):
        decode(PAIR, *message_of(PAIR, {"x": POINT}, {"x": "flat"}).wire())
    (twice,) = message_of(PAIR, {"x": POINT}, {"x": "flat"}).content["inputs"]
    with pytest.raises(BadInputError, match="The input 'x' is given twice"):
        decode(PAIR, json.dumps({"inputs": [twice, twice]}).encode(), None)


# Total: a request or BadInputError for any bytes, in bounded memory.


def is_total(card: ModelCard, body: bytes, length: bytes | None) -> InferRequest | None:
    """Decode, and check the result."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            request = decode(card, body, length)
    except BadInputError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence) < 500
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 64 * len(body), f"{peak:,} bytes for {len(body):,}"
    assert set(request.inputs) == {spec.name for spec in card.inputs}
    for spec in card.inputs:
        array = request.inputs[spec.name]
        assert array.dtype == spec.dtype
        assert spec.takes(array.shape)
    assert len({len(array) for array in request.inputs.values()}) == 1
    assert request.outputs
    assert request.id is None or isinstance(request.id, str)
    assert request.timeout is None or request.timeout > 0
    return request


def answerable(card: ModelCard, request: InferRequest) -> None:
    """Encode a response of two rows: it is readable, unless JSON cannot represent it."""
    outputs = {
        spec.name: np.ones((2, *(max(size, 1) for size in spec.shape[1:])), spec.dtype)
        for spec in card.outputs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = read_answer(*encode(card, request, outputs))
    assert list(response.outputs) == [output.spec.name for output in request.outputs]


lengths = st.none() | st.binary(max_size=4) | st.integers(-5, 400).map(lambda n: b"%d" % n)


@pytest.mark.slow
@property_test
@given(st.binary(max_size=200), lengths)
@example(b"", b"0")
@example(bytes(8), b"0")
def test_any_bytes_with_any_length(body: bytes, length: bytes | None) -> None:
    is_total(PLANE, body, length)
    is_total(PAIR, body, length)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([0, 1, -1, 2**31, 2**31 - 1, 2**60, 2**63, 2**64 - 1, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["x", "FP32", "data", "shape", "binary_data_size"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "data", "shape", "parameters", "binary_data_size"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@pytest.mark.slow
@property_test
@given(json_values)
def test_any_json(content: Any) -> None:
    is_total(PLANE, json.dumps(content).encode(), None)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Return every position in a JSON tree at which another value may be put."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


FULL = {
    "id": "mine",
    "parameters": {"binary_data_output": True, "timeout": 5},
    "outputs": [
        {"name": "p", "parameters": {"classification": 2}},
        {"name": "q", "parameters": {"binary_data": False}},
    ],
}
BOTH = (
    message_of(PLANE, {"x": POINT}, {"x": "nested"}, **FULL),
    message_of(PLANE, {"x": POINT}, {"x": "binary"}, **FULL),
)


@pytest.mark.slow
@property_test
@given(st.sampled_from(BOTH), st.data())
def test_a_request_with_any_value_in_any_place(message: Message, data: st.DataObject) -> None:
    content = copy.deepcopy(message.content)
    for _ in range(data.draw(st.integers(1, 2))):
        target, key = data.draw(st.sampled_from(list(places(content))))
        if data.draw(st.booleans()):
            target[key] = data.draw(json_values)
        elif isinstance(target, dict):
            del target[key]
        else:
            target.insert(key, copy.deepcopy(target[key]))
    request = is_total(PLANE, *message._replace(content=content).wire())
    if request is not None:
        answerable(PLANE, request)


@pytest.mark.slow
@property_test
@given(st.sampled_from(BOTH), messages(), st.data())
def test_a_damaged_request(message: Message, other: Message, data: st.DataObject) -> None:
    body, length = message.wire()
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        offset = data.draw(st.integers(0, len(damaged)))
        damage = data.draw(st.sampled_from(["flip", "cut", "insert", "splice"]))
        if damage == "flip" and offset < len(damaged):
            damaged[offset] ^= data.draw(st.integers(1, 255))
        elif damage == "cut":
            del damaged[offset : offset + data.draw(st.integers(1, 50))]
        elif damage == "insert":
            damaged[offset:offset] = data.draw(st.binary(max_size=8))
        else:
            damaged[offset:] = other.wire()[0][data.draw(st.integers(0, 50)) :]
    if data.draw(st.booleans()):
        length = data.draw(lengths)
    request = is_total(PLANE, bytes(damaged), length)
    if request is not None:
        answerable(PLANE, request)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"[]," * 30_000 + b"[]]",
        b"[" + b"{}," * 30_000 + b"{}]",
        b"[" + b"1," * 50_000 + b"1]",
        b"[" + b"1e5," * 30_000 + b"1]",
        b"[" + b'"",' * 30_000 + b"1]",
        b"[[" + b"1,1],[" * 20_000 + b"1,1]]",
        b"[[" + b"1],[" * 20_000 + b"1]]",
        b'"' + b"x" * 100_000 + b'"',
        b"1" * 100_000,
    ],
    ids=lambda data: data[:12].decode(),
)
@pytest.mark.parametrize("shape", [[1, 2], [20_001, 2], [2**60, 2], [2**31 - 1, 2], [1] * 5000])
def test_memory_is_bounded_by_a_multiple_of_the_body(shape: list[int], data: bytes) -> None:
    for field in (b"data", b"shape", b"name", b"datatype", b"parameters"):
        entry = {"name": "x", "datatype": "FP32", "shape": shape}
        body = b'{"inputs": [' + json.dumps(entry).encode()[:-1] + b', "%b": %b}]}' % (field, data)
        is_total(PLANE, body, None)


@pytest.mark.parametrize("size", [8, 0, 2**31, 2**34 - 8, 2**63])
def test_the_memory_of_a_binary_tensor_is_bounded_by_the_body(size: int) -> None:
    for rows in (0, 1, 2**30, 2**31 - 1, 2**60):
        message = message_of(PLANE, {"x": POINT}, {"x": "binary"})
        message.content["inputs"][0]["shape"] = [rows, 2]
        message.content["inputs"][0]["parameters"] = {"binary_data_size": size}
        request = is_total(PLANE, *message.wire())
        assert (request is not None) == ((rows, size) == (1, 8))
