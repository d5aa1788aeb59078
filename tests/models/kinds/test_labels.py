"""The labels of an added network: the labelled outputs, and contradictions between outputs."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_packages import onnx_file

from models.__main__ import main
from models.package.card import ModelCard
from models.package.repository import ModelRepository

Add = Callable[..., ModelCard | str]


@pytest.fixture
def add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    """A function that adds ONNX content with labels; returns the card or the error."""

    def command(
        content: bytes, *labels: str, sample: dict[str, NDArray[Any]] | None = None
    ) -> ModelCard | str:
        file, root = tmp_path / "model.onnx", tmp_path / "repository"
        file.write_bytes(content)
        options = ["--label", *labels] if labels else []
        if sample is not None:
            np.savez(tmp_path / "rows.npz", **sample)
            options += ["--sample", str(tmp_path / "rows.npz")]
        if main(["add", "net", "--onnx", str(file), "--repository", str(root), *options]):
            return capsys.readouterr().err
        return ModelRepository(root).get("net").card

    return command


def classifier(
    kind: int = TensorProto.INT64, *, off: int = 0, order: tuple[int, ...] = (0, 1, 2)
) -> bytes:
    """Return a graph with the scores of three classes and the label of the largest score.

    The label of column `i` is `off + order[i]`.
    """
    return onnx_file(
        [
            helper.make_node("Identity", ["x"], ["scores"]),
            helper.make_node("ArgMax", ["x"], ["place"], axis=1, keepdims=0),
            helper.make_node("Gather", ["order", "place"], ["label"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("scores", TensorProto.FLOAT, ["batch", 3]), ("label", kind, ["batch"])],
        order=(np.array(order) + off).astype(helper.tensor_dtype_to_np_dtype(kind)),
    )


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_with_swapped_scores_is_refused(
    add: Add,
) -> None:
    """For an SVC with two classes, the converter swaps the scores of every row."""
    from skl2onnx import to_onnx
    from sklearn.svm import SVC

    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 4)).astype(np.float32)
    machine = SVC().fit(rows, (rows.sum(axis=1) > 0).astype(np.int64))
    options = {id(machine): {"zipmap": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = to_onnx(machine, rows[:1], options=options, target_opset=18).SerializeToString()
    message = add(content, "no", "yes", sample={"X": rows[:25]})
    assert isinstance(message, str)
    assert (
        "in 25 of 25 rows the output label names another class than the largest column of "
        in message
    )
    assert "'no'" in message
    assert "'yes'" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8]
)
def test_one_contradicting_row_is_enough_for_a_refusal(kind: int, add: Add) -> None:
    rows = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1]]
    assert isinstance(add(classifier(kind), "a", "b", "c", sample={"x": rows}), ModelCard)
    message = add(classifier(kind, order=(0, 2, 1)), "a", "b", "c", sample={"x": rows})
    assert isinstance(message, str)
    assert "in 2 of 5 rows the output label names another class" in message
    assert "(as 'c' and 'b')" in message


def test_every_numbering_of_classes_that_agrees_with_the_scores_is_accepted(add: Add) -> None:
    """Equal scores, classes numbered from 1, and numbers that are the labels themselves."""
    ties = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
    backwards = onnx_file(
        [
            helper.make_node("Identity", ["x"], ["scores"]),
            helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=1, select_last_index=1),
        ],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("scores", TensorProto.FLOAT, ["batch", 3]), ("label", TensorProto.INT64, ["batch", 1])],
    )
    assert isinstance(add(backwards, "a", "b", "c", sample={"x": ties}), ModelCard)
    assert isinstance(add(classifier(off=1), "a", "b", "c"), ModelCard)
    assert isinstance(add(classifier(off=10), "10", "11", "12"), ModelCard)
    message = add(classifier(off=10, order=(1, 0, 2)), "10", "11", "12")
    assert isinstance(message, str)
    assert re.search(r"names another class .* \(as ('10' and '11'|'11' and '10')\)", message)


def test_an_output_without_classes_contradicts_no_scores(add: Add) -> None:
    """The output holds numbers that are no label's index, or the scores have no labels."""
    rows = np.eye(3, dtype=np.float32)
    assert isinstance(add(classifier(off=100), "a", "b", "c", sample={"x": rows}), ModelCard)
    assert isinstance(add(classifier(order=(1, 0, 2)), sample={"x": rows}), ModelCard)


def test_columns_of_whole_numbers_are_labelled_if_no_columns_of_floats_fit(add: Add) -> None:
    quantized = onnx_file(
        [helper.make_node("Cast", ["x"], ["scores"], to=TensorProto.INT8)],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("scores", TensorProto.INT8, ["batch", 3])],
    )
    card = add(quantized, "a", "b", "c")
    assert isinstance(card, ModelCard)
    assert card.outputs[0].labels == ("a", "b", "c")
    assert card.task == "classification"
    ranked = onnx_file(
        [
            helper.make_node("Identity", ["x"], ["scores"]),
            helper.make_node("TopK", ["x", "three"], ["best", "places"], axis=1),
        ],
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("scores", TensorProto.FLOAT, ["batch", 3]), ("places", TensorProto.INT64, ["batch", 3])],
        three=np.array([3], np.int64),
    )
    card = add(ranked, "a", "b", "c")
    assert isinstance(card, ModelCard)
    assert [spec.labels for spec in card.outputs] == [("a", "b", "c"), None]
