"""Branches whose condition does not depend on the rows are followed; others are not."""

from typing import Any

import numpy as np
import pytest
from layout_networks import FEATURES, onnx_graph
from onnx import TensorProto as T
from onnx import helper

from models.graphs.branches import BranchObserver
from models.graphs.row_mixing import row_mixing
from models.kinds.batch_axes import BatchAxes

AXES = BatchAxes({"x": 0, "rate": None}, {"y": 0})
OUTPUT = [helper.make_tensor_value_info("result", T.FLOAT, None)]


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], **attributes)


def branch(*nodes: Any) -> Any:
    return helper.make_graph(list(nodes), "branch", [], OUTPUT)


def choice(condition: str, then: Any, otherwise: Any, output: str = "y") -> Any:
    return node("If", [condition], output, then_branch=then, else_branch=otherwise)


MEAN = branch(node("ReduceMean", ["x", "first"], "mean"), node("Sub", ["x", "mean"], "result"))
NEGATIVE = branch(node("Neg", ["x"], "mean"), node("Identity", ["mean"], "result"))


def graph(*nodes: Any) -> bytes:
    return onnx_graph(
        nodes,
        {"x": (T.FLOAT, ["N", FEATURES]), "rate": (T.INT64, [])},
        {"y": (T.FLOAT, ["N", FEATURES])},
        slow=np.array(8000), first=np.array([0]), five=np.array(5), zero=np.array(0),
    )  # fmt: skip


def mixing(content: bytes, rate: int) -> str | None:
    x = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    rows = {"x": x, "rate": np.broadcast_to(np.array(rate), (3,))}
    (found,) = row_mixing(content, [rows], AXES)
    return found


BY_RATE = node("Equal", ["rate", "slow"], "is_slow")


def test_the_branch_that_a_shared_value_takes_is_followed() -> None:
    content = graph(BY_RATE, choice("is_slow", MEAN, NEGATIVE))
    assert mixing(content, 16_000) is None
    assert "ReduceMean" in str(mixing(content, 8_000))


def test_a_branch_inside_a_branch_is_followed() -> None:
    inner = choice("is_slow", MEAN, branch(node("Abs", ["x"], "result")), "inside")
    content = graph(
        BY_RATE,
        node("Not", ["is_slow"], "is_fast"),
        choice("is_fast", NEGATIVE, branch(inner, node("Relu", ["inside"], "result"))),
    )
    assert mixing(content, 16_000) is None
    assert "ReduceMean" in str(mixing(content, 8_000))


def test_a_branch_by_the_number_of_rows_is_none_that_is_followed() -> None:
    counted = [node("Shape", ["x"], "shape"), node("Gather", ["shape", "zero"], "rows")]
    content = graph(*counted, node("Greater", ["rows", "five"], "many"),
                    choice("many", MEAN, NEGATIVE))  # fmt: skip
    assert mixing(content, 16_000) == "a branch is taken by many, which depends on the rows"


def test_a_branch_by_the_values_of_the_rows_is_none_that_is_followed() -> None:
    content = graph(
        node("ReduceMax", ["x"], "largest", keepdims=0),
        node("Cast", ["largest"], "positive", to=T.BOOL),
        choice("positive", NEGATIVE, MEAN),
    )
    assert "ReduceMax" in str(mixing(content, 16_000))


def test_random_numbers_in_the_branch_are_found() -> None:
    random = branch(node("RandomNormalLike", ["x"], "result"))
    assert "random" in str(mixing(graph(BY_RATE, choice("is_slow", NEGATIVE, random)), 16_000))


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_the_values_are_those_of_the_branch(rate: int) -> None:
    content = graph(BY_RATE, choice("is_slow", MEAN, NEGATIVE))
    x = np.random.default_rng(0).normal(size=(3, FEATURES)).astype(np.float32)
    rows = {"x": x, "rate": np.broadcast_to(np.array(rate), (3,))}
    observed = BranchObserver(content).observe(rows, AXES)
    assert observed.decided == {"is_slow"}
    assert all(each.kind != "If" for each in observed.nodes)
    arrays = observed.values["y"].arrays
    assert arrays is not None
    expected = x - x.mean(axis=0) if rate == 8_000 else -x
    np.testing.assert_allclose(arrays[-1], expected, rtol=1e-5, atol=1e-6)
