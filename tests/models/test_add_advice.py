"""`models add` ends in one sentence whatever it is given, and its advice works."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from foreign_networks import scripted
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import Bend, onnx_file, seeded

from models.__main__ import main
from models.card import TensorSpec
from models.samples import random_samples

node = helper.make_node
X: tuple[str, int, list[str | int]] = ("x", T.FLOAT, ["batch", 4])
Y: tuple[str, int, Any] = ("y", T.FLOAT, None)
RELU = [node("Relu", ["x"], ["y"])]

Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Add:
    """Add these bytes: one line of what is said, or `wrote`."""
    monkeypatch.chdir(tmp_path)

    def command(content: bytes, *options: str, file: str = "net.onnx") -> str:
        Path(file).write_bytes(content)
        code = main(["add", "net", "--onnx", file, "--repository", "added", *options])
        said = capsys.readouterr()
        assert "cannot be added" not in said.err, said.err
        if code == 0:
            return "wrote"
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err
        return said.err.removeprefix("error: ").strip()

    return command


def changed(content: bytes, change: Callable[[Any], object]) -> bytes:
    """The ONNX file with something else in it."""
    model = onnx.load_from_string(content)
    change(model)
    return bytes(model.SerializeToString())


def follow(said: str) -> None:
    """Run the Python that the sentence advises."""
    (lines,) = re.findall(r"with (m = onnx\.load.*)$", said)
    exec(lines, {"onnx": onnx})  # noqa: S102 - it is ours


def test_labels_never_fit_a_dimension_that_is_free(add: Add) -> None:
    """Random rows have 32 columns there."""
    free = onnx_file(RELU, [("x", T.FLOAT, ["batch", "free"])], [Y])
    said = add(free, "--label", *map(str, range(32)))
    assert said.startswith("net.onnx: 32 labels fit no output (y FP32 [-1, -1]): ")
    assert said.endswith("whose number the graph must state")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            onnx_file(
                [node("Slice", ["x", "zero", "zero", "axes"], ["z"]), node("Abs", ["z"], ["y"])],
                [("x", T.FLOAT, ["batch", "free"])],
                [("y", T.FLOAT, ["batch", "none"])],
                zero=np.array([0]),
                axes=np.array([1]),
            ),
            "net.onnx: the output y is [0] for each row, which holds no number: export it without",
        ),
        (
            onnx_file(RELU, [("x", T.FLOAT, ["batch", 0])], [Y]),
            "net.onnx: the input x is ['batch', 0], which holds no number: export it without",
        ),
        (
            onnx_file(RELU, [("x", T.FLOAT, [0, 4])], [Y]),
            "net.onnx: the input x is [0, 4], which holds no number: export it without",
        ),
        (
            onnx_file(
                [node("Slice", ["x", "zero", "zero", "axes"], ["y"])], [X], [Y],
                zero=np.array([0]), axes=np.array([0]),
            ),
            "net.onnx: the output y is [0, 4] for a batch of 7: export it with the batch as the "
            "first dimension of every output",
        ),
        (
            onnx_file(
                [node("Squeeze", ["x"], ["y"])], [("x", T.FLOAT, ["batch", "free"])], [Y]
            ),
            "net.onnx: the output y is [32] for one row and [7, 32] for 7: export it with the "
            "batch as the first dimension of every output, also where that is 1",
        ),
        (onnx_file(RELU, [X], []), "net.onnx: it gives no output: export it with the outputs that "
         "are asked for"),
        (onnx_file(RELU, [X], [Y, Y]), "net.onnx: it has two outputs y: export it with a name for "
         "each"),
        (
            onnx_file(
                [node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER",
                      locale="xx_YY"), node("Size", ["lower"], ["y"])],
                [("text", T.STRING, ["batch"])], [("y", T.INT64, [])],
            ),
            "net.onnx: it works on text, which is not served: turn text into numbers before the "
            "graph, and export what follows",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_be_served_is_told_so(content: bytes, told: str, add: Add) -> None:
    assert add(content) == told


def test_a_single_value_is_made_an_input_of_one_column_or_a_constant(add: Add) -> None:
    nodes = [node("Mul", ["x", "scale"], ["y"])]
    said = add(onnx_file(nodes, [X, ("scale", T.FLOAT, [])], [Y]))
    assert "make a single value a constant, or an input of shape [batch, 1]; else" in said
    assert add(onnx_file(nodes, [X, ("scale", T.FLOAT, ["batch", 1])], [Y])) == "wrote"
    assert add(onnx_file(nodes, [X], [Y], scale=np.float32(2).reshape(()))) == "wrote"


def test_a_newer_ir_version_is_lowered_as_advised(add: Add) -> None:
    newer = changed(onnx_file(RELU, [X], [Y]), lambda model: setattr(model, "ir_version", 99))
    said = add(newer)
    assert re.match(
        r"net\.onnx: its IR version is 99, and ONNX Runtime reads those up to \d+", said
    )
    follow(said)
    assert add(Path("net.onnx").read_bytes()) == "wrote"


def test_a_newer_opset_is_told_with_the_newest_that_is_read(add: Add) -> None:
    def newer(version: int) -> bytes:
        return changed(
            onnx_file(RELU, [X], [Y]),
            lambda model: setattr(model.opset_import[0], "version", version),
        )

    said = add(newer(99))
    (newest,) = re.findall(
        r"its operators are of opset 99 of ai.onnx, and ONNX Runtime reads opsets up to (\d+): "
        r"export it with that one \(opset_version in torch.onnx.export, target_opset in skl2onnx",
        said,
    )
    assert add(newer(int(newest))) == "wrote"


def test_a_shape_that_the_graph_states_wrongly_is_cleared_as_advised(add: Add) -> None:
    """As onnxmltools writes for the label of LightGBM, also with zipmap=False."""
    said = add(onnx_file(RELU, [X], [("y", T.FLOAT, [1, 4])]))
    assert said.startswith("net.onnx: y is FP32 [1, 4] in the graph; the card says FP32 [-1, 4]")
    follow(said)
    assert add(Path("net.onnx").read_bytes()) == "wrote"


def saved(what: Any, **options: Any) -> bytes:
    """It, as torch.save writes it."""
    stream = io.BytesIO()
    torch.save(what, stream, **options)
    return stream.getvalue()


def program() -> bytes:
    """A network as torch.export saves it."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(seeded(Bend), (torch.ones(2, 1),)), stream)
    return stream.getvalue()


def archive(*names: str) -> bytes:
    """A zip file of these, empty."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name in names:
            written.writestr(name, b"")
    return stream.getvalue()


STATE = {"weight": torch.ones(1)}
CHECKPOINT = "it is a checkpoint of torch.save: load it into its network (torch.load('f')), and "
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "torchscript": (lambda: scripted(seeded(Bend)), "it is TorchScript: export the network as ONN"),
    "program": (program, "it is a program of torch.export: make ONNX of it with torch.onnx.exp"),
    "checkpoint": (lambda: saved(STATE), CHECKPOINT),
    "old checkpoint": (
        lambda: saved(STATE, _use_new_zipfile_serialization=False), CHECKPOINT,
    ),
    "keras": (lambda: archive("config.json", "model.weights.h5"), "it is Keras' own format: make "),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "it is Keras' own format: make ONNX of it"),
    "pickle": (lambda: pickle.dumps([1]), "it is a pickle: load it in Python, and export what"),
    "safetensors": (
        lambda: (40).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1]}}',
        "it is weights alone: load them into their network, and export that with torch.onnx.export",
    ),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(100), "it is TensorFlow Lite: make ONNX of it "),
    "zip": (lambda: archive("a.txt"), "ONNX Runtime cannot load it ("),
    "cut zip": (lambda: archive("a.txt")[:20], "ONNX Runtime cannot load it ("),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_file_is_recognised(kind: str, add: Add) -> None:
    make, told = KINDS[kind]
    assert add(make(), file="f").startswith(f"f: {told}")


@pytest.mark.parametrize("kind", ["checkpoint", "old checkpoint", "program", "keras"])
def test_another_kind_of_file_is_recognised_in_the_place_of_torchscript(
    kind: str, add: Add
) -> None:
    make, told = KINDS[kind]
    Path("f").write_bytes(make())
    assert add(onnx_file(RELU, [X], [Y]), "--torchscript", "f").startswith(f"f: {told}")


def test_a_program_of_torch_becomes_onnx_as_advised(add: Add) -> None:
    said = add(program(), file="net.pt2")
    (advised,) = re.findall(r"with (torch\.onnx\.export\(.*)$", said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's
        exec(advised, {"torch": torch})  # noqa: S102 - it is ours
    assert add(Path("network.onnx").read_bytes()) == "wrote"


@pytest.mark.parametrize(
    ("rows", "datatype", "told"),
    [
        (np.full((2, 4), 1e300), T.FLOAT, "x holds a number that is no FP32: give smaller numbers"),
        (np.full((2, 4), 1000), T.INT8, "x holds a number that is no INT8: give smaller numbers"),
        (np.array([["a"] * 4] * 2), T.FLOAT, "give rows of that shape, as float32"),
        (np.ones((2, 4), complex), T.FLOAT, "give rows of that shape, as float32"),
        (np.ones((0, 4), np.float32), T.FLOAT, "it holds 0 rows of x: give two or more"),
    ],
)
def test_rows_that_the_input_cannot_hold_are_refused(
    rows: NDArray[Any], datatype: int, told: str, add: Add
) -> None:
    np.savez("rows.npz", x=rows)
    content = onnx_file(
        [node("Identity", ["x"], ["y"])],
        [("x", datatype, ["batch", 4])],
        [("y", datatype, ["batch", 4])],
    )
    assert told in add(content, "--sample", "rows.npz")


@pytest.mark.parametrize("ends", ["-1e308:1e308", "1e308:", ":-1e308"])
def test_a_range_may_be_as_wide_as_its_datatype(ends: str, add: Add) -> None:
    content = onnx_file(
        [node("Sign", ["x"], ["y"])],
        [("x", T.DOUBLE, ["batch", 4])],
        [("y", T.DOUBLE, ["batch", 4])],
    )
    assert add(content, "--range", f"x={ends}") == "wrote"


def test_several_free_dimensions_make_no_huge_rows(add: Add) -> None:
    """With 32 in each of six a batch would take 8 GB."""
    shape: list[str | int] = ["batch", *"abcdef"]
    assert add(onnx_file(RELU, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)])) == "wrote"


def test_of_large_rows_there_are_fewer() -> None:
    """Sixty-four of these would take 4 GB, and as much again in double precision."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2**24), meaning="")
    assert random_samples([spec], None).count == 4
