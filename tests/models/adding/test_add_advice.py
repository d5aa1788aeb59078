"""`models add` reports every refusal in one sentence, and its advice works."""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import Bend, onnx_file, seeded

from models.__main__ import main
from models.kinds.tensor_spec import TensorSpec
from models.sources.samples import random_samples

node = helper.make_node
X: tuple[str, int, list[str | int]] = ("x", T.FLOAT, ["batch", 4])
Y: tuple[str, int, Any] = ("y", T.FLOAT, None)
EMPTY = (
    "net.onnx: it has no operators, and so computes nothing: export the network again, with the "
    "outputs that it computes"
)
RELU = [node("Relu", ["x"], ["y"])]

Add = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Add:
    """A function that adds these bytes; returns the error without its prefix, or `wrote`."""
    monkeypatch.chdir(tmp_path)

    def command(content: bytes, *options: str, file: str = "net.onnx") -> str:
        Path(file).write_bytes(content)
        code = main(["add", "net", "--onnx", file, "--repository", "added", *options])
        printed = capsys.readouterr()
        assert "cannot be added" not in printed.err, printed.err
        if code == 0:
            return "wrote"
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        return printed.err.removeprefix("error: ").strip()

    return command


def changed(content: bytes, change: Callable[[Any], object]) -> bytes:
    """Return the ONNX file after a change to its model."""
    model = onnx.load_from_string(content)
    change(model)
    return bytes(model.SerializeToString())


def follow(message: str) -> None:
    """Run the Python code in the message."""
    (lines,) = re.findall(r"with (m = onnx\.load.*)$", message)
    exec(lines, {"onnx": onnx})  # noqa: S102 - the code is from fitserve's message


def test_labels_never_fit_a_free_dimension(add: Add) -> None:
    """The random rows have 32 columns in that dimension."""
    free = onnx_file(RELU, [("x", T.FLOAT, ["batch", "free"])], [Y])
    message = add(free, "--label", *map(str, range(32)))
    assert message.startswith("net.onnx: 32 labels fit no output (y FP32 [-1, -1]): ")
    assert message.endswith("whose number the graph must state")


@pytest.mark.parametrize(
    ("content", "message"),
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
            "net.onnx: the output y is [0, 4] for each row, which holds no number: export it "
            "without",
        ),
        (onnx_file(RELU, [X], []), "net.onnx: it gives no output: export it with the outputs that "
         "are asked for"),
        (onnx_file(RELU, [X], [Y, Y]), "net.onnx: it has two outputs y: export it with a name for "
         "each"),
        (
            onnx_file([], [X], [("x", T.FLOAT, ["batch", 4])]),
            EMPTY,
        ),
        (
            onnx_file([], [X], [("w", T.FLOAT, [1, 4])], w=np.ones((1, 4), np.float32)),
            EMPTY,
        ),
        (
            onnx_file(RELU, [X], [Y]).replace(b"\x01x", b"\x01\xff"),
            "net.onnx: it has names that are no UTF-8: export it with other names",
        ),
        (
            onnx_file(
                [node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER",
                      locale="xx_YY"), node("Size", ["lower"], ["y"])],
                [("text", T.STRING, ["batch"])], [("y", T.INT64, [])],
            ),
            "net.onnx: its StringNormalizer needs the locale xx_YY, which is not installed: "
            "install it, or give the operator the attribute locale='C.UTF-8'",
        ),
    ],
)  # fmt: skip
def test_the_refusal_of_a_graph_says_what_to_change(content: bytes, message: str, add: Add) -> None:
    assert add(content) == message


TEXT = onnx.TensorProto(name="text", data_type=T.STRING, dims=[1], string_data=[b"\xff"])


def test_a_constant_text_may_be_no_utf_8(add: Add) -> None:
    content = onnx_file(RELU, [X], [Y])
    assert add(changed(content, lambda model: model.graph.initializer.append(TEXT))) == "wrote"


def test_a_computed_text_that_is_no_utf_8_is_named(
    add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = node(
        "LabelEncoder", ["x"], ["text"], domain="ai.onnx.ml", keys_floats=[1.0],
        values_strings=[b"\xff"], default_string=b"\xfe",
    )  # fmt: skip
    decoder = node(
        "LabelEncoder", ["text"], ["y"], domain="ai.onnx.ml", keys_strings=[b"\xff"],
        values_floats=[2.0], default_float=1.0,
    )  # fmt: skip
    content = onnx_file([encoder, decoder], [X], [Y])
    Path("net.onnx").write_bytes(content)
    assert main(["add", "net", "--onnx", "net.onnx", "--repository", "added"]) == 0
    assert "cannot be followed (it holds text that is no UTF-8)" in capsys.readouterr().out


def test_a_single_value_is_an_input_a_column_or_a_constant(add: Add) -> None:
    nodes = [node("Mul", ["x", "scale"], ["y"])]
    assert add(onnx_file(nodes, [X, ("scale", T.FLOAT, [])], [Y])) == "wrote"
    assert add(onnx_file(nodes, [X, ("scale", T.FLOAT, ["batch", 1])], [Y])) == "wrote"
    assert add(onnx_file(nodes, [X], [Y], scale=np.float32(2).reshape(()))) == "wrote"


def test_the_advice_for_a_newer_ir_version_works(add: Add) -> None:
    newer = changed(onnx_file(RELU, [X], [Y]), lambda model: setattr(model, "ir_version", 99))
    message = add(newer)
    assert re.match(
        r"net\.onnx: its IR version is 99, and ONNX Runtime reads those up to \d+", message
    )
    follow(message)
    assert add(Path("net.onnx").read_bytes()) == "wrote"


def test_a_newer_opset_is_refused_with_the_newest_supported_opset(add: Add) -> None:
    def newer(version: int) -> bytes:
        return changed(
            onnx_file(RELU, [X], [Y]),
            lambda model: setattr(model.opset_import[0], "version", version),
        )

    message = add(newer(99))
    (newest,) = re.findall(
        r"its operators are of opset 99 of ai.onnx, and ONNX Runtime reads opsets up to (\d+): "
        r"export it with that one \(opset_version in torch.onnx.export, target_opset in skl2onnx",
        message,
    )
    assert add(newer(int(newest))) == "wrote"


def test_the_advice_for_a_wrongly_stated_shape_works(add: Add) -> None:
    compressed = node("Compress", ["x", "kept"], ["y"], axis=1)
    kept = {"kept": np.array([True, True, True, False])}
    message = add(onnx_file([compressed], [X], [("y", T.FLOAT, ["batch", 4])], **kept))
    assert message.startswith(
        "net.onnx: y is FP32 [-1, 4] in the graph; the card says FP32 [-1, 3]"
    )
    follow(message)
    assert add(Path("net.onnx").read_bytes()) == "wrote"


def test_a_first_dimension_that_is_stated_wrongly_is_put_right(add: Add) -> None:
    """The shape that onnxmltools writes for the label of LightGBM, also with zipmap=False."""
    assert add(onnx_file(RELU, [X], [("y", T.FLOAT, [1, 4])])) == "wrote"


def saved(module: Any, **options: Any) -> bytes:
    """Return an object as torch.save writes it."""
    stream = io.BytesIO()
    torch.save(module, stream, **options)
    return stream.getvalue()


def program() -> bytes:
    """Return a network as torch.export saves it."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(seeded(Bend), (torch.ones(2, 1),)), stream)
    return stream.getvalue()


def archive(*names: str) -> bytes:
    """Return a zip file of empty files with these names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        for name in names:
            written.writestr(name, b"")
    return stream.getvalue()


STATE = {"weight": torch.ones(1)}
CHECKPOINT = (
    "it is a checkpoint of torch.save. If it is weights alone: give the network as SOURCE, "
)
EXPORTED = "fitserve exports it: give it as SOURCE, without an option in front"
KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "checkpoint": (lambda: saved(STATE), CHECKPOINT),
    "old checkpoint": (
        lambda: saved(STATE, _use_new_zipfile_serialization=False), CHECKPOINT,
    ),
    "pickle": (lambda: pickle.dumps([1]), "it is a pickle, whose loading runs any code in it"),
    "safetensors": (
        lambda: (40).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1]}}',
        "it is weights alone: give the network as SOURCE, as FILE.py:make for a function in your",
    ),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(100), "it is TensorFlow Lite: make ONNX of it "),
    "ort": (lambda: b"\x1c\0\0\0ORTM" + bytes(100), "it is ONNX Runtime's own format: give the "),
    "zip": (lambda: archive("a.txt"), "ONNX Runtime cannot load it ("),
    "cut zip": (lambda: archive("a.txt")[:20], "ONNX Runtime cannot load it ("),
}  # fmt: skip
NOT_TORCHSCRIPT: dict[str, tuple[Callable[[], bytes], str]] = {
    "checkpoint": KINDS["checkpoint"],
    "old checkpoint": KINDS["old checkpoint"],
    "program": (program, f"it is a program of torch.export. {EXPORTED}"),
    "keras": (
        lambda: archive("config.json", "model.weights.h5"), f"it is Keras' own format. {EXPORTED}",
    ),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), f"it is Keras' own format. {EXPORTED}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_another_file_format_is_recognised(kind: str, add: Add) -> None:
    make, message = KINDS[kind]
    assert add(make(), file="f").startswith(f"f: {message}")


@pytest.mark.parametrize("kind", NOT_TORCHSCRIPT)
def test_another_file_format_is_recognised_in_place_of_torchscript(kind: str, add: Add) -> None:
    make, message = NOT_TORCHSCRIPT[kind]
    Path("f").write_bytes(make())
    assert add(onnx_file(RELU, [X], [Y]), "--torchscript", "f").startswith(f"f: {message}")


@pytest.mark.parametrize(
    ("rows", "datatype", "message"),
    [
        (np.full((2, 4), 1e300), T.FLOAT, "x holds a number that is no FP32: give smaller numbers"),
        (np.full((2, 4), 1000), T.INT8, "x holds a number that is no INT8: give smaller numbers"),
        (np.array([["a"] * 4] * 2), T.FLOAT, "give rows of that shape, as float32"),
        (np.ones((2, 4), complex), T.FLOAT, "give rows of that shape, as float32"),
        (np.ones((0, 4), np.float32), T.FLOAT, "it holds 0 rows of x: give two or more"),
    ],
)
def test_sample_rows_that_do_not_fit_the_input_are_refused(
    rows: NDArray[Any], datatype: int, message: str, add: Add
) -> None:
    np.savez("rows.npz", x=rows)
    content = onnx_file(
        [node("Identity", ["x"], ["y"])],
        [("x", datatype, ["batch", 4])],
        [("y", datatype, ["batch", 4])],
    )
    assert message in add(content, "--sample", "rows.npz")


@pytest.mark.parametrize("ends", ["-1e308:1e308", "1e308:", ":-1e308"])
def test_a_range_may_span_the_whole_datatype(ends: str, add: Add) -> None:
    content = onnx_file(
        [node("Sign", ["x"], ["y"])],
        [("x", T.DOUBLE, ["batch", 4])],
        [("y", T.DOUBLE, ["batch", 4])],
    )
    assert add(content, "--range", f"x={ends}") == "wrote"


def test_several_free_dimensions_do_not_make_huge_rows(add: Add) -> None:
    """With a size of 32 in each of the six dimensions, a batch would take 8 GB."""
    shape: list[str | int] = ["batch", *"abcdef"]
    assert add(onnx_file(RELU, [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)])) == "wrote"


def test_large_rows_reduce_the_number_of_random_rows() -> None:
    """64 of these rows would take 4 GB, and more in double precision."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2**24), meaning="")
    assert random_samples([spec], None).count == 4
