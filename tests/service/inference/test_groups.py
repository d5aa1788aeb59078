"""Requests with unequal shapes, or unequal values of what rows share, are never joined."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_messages import card_of, property_test
from numpy.typing import NDArray

from models.package.card import ModelCard, RecordedTensor
from service.batching.batch import InferenceResponse
from service.batching.batcher import MicroBatcher
from service.errors import BadInputError
from service.inference.groups import RequestGroups

Arrays = Mapping[str, NDArray[Any]]
CARD = card_of({"x": ("FP32", (-1, 2)), "t": ("FP32", (-1, 1))}, {"y": ("FP32", (-1, 2))})
SHARED = CARD.model_copy(
    update={"inputs": (CARD.inputs[0], replace(CARD.inputs[1], shape=(1,), batch_axis=None))}
)


def rows(count: int, value: float) -> Arrays:
    value_of_all = np.broadcast_to(np.array([value], np.float32), (count, 1))
    return {"x": np.arange(2 * count, dtype=np.float32).reshape(count, 2), "t": value_of_all}


def test_networks_whose_requests_may_all_be_joined_have_one_group() -> None:
    assert RequestGroups(CARD).are_one
    assert not RequestGroups(SHARED).are_one
    assert not RequestGroups(CARD.model_copy(update={"batching": "none"})).are_one


def test_requests_of_equal_values_are_of_one_group() -> None:
    groups = RequestGroups(SHARED)
    first, is_whole = groups.find(rows(1, 0.5))
    assert not is_whole
    assert groups.find(rows(3, 0.5)) == (first, False)
    assert groups.find(rows(1, 0.25)) != (first, False)


def test_values_that_are_not_proved_make_a_request_whole() -> None:
    proved = {"t": RecordedTensor.of("FP32", np.array([0.5], np.float32))}
    shapes: dict[str, tuple[int, ...]] = {"x": (2,), "t": (1,)}
    groups = RequestGroups(
        SHARED.model_copy(update={"batched_shapes": (shapes,), "batched_values": (proved,)})
    )
    assert groups.find(rows(2, 0.5))[1] is False
    assert groups.find(rows(2, 0.25))[1] is True


def test_rows_of_a_request_must_share_what_they_share() -> None:
    unequal = {**rows(2, 0.5), "t": np.array([[0.5], [0.25]], np.float32)}
    with pytest.raises(BadInputError, match="different values of 't'"):
        RequestGroups(SHARED).find(unequal)
    equal = {**rows(2, 0.5), "t": np.array([[0.5], [0.5]], np.float32)}
    RequestGroups(SHARED).find(equal)


@property_test
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5, 2.0])), max_size=12))
def test_unequal_values_never_meet_and_batched_is_as_alone(
    requests: list[tuple[int, float]],
) -> None:
    computed = []

    def compute(inputs: Arrays) -> Arrays:
        computed.append(set(inputs["t"].ravel().tolist()))
        return {"y": inputs["x"] * inputs["t"][0]}  # a network takes the value once

    answers = asyncio.run(answered(SHARED, compute, requests))
    assert all(len(values) == 1 for values in computed)
    for (count, value), outputs in zip(requests, answers, strict=True):
        inputs = rows(count, value)
        np.testing.assert_array_equal(outputs["y"], inputs["x"] * np.float32(value))


async def answered(
    card: ModelCard, compute: Any, requests: list[tuple[int, float]]
) -> list[Arrays]:
    groups = RequestGroups(card)
    batcher = MicroBatcher(compute, max_batch_rows=8, max_queue_rows=100, name="shared")
    answers: list[asyncio.Future[Any]] = []
    for count, value in requests:
        inputs = rows(count, value)
        future = asyncio.get_running_loop().create_future()
        batcher.enqueue(inputs, future.set_result, group=groups.find(inputs)[0])
        answers.append(future)
    responses = await asyncio.gather(*answers)
    await batcher.close()
    assert all(isinstance(response, InferenceResponse) for response in responses)
    return [response.outputs for response in responses]
