"""BYTES in messages: any text arrives as it was sent, and all else gets one sentence."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from infer_messages import (
    TEXTS,
    card_of,
    message_of,
    property_test,
    raw_of,
    read_answer,
    same_values,
)

from models.kinds.tensor_spec import TensorSpec
from service.api.v2.codec import decode, encode, is_bulky, is_long
from service.api.v2.metadata import _configured
from service.api.v2.texts import texts_from_bytes
from service.errors import BadInputError
from service.json_body import MAX_STRINGS
from service.processes.jobs import LARGE_ELEMENTS

CARD = card_of({"t": ("BYTES", (-1, 2))}, {"u": ("BYTES", (-1,)), "p": ("FP32", (-1, 2))})
ONE = card_of({"t": ("BYTES", (-1, 1))})
SPEC = CARD.inputs[0]


def array_of(*rows: Any) -> Any:
    return np.array(rows, object)


def sent(data: Any = None, shape: Any = (1, 2), tail: bytes | None = None, **own: Any) -> Any:
    """Return the body and the length of a request, of JSON or of bytes."""
    entry = {"name": "t", "datatype": "BYTES", "shape": shape, **own}
    if tail is None:
        return json.dumps({"inputs": [{**entry, "data": data}]}).encode(), None
    entry.setdefault("parameters", {"binary_data_size": len(tail)})
    header = json.dumps({"inputs": [entry]}).encode()
    return header + tail, b"%d" % len(header)


@property_test
@given(st.lists(TEXTS, max_size=6), st.sampled_from(["flat", "nested", "binary"]))
@example(["", "a\0b", "é日😀", '"\\', "\u2028", "\0"], "binary")
@example(["", "a\0b", "é日😀", '"\\', "\u2028", "\0"], "flat")
def test_any_texts_arrive_and_return_as_they_were(texts: list[str], form: Any) -> None:
    array = np.empty(len(texts) // 2 * 2, object)
    array[:] = texts[: len(array)]
    array = array.reshape(-1, 2)
    request = decode(CARD, *message_of(CARD, {"t": array}, {"t": form}).wire())
    assert same_values(request.inputs["t"], array)
    for binary in (False, True):
        asked = {"outputs": [{"name": "u", "parameters": {"binary_data": binary}}]}
        answered = decode(CARD, *message_of(CARD, {"t": array}, {"t": form}, **asked).wire())
        outputs = {"u": array[:, 0], "p": np.zeros((len(array), 2), np.float32)}
        response = read_answer(*encode(CARD, answered, outputs))
        assert response.outputs == {"u": array[:, 0].tolist()}


@property_test
@given(st.binary(max_size=40), st.integers(0, 4))
@example(struct.pack("<I", 2**32 - 1), 1)
@example(struct.pack("<I", 2) + b"\xc3\xa9", 1)
@example(struct.pack("<I", 1) + b"\xc3", 1)
def test_any_bytes_are_texts_or_refused(data: bytes, count: int) -> None:
    spec = TensorSpec(name="t", datatype="BYTES", shape=(-1,), meaning="-")
    array = None
    try:
        array = texts_from_bytes(spec, (count,), data)
    except BadInputError as error:
        refusal = str(error)
    assert "'t'" in refusal if array is None else raw_of(array) == data


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (sent([1, "a"]), "must be strings, and one is number"),
        (sent(["a", None]), "must be strings, and one is null"),
        (sent([True, "a"]), "must be strings, and one is boolean"),
        (sent([["a"], ["b"]]), "does not have the shape"),
        (sent(["a"]), "does not have the shape"),
        (sent("ab"), "must be a list"),
        (sent(["a", "b"], datatype="FP32"), "it is BYTES"),
        (sent(tail=b""), "end within string 1 of 2"),
        (sent(tail=raw_of(array_of("a"))), "end within string 2 of 2"),
        (sent(tail=raw_of(array_of("a", "b"))[:-1]), "end within string 2 of 2"),
        (sent(tail=raw_of(array_of("a", "b")) + b"\0"), "are 11; the strings of its shape .* 10"),
        (sent(tail=raw_of(array_of("a", b"\xff"))), "String 2 of tensor 't' is no UTF-8"),
        (sent(tail=raw_of(array_of("a", b"\xed\xa0\x80"))), "String 2 of tensor 't' is no UTF-8"),
        (sent(tail=struct.pack("<I", 2**32 - 1) + b"a"), "end within string 1 of 2"),
        (sent(tail=b"a", parameters={"binary_data_size": 2}), "up to the 1 bytes that are left"),
        (sent(tail=b"a", parameters={"binary_data_size": -1}), "must be a whole number up to"),
        (sent(tail=b"a", parameters={"binary_data_size": "1"}), "must be a whole number up to"),
        ((b'{"inputs": [{"name": "t", "data": ["\\ud800"]}]}', None), "The body is not JSON"),
        ((b'{"inputs": [{"name": "t", "data": ["\xff"]}]}', None), "The body is not JSON"),
    ],
)
def test_a_malformed_tensor_of_text_gets_one_sentence(request_of: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        decode(CARD, *request_of)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("form", ["json", "binary"])
def test_more_texts_than_a_request_may_have_are_refused_before_they_are_read(form: str) -> None:
    count = MAX_STRINGS // 2 + 1
    tail = bytes(8 * count) if form == "binary" else None
    with pytest.raises(BadInputError, match=r"has 100,002 strings .* may have 100,000: send fewer"):
        decode(CARD, *sent([""] * (2 * count), (count, 2), tail))


def test_a_body_without_a_header_is_one_text() -> None:
    request = decode(ONE, "né\0".encode(), b"0")
    assert request.inputs["t"].tolist() == [["né\0"]]
    assert request.outputs[0].binary
    assert decode(ONE, b"", b"0").inputs["t"].tolist() == [[""]]
    with pytest.raises(BadInputError, match="no UTF-8"):
        decode(ONE, b"\xff", b"0")
    with pytest.raises(BadInputError, match="one string in a row"):
        decode(CARD, b"ab", b"0")


def test_an_output_of_text_has_no_classes() -> None:
    body = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}],
            "outputs": [{"name": "u", "parameters": {"classification": 1}}]}  # fmt: skip
    with pytest.raises(BadInputError, match="'u' holds text, which has no classes"):
        decode(CARD, json.dumps(body).encode(), None)


def test_many_or_long_texts_are_written_elsewhere_in_json_and_in_binary() -> None:
    for binary in (False, True):
        asked = {"outputs": [{"name": "u", "parameters": {"binary_data": binary}}]}
        message = message_of(CARD, {"t": array_of(["a", "b"])}, {"t": "flat"}, **asked)
        request = decode(CARD, *message.wire())
        for texts, is_so in (
            (["a"], False),
            (["a"] * (LARGE_ELEMENTS + 1), True),
            (["a" * 2**21], True),
        ):
            outputs = {"u": np.array(texts, object)}
            assert is_long(request, outputs) == is_so
            assert not is_bulky(request, outputs)


def test_the_configuration_names_text_as_triton_does() -> None:
    assert _configured(SPEC, batches=True) == {
        "name": "t",
        "data_type": "TYPE_STRING",
        "dims": (2,),
    }
