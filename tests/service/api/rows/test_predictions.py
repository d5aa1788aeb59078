"""A model's outputs become one prediction for each row."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from models.kinds.answers import LabelsSpec, NumberSpec
from models.kinds.tensor_spec import TensorSpec
from models.package.card import Example, ModelCard, RecordedTensor
from service.api.rows.predictions import (
    ALL_CLASSES,
    BEST_CLASSES,
    asked_labels,
    predictions,
    rows_of,
)
from service.errors import BadInputError


def card_of(**outputs: tuple[Any, Sequence[str] | None]) -> ModelCard:
    """Return a card with these outputs: an array, which sets the shape, and labels."""
    specs = tuple(
        TensorSpec(
            name=name, datatype="FP32" if array.dtype.kind == "f" else "INT64",
            shape=(-1, *array.shape[1:]), meaning="", labels=tuple(labels) if labels else None,
        )
        for name, (array, labels) in outputs.items()
    )  # fmt: skip
    x = TensorSpec(name="x", datatype="FP32", shape=(-1, 1), meaning="")
    example = Example(
        inputs={"x": RecordedTensor.of("FP32", np.zeros((1, 1), np.float32))},
        outputs={
            spec.name: RecordedTensor.of(spec.datatype, outputs[spec.name][0][:1]) for spec in specs
        },
        tolerance=1e-3,
    )
    return ModelCard(
        name="net", version="1", summary="", task="other", inputs=(x,), outputs=specs,
        example=example, intended_use="",
    )  # fmt: skip


def written(rows: list[Any]) -> Any:
    return orjson.loads(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY))


SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
COLORS = ("red", "green", "blue")


def test_half_precision_is_written_as_numbers() -> None:
    card = card_of(y=(np.zeros((1, 2), np.float32), None))
    halves = np.array([[0.1, -3]], np.float16)
    rows = written(predictions(card, {"y": halves}))
    assert np.array(rows, np.float16).tolist() == halves.tolist()


def test_a_classifier_gives_the_label_its_score_and_all_scores() -> None:
    card = card_of(probabilities=(SCORES, COLORS))
    assert written(predictions(card, {"probabilities": SCORES})) == [
        {"label": "green", "score": 0.7, "scores": {"green": 0.7, "blue": 0.2, "red": 0.1}},
        {"label": "red", "score": 0.5, "scores": {"red": 0.5, "green": 0.25, "blue": 0.25}},
    ]
    assert written(rows_of(card, {"probabilities": SCORES}))[0] == [0.1, 0.7, 0.2]


def test_the_index_that_a_converter_calls_label_gives_way_to_the_label() -> None:
    index, hidden = np.array([1, 0]), np.ones((2, 2), np.float32)
    outputs = {"label": index, "probabilities": SCORES, "hidden": hidden}
    card = card_of(label=(index, None), probabilities=(SCORES, COLORS), hidden=(hidden, None))
    first = written(predictions(card, outputs))[0]
    assert first["label"] == "green"
    assert first["hidden"] == [1, 1]
    assert written(rows_of(card, outputs))[0]["label"] == 1


def test_of_many_classes_the_best_are_listed() -> None:
    scores = np.arange(ALL_CLASSES + 1, dtype=np.float32)[None] / 100
    card = card_of(scores=(scores, [f"c{number}" for number in range(ALL_CLASSES + 1)]))
    (row,) = written(predictions(card, {"scores": scores}))
    assert list(row["scores"]) == [f"c{ALL_CLASSES - number}" for number in range(BEST_CLASSES)]
    assert row["label"] == f"c{ALL_CLASSES}"


@pytest.mark.parametrize("count", [1, 3])
def test_numbers_keep_their_digits_and_a_row_of_one_number_is_that_number(count: int) -> None:
    values = np.full((2, count), 0.1, np.float32)
    card = card_of(y=(values, None))
    expected: Any = 0.1 if count == 1 else [0.1] * count
    assert written(predictions(card, {"y": values})) == [expected, expected]
    assert written(rows_of(card, {"y": values})) == [[0.1] * count] * 2


@pytest.mark.parametrize("kind", [np.int64, np.longlong, np.ulonglong, np.int8])
def test_whole_numbers_of_any_numpy_type_are_written(kind: Any) -> None:
    sums = np.array([[52], [2**53 + 1 if kind is not np.int8 else 7]], kind)
    card = card_of(sum=(sums.astype(np.int64), None))
    assert written(predictions(card, {"sum": sums})) == sums[:, 0].tolist()
    assert written(rows_of(card, {"sum": sums[:, 0]})) == sums[:, 0].tolist()


def test_several_outputs_have_their_names() -> None:
    mean, size = np.ones((2, 1), np.float32), np.array([3, 4])
    card = card_of(mean=(mean, None), size=(size, None))
    outputs = {"mean": mean, "size": size}
    assert written(predictions(card, outputs)) == [
        {"mean": 1, "size": 3},
        {"mean": 1, "size": 4},
    ]
    assert written(rows_of(card, outputs))[1] == {"mean": [1], "size": 4}


def answering(card: ModelCard, answer: LabelsSpec | NumberSpec) -> ModelCard:
    """Return the card, whose first output is answered in this way."""
    first, *others = card.outputs
    return card.model_copy(update={"outputs": (replace(first, answer=answer), *others)})


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        (LabelsSpec(top=1), {"label": "green", "score": 0.7, "scores": {"green": 0.7}}),
        (
            LabelsSpec(threshold=0.15),
            {"label": "green", "score": 0.7, "scores": {"green": 0.7, "blue": 0.2}},
        ),
        (LabelsSpec(threshold=0.9), {"label": None, "score": 0.7, "scores": {}}),
        (
            LabelsSpec(multi_label=True),
            {"labels": ["green"], "scores": {"green": 0.7, "blue": 0.2, "red": 0.1}},
        ),
        (
            LabelsSpec(multi_label=True, threshold=0.15, top=2),
            {"labels": ["green", "blue"], "scores": {"green": 0.7, "blue": 0.2}},
        ),
        (
            LabelsSpec(multi_label=True, threshold=0.9),
            {"labels": [], "scores": {"green": 0.7, "blue": 0.2, "red": 0.1}},
        ),
    ],
)
def test_the_card_says_which_labels_are_answered(answer: LabelsSpec, first: Any) -> None:
    card = answering(card_of(probabilities=(SCORES, COLORS)), answer)
    assert written(predictions(card, {"probabilities": SCORES}))[0] == first
    assert written(rows_of(card, {"probabilities": SCORES}))[0] == [0.1, 0.7, 0.2]


def test_every_label_of_many_from_the_threshold_on_is_answered() -> None:
    scores = np.linspace(0, 1, 100, dtype=np.float32)[None]
    card = card_of(probabilities=(scores, [f"c{at}" for at in range(100)]))
    row = predictions(answering(card, LabelsSpec(multi_label=True)), {"probabilities": scores})[0]
    assert len(row["labels"]) == len(row["scores"]) == 50


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (NumberSpec(unit="min"), [{"value": 2, "unit": "min"}, {"value": 3, "unit": "min"}]),
        (NumberSpec(scale=10, offset=-1), [19, 29]),
        (NumberSpec(unit="m", scale=0.5), [{"value": 1, "unit": "m"}, {"value": 1.5, "unit": "m"}]),
    ],
)
def test_a_number_has_the_unit_and_the_scale_of_the_card(answer: NumberSpec, expected: Any) -> None:
    values = np.array([[2], [3]], np.float32)
    card = answering(card_of(y=(values, None)), answer)
    assert written(predictions(card, {"y": values})) == expected
    assert written(rows_of(card, {"y": values})) == [[2], [3]]


def test_a_request_may_ask_for_other_labels() -> None:
    card = answering(card_of(probabilities=(SCORES, COLORS)), LabelsSpec(top=3, multi_label=True))
    asked = asked_labels(card, {"top": 1})
    assert asked == LabelsSpec(top=1, multi_label=True)
    row = written(predictions(card, {"probabilities": SCORES}, asked))[0]
    assert row == {"labels": ["green"], "scores": {"green": 0.7}}
    assert asked_labels(card, None) is asked_labels(card, {}) is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top": 0}, "'top' must be a whole number from 1"),
        ({"top": True}, "'top' must be a whole number"),
        ({"threshold": "0.5"}, "'threshold' must be a number"),
        ({"best": 3}, "with 'top', 'threshold', or both"),
        ([1], "must be an object"),
    ],
)
def test_parameters_that_are_wrong_get_a_sentence(parameters: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        asked_labels(card_of(probabilities=(SCORES, COLORS)), parameters)
