"""Outputs of as many entries as the values say are divided among the rows of a batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_packages import property_test, snapshot
from split_networks import APART, FLAT, LIT, MIXED, YOLO, pictures

from models.__main__ import main
from models.errors import AddError
from models.graphs.entry_mixing import entry_mixing
from models.kinds.split_rows import SplitError, SplitSpec
from models.package.model_package import ModelPackage
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import OnnxRuntime

NETWORKS: Mapping[str, tuple[bytes, str, Sequence[str]]] = {
    "yolo": (YOLO, "detections:0", ["detections"]),
    "apart": (APART, "batch_ids", ["at", "percent", "batch_ids"]),
    "flat": (FLAT, "detections:0", ["detections"]),
    "lit": (LIT, "places:0", ["places", "levels"]),
}


def run(folder: Path, content: bytes, *options: str) -> int:
    """Add a network as a user would."""
    (folder / "net.onnx").write_bytes(content)
    np.savez(folder / "rows.npz", x=pictures(24))
    given_options = ["--onnx", str(folder / "net.onnx"), "--sample", str(folder / "rows.npz")]
    repository = ["--repository", str(folder / "repository")]
    return main(["add", "net", *given_options, *repository, *options])


def added(folder: Path) -> ModelPackage:
    return ModelRepository(folder / "repository").get("net")


@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_of_a_batch_gets_its_own_entries(name: str, tmp_path: Path) -> None:
    content, index, divided = NETWORKS[name]
    assert run(tmp_path, content, "--split-by", index) == 0
    package = added(tmp_path)
    card = package.card
    assert card.split is not None
    assert set(card.split.outputs) == set(divided)
    assert card.batching == "rows"
    assert main(["--repository", str(tmp_path / "repository"), "verify"]) == 0
    rows = pictures(9, seed=5)
    runtime, network = open_runtime(package, "onnx"), OnnxRuntime(package.load("model.onnx"))
    together = runtime({"x": rows})
    counts = set()
    for row in range(len(rows)):
        alone = network({"x": rows[row : row + 1]})  # a row alone has the index 0
        for output in divided:
            np.testing.assert_array_equal(together[output][row], alone[output])
        counts.add(len(alone[divided[0]]))
    assert len(counts) > 2
    whole = card.axes.outputs_of_network(together)
    for output, array in network({"x": rows}).items():
        np.testing.assert_allclose(whole[output], array, rtol=1e-6)


def test_without_the_option_such_a_network_is_computed_alone(tmp_path: Path) -> None:
    assert run(tmp_path, YOLO) == 0
    card = added(tmp_path).card
    assert (card.batching, card.split) == ("none", None)


@pytest.mark.parametrize("name", MIXED)
def test_entries_that_depend_on_other_rows_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In most of these, the difference is below the tolerance of the trials."""
    assert run(tmp_path, MIXED[name], "--split-by", "detections:0") == 1
    message = capsys.readouterr().err
    assert "it is not proved that the entries of a row do not depend on the rows" in message
    assert "omit --split-by: each request is then computed alone" in message
    assert snapshot(tmp_path / "repository") == {}
    assert run(tmp_path, MIXED[name]) == 0  # the advice works


@pytest.mark.parametrize(
    ("content", "index", "message"),
    [
        (YOLO, "boxes:0", "--split-by boxes:0: the outputs are detections"),
        (YOLO, "detections", r"is float32 .*: name the column of the index, as detections:0"),
        (YOLO, "detections:7", "one number for each entry: name the column"),
        (YOLO, "detections:1", "has the places of rows in the columns|names no row of the"),
        (APART, "percent", "the output percent has the places|names no row of the"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    content: bytes, index: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, content, "--split-by", index) == 1
    (sentence,) = capsys.readouterr().err.splitlines()[-1:]
    assert any(part.strip() for part in message.split("|"))
    with pytest.raises(AddError, match=message):
        raise AddError(sentence)


def test_a_sample_with_equal_numbers_of_entries_shows_too_little(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = np.zeros((4, 1, 4, 4), np.float32)
    np.savez(tmp_path / "dark.npz", x=dark)
    options = ("--split-by", "detections:0", "--sample", str(tmp_path / "dark.npz"))
    assert run(tmp_path, YOLO, *options) == 1
    assert "give rows with unlike numbers of entries" in capsys.readouterr().err


def test_an_index_of_another_row_is_an_error() -> None:
    split = SplitSpec(index="at", column=None, outputs=("at",))
    for places in ([0, 3], [-1, 0], [0.5, 1]):
        with pytest.raises(SplitError, match="names no row of the 3 that were computed"):
            split.rows_of({"at": np.array(places)}, 3)


@property_test
@given(
    st.lists(st.integers(0, 4), max_size=12),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([np.int64, np.float32]),
)
def test_entries_are_divided_and_joined_without_loss(
    places: list[int], column: int | None, dtype: Any
) -> None:
    split = SplitSpec(index="index", column=column, outputs=("index", "value"))
    index: NDArray[Any] = np.array(places, dtype)
    if column is not None:
        index = np.full((len(places), 3), 9, dtype)
        index[:, column] = places
    outputs = {"index": index, "value": np.arange(len(places))}
    rows = split.rows_of(outputs, 5)
    for row in range(5):
        expected = [at for at, place in enumerate(places) if place == row]
        assert rows["value"][row].tolist() == expected
        own = rows["index"][row]
        assert not (own if column is None else own[:, column]).any()
    joined = split.joined(rows)
    assert joined["index"].dtype == dtype
    found = joined["index"] if column is None else joined["index"][:, column]
    assert found.tolist() == sorted(places)
    part = split.joined({name: array[2:4] for name, array in rows.items()})
    counted = part["index"] if column is None else part["index"][:, column]
    assert counted.tolist() == [place - 2 for place in sorted(places) if place in (2, 3)]


def test_a_followed_graph_has_no_reason() -> None:
    from models.kinds.batch_axes import BatchAxes

    split = SplitSpec(index="detections", column=0, outputs=("detections",))
    axes = BatchAxes({"x": 0}, {"detections": None}, split)
    assert entry_mixing(YOLO, {"x": pictures(3)}, axes, split) is None
