"""The operators that an ONNX file names are found without the package `onnx`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file, property_test

from models.runtimes.onnx_operators import names_any

node = helper.make_node
LOOP = b"\x22\x04Loop"


def graph_with(kind: str, weights: bytes = b"") -> bytes:
    return onnx_file(
        [node(kind, ["x"], ["y"])],
        [("x", T.FLOAT, ["batch", 2])],
        [("y", T.FLOAT, ["batch", 2])],
        weights=np.frombuffer(weights, np.uint8),
    )


@pytest.mark.parametrize(("kind", "named"), [("Log", True), ("Exp", False), ("Logs", False)])
def test_the_operators_of_the_graph_are_found(kind: str, *, named: bool) -> None:
    assert names_any(graph_with(kind), ("Loop", "Log")) is named


def test_an_operator_in_an_inner_graph_is_found() -> None:
    body = helper.make_graph(
        [node("Log", ["x"], ["z"])], "body", [], [helper.make_tensor_value_info("z", T.FLOAT, None)]
    )
    content = onnx_file(
        [node("If", ["c"], ["y"], then_branch=body, else_branch=body)],
        [("c", T.BOOL, []), ("x", T.FLOAT, ["batch", 2])],
        [("y", T.FLOAT, ["batch", 2])],
    )
    assert names_any(content, ("Log",))


def test_weights_that_look_like_a_name_name_nothing() -> None:
    content = graph_with("Exp", weights=b"ab" + LOOP + b"cd")
    assert LOOP in content
    assert not names_any(content, ("Loop",))


@property_test
@given(before=st.binary(max_size=20), after=st.binary(max_size=20), cut=st.integers(0, 60))
def test_bytes_that_are_no_file_are_searched_as_they_are(
    before: bytes, after: bytes, cut: int
) -> None:
    content = before + LOOP + after
    names_any(content[:cut], ("Loop",))  # no error, whatever the bytes
    assert names_any(b"\xff" * 12 + content, ("Loop",))
