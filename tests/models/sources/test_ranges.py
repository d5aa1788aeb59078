"""`models add --range`: the card records the ranges of the inputs, and all rows are within."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from small_packages import onnx_file

from models.__main__ import main
from models.package.repository import ModelRepository
from models.sources.indices import index_ranges
from models.sources.ranges import InputRange

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a network with a table of four rows and a second, numeric input."""
    path = tmp_path / "net.onnx"
    path.write_bytes(
        onnx_file(
            [
                helper.make_node("Gather", ["table", "tokens"], ["rows"]),
                helper.make_node("Add", ["rows", "x"], ["y"]),
            ],
            [("tokens", T.INT64, ["batch"]), ("x", T.FLOAT, ["batch", 1])],
            [("y", T.FLOAT, ["batch", 3])],
            table=TABLE,
        )
    )
    return path


def add(file: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Add the file; return the exit code and the output."""
    root = file.parent / "repository"
    code = main(["add", "net", "--onnx", str(file), "--repository", str(root), *options])
    printed = capsys.readouterr()
    return code, printed.err if code else printed.out


def test_random_rows_are_within_the_range_and_the_card_records_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = add(file, capsys, "--range", "tokens=0:3", "--range", "x=-0.5:")
    assert code == 0, message
    assert message.splitlines()[1:3] == [
        "  in   tokens  INT64 [-1], 0 to 3",
        "  in   x  FP32 [-1, 1], from -0.5",
    ]
    card = ModelRepository(file.parent / "repository").get("net").card
    tokens, x = card.inputs
    assert (tokens.minimum, tokens.maximum, tokens.enforced) == (0, 3, True)
    assert (x.minimum, x.maximum, x.enforced) == (-0.5, None, True)
    assert not any(spec.enforced for spec in card.outputs)
    for spec in card.inputs:
        assert spec.first_outside(card.example.inputs[spec.name].array()) is None


def test_indices_of_a_table_are_in_the_range_of_the_table(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX would count a negative index from the end."""
    code, message = add(file, capsys)
    assert code == 0, message
    assert message.splitlines()[1] == "  in   tokens  INT64 [-1], 0 to 3"
    sample = file.parent / "rows.npz"
    np.savez(sample, tokens=[-1, 3], x=np.ones((2, 1), np.float32))
    code, message = add(file, capsys, "--sample", str(sample))
    assert code == 1
    assert "tokens holds -1, and its range is 0 to 3" in message
    assert add(file, capsys, "--sample", str(sample), "--range", "tokens=-4:3")[0] == 0


def test_the_smallest_table_sets_the_range_and_computed_indices_are_ignored() -> None:
    nodes = [
        helper.make_node("Cast", ["tokens"], ["cast"], to=T.INT64),
        helper.make_node("Unsqueeze", ["cast", "axis"], ["column"]),
        helper.make_node("Gather", ["large", "cast"], ["first"]),
        helper.make_node("Gather", ["small", "column"], ["second"], axis=1),
        helper.make_node("Clip", ["other", "zero"], ["positive"]),
        helper.make_node("Gather", ["large", "positive"], ["third"]),
    ]
    inputs: list[tuple[str, int, list[str | int]]] = [
        ("tokens", T.INT32, ["batch"]), ("other", T.INT64, ["batch"]),
    ]  # fmt: skip
    content = onnx_file(
        nodes, inputs, [("first", T.FLOAT, ["batch", 2])], axis=np.array([1]), zero=np.array(0),
        large=np.ones((9, 2), np.float32), small=np.ones((2, 5), np.float32),
    )  # fmt: skip
    assert index_ranges(content) == [InputRange("tokens", 0, 4)]


def test_a_table_may_be_a_node() -> None:
    """As torch writes a tensor that is made in `forward`."""
    nodes = [
        helper.make_node("Constant", [], ["table"], value=numpy_helper.from_array(TABLE)),
        helper.make_node("Gather", ["table", "tokens"], ["y"]),
    ]
    content = onnx_file(
        nodes, [("tokens", T.INT64, ["batch"])], [("y", T.FLOAT, ["batch", 3])]
    )  # fmt: skip
    assert index_ranges(content) == [InputRange("tokens", 0, 3)]


def test_the_indices_of_several_axes_are_below_the_largest_size() -> None:
    """As torch writes `table[i, j]`: a negative index is counted from the end there, too."""
    nodes = [
        helper.make_node("Unsqueeze", ["i", "last"], ["first"]),
        helper.make_node("Unsqueeze", ["j", "last"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["places"], axis=1),
        helper.make_node("GatherND", ["table", "places"], ["y"]),
    ]
    content = onnx_file(
        nodes, [("i", T.INT64, ["batch"]), ("j", T.INT64, ["batch"])],
        [("y", T.FLOAT, ["batch"])], table=TABLE, last=np.array([1]),
    )  # fmt: skip
    assert sorted(index_ranges(content)) == [InputRange("i", 0, 3), InputRange("j", 0, 3)]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (("words=0:3",), "--range names 'words': the inputs are tokens, x"),
        (("x=0:3", "x=0:4"), "--range names an input twice: give each input one range"),
        (
            ("tokens=0:0.5",),
            "--range gives tokens the end 0.5, which is no INT64: give numbers that the input can "
            "hold",
        ),
        (
            ("x=0:1e39",),
            "--range gives x the end 1e+39, which is no FP32: give numbers that the input can hold",
        ),
    ],
)
def test_a_range_that_does_not_fit_an_input_is_refused(
    ranges: tuple[str, ...], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for text in ranges for word in ("--range", text)]
    assert add(file, capsys, *options) == (1, f"error: {message}\n")


def test_a_sample_outside_the_range_is_refused(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = file.parent / "rows.npz"
    np.savez(sample, tokens=[0, 3], x=np.ones((2, 1), np.float32))
    code, message = add(file, capsys, "--sample", str(sample), "--range", "tokens=0:2")
    assert (code, message) == (
        1,
        f"error: {sample}: tokens holds 3, and its range is 0 to 2: give rows within the range, "
        "or a wider one with --range tokens=LOW:HIGH\n",
    )
    assert add(file, capsys, "--sample", str(sample), "--range", "tokens=0:3")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        "tokens", "tokens=", "tokens=3", "=0:3", "tokens=:", "tokens=a:3", "x=3:0", "x=nan:",
        "x=0:inf", "x=0:1:2",
    ],
)  # fmt: skip
def test_a_malformed_range_is_refused_with_an_example(
    text: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        add(file, capsys, "--range", text)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert f"argument --range: {text!r} must " in printed
