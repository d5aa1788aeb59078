"""`python -m models add`: a network of any origin is checked, and added or refused with advice."""

import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported_networks import DIGITS, SPECIES, Added, scripted
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from small_packages import Bend, bend_onnx, seeded, snapshot
from torch import Tensor, nn

from models.__main__ import main
from models.package.readme import render_page
from models.package.repository import ModelRepository
from models.proofs.proof_budget import LEAST_ROWS
from models.runtimes.loading import open_runtime

Add = Callable[..., tuple[int, str]]
Shape = Sequence[str | int | None] | None
NAMES = ("iris", "keras-digits", "one-at-a-time", "resnet", "two-inputs")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The repository of one test."""
    return tmp_path / "repository"


@pytest.fixture
def add(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    """A function that adds ONNX content as a user would; returns the exit code and the output."""

    def command(content: bytes, *options: str, name: str = "net") -> tuple[int, str]:
        file = tmp_path / "model.onnx"
        file.write_bytes(content)
        code = main(["add", name, "--onnx", str(file), "--repository", str(root), *options])
        printed = capsys.readouterr()
        return code, printed.err if code else printed.out

    return command


def tensor(name: str, kind: int = T.FLOAT, shape: Shape = ("batch", 4)) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: list[Any],
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    **constants: NDArray[Any],
) -> bytes:
    """Return a graph with the input `x` and the output `y`, or with the given ones."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [tensor("x")] if inputs is None else inputs,
            [tensor("y")] if outputs is None else outputs,
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def node(operator: str, *inputs: str, gives: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), [gives], **attributes)


# Networks of other libraries.


@pytest.mark.parametrize("name", NAMES)
def test_an_added_network_computes_the_outputs_of_its_own_library(
    name: str, added_repository: Added
) -> None:
    package = ModelRepository(added_repository.root).get(name)
    network = added_repository.networks[name]
    for runtime in package.card.runtimes:
        opened = open_runtime(package, runtime)
        size = package.card.fixed_batch or len(next(iter(network.inputs.values())))
        count = len(next(iter(network.inputs.values())))
        batches = [
            opened({key: rows[start : start + size] for key, rows in network.inputs.items()})
            for start in range(0, count, size)
        ]
        assert set(network.outputs) == set(batches[0])
        for output, expected in network.outputs.items():
            actual = np.concatenate([batch[output] for batch in batches])
            assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_cards_state_inputs_and_outputs(added_repository: Added) -> None:
    cards = {
        name: ModelRepository(added_repository.root).get(name).card
        for name in added_repository.networks
    }
    assert {
        name: [
            {spec.name: spec.to_text() for spec in specs} for specs in (card.inputs, card.outputs)
        ]
        for name, card in cards.items()
        if name != "keras-digits"  # Keras numbers its output
    } == {
        "resnet": [{"x": "FP32 [-1, 3, 64, 64]"}, {"logits": "FP32 [-1, 1000]"}],
        "iris": [
            {"X": "FP32 [-1, 4]"},
            {"label": "INT64 [-1]", "probabilities": "FP32 [-1, 3]"},
        ],
        "two-inputs": [
            {"picture": "FP32 [-1, 8, 8]", "facts": "INT64 [-1, 3]"},
            {"score": "FP32 [-1, 1]"},
        ],
        "one-at-a-time": [{"signal": "FP32 [1, 4]"}, {"answer": "FP32 [1, 2]"}],
    }
    assert cards["keras-digits"].inputs[0].to_text() == "FP32 [-1, 28, 28, 1]"
    assert cards["keras-digits"].outputs[0].to_text() == "FP32 [-1, 10]"
    assert {name: card.task for name, card in cards.items()} == {
        "iris": "classification",
        "keras-digits": "classification",
        "one-at-a-time": "other",
        "resnet": "other",
        "two-inputs": "other",
    }
    assert [spec.labels for spec in cards["iris"].outputs] == [None, SPECIES]
    assert [spec.labels for spec in cards["keras-digits"].outputs] == [DIGITS]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_an_added_network_has_no_training_record(
    name: str, added_repository: Added
) -> None:
    card = ModelRepository(added_repository.root).get(name).card
    assert (card.fit, card.evaluations, card.seeds) == (None, (), ())
    assert "How it was fitted and how good it is are not known here." in card.limits
    assert any("random numbers" in limit for limit in card.limits)
    assert [record.runtime for record in card.parity] == list(card.runtimes)
    least = LEAST_ROWS if name == "resnet" else 64  # a busy machine computes fewer rows of it
    assert all(least <= record.samples <= 64 for record in card.parity)
    page = render_page(card)
    assert "eager" not in page
    assert "fitted" not in page.replace(card.limits[0], "")
    assert ("Each file against the other" in page) == (name == "resnet")
    assert ("the same row alone" in page) == (name != "one-at-a-time")


def test_the_packages_are_listed_and_verified(
    added_repository: Added, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()  # discard the output of `add`
    assert main(["--repository", str(added_repository.root), "verify"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in printed] == [f"{name}/1" for name in NAMES]
    assert main(["--repository", str(added_repository.root), "list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in printed] == [
        [f"{name}/1", "not evaluated"] for name in NAMES
    ]


# Facts that the graph does not state.


def test_adding_a_network_under_an_existing_name_makes_the_next_version(
    add: Add, root: Path
) -> None:
    assert add(graph([node("Relu", "x")]))[0] == 0
    code, message = add(
        graph([node("Tanh", "x")]), "--summary", "It bends.", "--task", "regression"
    )
    assert code == 0
    assert message.splitlines() == [
        f"wrote {root}/net/2: regression, onnx",
        "  in   x  FP32 [-1, 4]",
        "  out  y  FP32 [-1, 4]",
        "  checks: 64 rows, alone and in batches",
    ]
    repository = ModelRepository(root)
    assert repository.versions("net") == ["1", "2"]
    assert repository.get("net").card.summary == "It bends."
    assert repository.get("net", "1").card.summary == "Added from model.onnx."


def test_an_output_without_a_stated_shape_gets_its_computed_shape(add: Add, root: Path) -> None:
    """The shape depends on a tensor, so ONNX Runtime does not know it before the computation."""
    shape = [node("Identity", "sizes", gives="shape"), node("Reshape", "x", "shape")]
    sizes = np.array([-1, 2, 2], np.int64)
    code, message = add(graph(shape, outputs=[tensor("y", shape=None)], sizes=sizes))
    assert code == 0, message
    package = ModelRepository(root).get("net")
    assert package.card.outputs[0].shape == (-1, 2, 2)
    outputs = open_runtime(package, "onnx")({"x": np.ones((3, 4), np.float32)})
    assert outputs["y"].shape == (3, 2, 2)


def test_free_dimensions_other_than_the_batch_stay_free(add: Add, root: Path) -> None:
    code, message = add(
        graph(
            [node("Relu", "x", gives="r"), node("GlobalAveragePool", "r", gives="m"),
             node("Flatten", "m", gives="mean"), node("Identity", "r")],
            [tensor("x", shape=("batch", 3, "height", "width"))],
            [tensor("y", shape=("batch", 3, "height", "width")), tensor("mean", shape=None)],
        )
    )  # fmt: skip
    assert code == 0, message
    package = ModelRepository(root).get("net")
    assert package.card.inputs[0].shape == (-1, 3, -1, -1)
    assert package.card.outputs[0].shape == (-1, 3, -1, -1)
    assert package.card.outputs[1].shape[0] == -1
    tried = "[3, 32, 32], [3, 1, 1], [3, 33, 33], [3, 48, 48], [3, 64, 64], [3, 16, 16], "
    assert any(f"Of x, rows of {tried}" in limit for limit in package.card.limits)
    image = np.ones((2, 3, 5, 7), np.float32)
    assert open_runtime(package, "onnx")({"x": image})["y"].shape == (2, 3, 5, 7)


def test_a_fixed_batch_of_several_rows_is_checked_in_whole_batches(add: Add, root: Path) -> None:
    """The rows may depend on each other, since the network computes one batch at a time."""
    axes = np.array([0], np.int64)
    code, message = add(
        graph(
            [node("ReduceSum", "x", "axes", gives="sum", keepdims=1), node("Sub", "x", "sum")],
            [tensor("x", shape=(3, 4))],
            [tensor("y", shape=(3, 4))],
            axes=axes,
        )
    )
    assert code == 0, message
    card = ModelRepository(root).get("net").card
    assert card.fixed_batch == 3
    assert card.example.inputs["x"].shape == card.example.outputs["y"].shape == (3, 4)
    assert [(record.samples, record.batch_sizes) for record in card.parity] == [(66, (3,))]
    assert "Each batch of 3 against the same batch again." in render_page(card)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(T.BOOL, np.bool_), (T.UINT8, np.uint8), (T.INT8, np.int8), (T.UINT64, np.uint64),
     (T.INT32, np.int32), (T.FLOAT16, np.float16), (T.DOUBLE, np.float64)],
)  # fmt: skip
def test_every_datatype_is_supported_as_input_and_output(
    kind: int, dtype: type[np.generic], add: Add, root: Path
) -> None:
    code, message = add(graph([node("Identity", "x")], [tensor("x", kind)], [tensor("y", kind)]))
    assert code == 0, message
    package = ModelRepository(root).get("net")
    assert package.card.inputs[0].dtype == package.card.outputs[0].dtype == np.dtype(dtype)
    rows = np.ones((2, 4), dtype)
    np.testing.assert_array_equal(open_runtime(package, "onnx")({"x": rows})["y"], rows)


def embedding() -> bytes:
    """Return a graph that looks up rows of a table of five, with indices from 1."""
    return graph(
        [node("Sub", "x", "one", gives="place"), node("Gather", "table", "place")],
        [tensor("x", T.INT64, ["batch", 2])],
        [tensor("y", shape=["batch", 2, 3])],
        one=np.array(1, np.int64),
        table=np.arange(15, dtype=np.float32).reshape(5, 3),
    )


def test_a_sample_provides_the_rows_of_the_proof_and_the_example(
    add: Add, root: Path, tmp_path: Path
) -> None:
    code, message = add(embedding())
    assert code == 1
    assert message.startswith("error: model.onnx: it fails on random numbers (")
    assert "): give real rows with --sample FILE.npz, or " in message
    assert not root.exists()

    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.array([[5, 2], [1, 3], [4, 4]]))
    code, message = add(embedding(), "--sample", str(sample))
    assert code == 0, message
    card = ModelRepository(root).get("net").card
    assert card.example.inputs["x"].array().tolist() == [[5, 2], [1, 3]]
    assert (card.parity[0].samples, card.parity[0].batch_sizes) == (3, (1, 3))
    assert not any("random" in limit for limit in card.limits)


def test_a_sample_provides_a_shape_that_the_graph_does_not_state(
    add: Add, root: Path, tmp_path: Path
) -> None:
    shapeless = graph([node("Relu", "x")], [tensor("x", shape=None)], [tensor("y", shape=None)])
    sample = tmp_path / "sample.npz"
    np.savez(sample, x=np.zeros((2, 5)))  # FP64, converted to the FP32 of the graph
    code, message = add(shapeless, "--sample", str(sample))
    assert code == 0, message
    assert ModelRepository(root).get("net").card.inputs[0].to_text() == "FP32 [-1, 5]"


# Refusals.


def sequence(name: str) -> Any:
    kind = helper.make_tensor_type_proto(T.FLOAT, ["batch", 4])
    return helper.make_value_info(name, helper.make_sequence_type_proto(kind))


def optional(name: str) -> Any:
    kind = helper.make_tensor_type_proto(T.FLOAT, ["batch", 4])
    return helper.make_value_info(name, helper.make_optional_type_proto(kind))


ONE = np.ones(4, np.float32)
FIRST = np.array([0], np.int64)

REFUSED: dict[str, tuple[bytes, str]] = {
    "no ONNX": (b"garbage", "ONNX Runtime cannot load it (.*): export it anew"),
    "empty": (b"", "ONNX Runtime cannot load it (.*): export it anew"),
    "unknown operator": (
        graph([node("Mystery", "x")]),
        "ONNX Runtime cannot load it (.*Mystery.*): export it anew, with ONNX's own operators",
    ),
    "no input": (
        graph([node("Identity", "one")], [], [tensor("y", shape=[4])], one=ONE),
        "it takes no input: export it with the inputs",
    ),
    "input with a default": (
        graph([node("Add", "x", "w")], [tensor("x"), tensor("w", shape=[4])], w=ONE),
        "its inputs w may be left out: make them constants .*keep_initializers_as_inputs=False",
    ),
    "a table that lacks texts": (
        graph([node("Cast", "x", to=T.FLOAT)], [tensor("x", T.STRING)]),
        r"it fails on made-up texts \(.*\): give real rows with --sample FILE.npz$",
    ),
    "sequence": (
        graph([node("SequenceConstruct", "x")], outputs=[sequence("y")]),
        r"the output y is seq\(tensor\(float\)\), which is not served: export each tensor of",
    ),
    "optional": (
        graph([node("OptionalGetElement", "x")], [optional("x")]),
        r"the input x is optional\(tensor\(float\)\), which is not served: export it with inputs",
    ),
    "eight bits": (
        graph([node("Cast", "x", to=T.FLOAT8E4M3FN)], outputs=[tensor("y", T.FLOAT8E4M3FN)]),
        r"the output y is tensor\(float8e4m3fn\), which is not served: export it with .*FP32",
    ),
    "a name of two lines": (
        graph([node("Relu", "a\nb")], [tensor("a\nb")]),
        r"the input 'a\\nb' needs a name of printable characters",
    ),
    "an input without a shape": (
        graph([node("Relu", "x")], [tensor("x", shape=None)], [tensor("y", shape=None)]),
        "the graph states no shape for the input x: export it with its shape, or give rows",
    ),
    "a batch of one that is not stated": (
        graph([node("Reshape", "x", "sizes")], sizes=np.array([1, 4], np.int64)),
        "it computes one row and fails on 7 (.*): export it with a dynamic batch, or with the",
    ),
    "a shape that is not the stated one": (
        graph([node("Compress", "x", "kept", axis=1)], outputs=[tensor("y", shape=["batch", 4])],
              kept=np.array([True, True, False, False])),
        r"y is FP32 \[-1, 4\] in the graph; the card says FP32 \[-1, 2\], since that is what",
    ),
    "random numbers": (
        graph([node("RandomNormalLike", "x")]),
        "the output y differs when the same row is computed again: export the network in evalua",
    ),
    "no finite answer": (
        graph([node("Log", "x")]),
        r"it fails on random numbers \(the output y is infinite or NaN\): give real rows with --s",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_graph_that_cannot_be_served_is_refused_in_one_sentence(
    content: bytes, sentence: str, add: Add, root: Path
) -> None:
    code, message = add(content)
    assert code == 1, message
    assert message.count("\n") == 1
    assert message.startswith("error: model.onnx: ")
    assert re.search(sentence, message), message
    assert not root.exists()


@pytest.mark.parametrize("option", ["--onnx", "--torchscript", "--sample"])
@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing", r"it cannot be read \(No such file or directory\)"),
        ("folder", "it is a folder: put the file itself there"),
        ("pipe", "it is a pipe: put the file itself there"),
        ("/dev/zero", "it is a device: put the file itself there"),
    ],
)
def test_a_path_without_a_regular_file_is_refused_in_one_sentence(
    file: str, reason: str, option: str, add: Add, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    code, message = add(graph([node("Relu", "x")]), option, str(tmp_path / file))
    assert code == 1, message
    if option == "--onnx" and file == "folder":
        reason = "it is a folder without export.json or config.json: give a file, a folder .*"
    assert re.fullmatch(f"error: {tmp_path / file}: {reason}\n", message), message
    assert not root.exists()


@pytest.mark.parametrize("option", ["--label", "--summary", "--intended-use"])
def test_an_option_that_is_not_utf8_is_refused(option: str, add: Add, root: Path) -> None:
    code, message = add(b"", option, os.fsdecode(b"caf\xe9"))
    assert (code, root.exists()) == (1, False)
    assert message == f"error: {option} holds 'caf\\udce9', which is no UTF-8: give it as UTF-8\n"


def test_the_onnx_file_may_be_a_link(add: Add, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("model.onnx")
    assert add(graph([node("Relu", "x")]), "--onnx", str(tmp_path / "link"))[0] == 0


def test_a_file_above_the_size_limit_of_onnx_is_refused_unread(
    add: Add, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**40)
    code, message = add(b"", "--onnx", str(tmp_path / "large"))
    assert code == 1
    assert f"it holds {2**40:,} bytes, more than the {2**31:,} that are read" in message
    assert not root.exists()


@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_files(
    call: int, add: Add, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first or at the last file."""
    calls: list[int] = []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, message = add(graph([node("Relu", "x")]))
    reason = "packages cannot be written there (No space left on device)"
    assert (code, message) == (1, f"error: the repository {root}: {reason}\n")
    assert snapshot(root) == {}


def test_a_zipmap_of_skl2onnx_is_put_right(add: Add, root: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    model = LogisticRegression().fit(rows, np.where(rows[:, 0] > 0, 7, 3))
    assert add(to_onnx(model, rows[:1]).SerializeToString())[0] == 0
    (_, scores) = ModelRepository(root).get("net").card.outputs
    assert (scores.to_text(), scores.labels) == ("FP32 [-1, 2]", ("3", "7"))


def test_weights_in_another_file_are_read_from_the_folder_of_the_graph(
    add: Add, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No digest would cover them elsewhere."""
    model = onnx.load_from_string(graph([node("Add", "x", "w")], w=np.ones(4, np.float32)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # the folder in which ONNX Runtime would find the weights
    onnx.save(model, "outside.onnx", save_as_external_data=True, location="w", size_threshold=0)
    content = Path("outside.onnx").read_bytes()
    code, message = add(content)
    assert code == 1
    assert "model.onnx: its weights are in another file, which cannot be read (" in message
    Path("w").rename(tmp_path / "w")
    assert add(content)[0] == 0
    whole = onnx.load_from_string(ModelRepository(root).get("net").load("model.onnx"))
    assert not whole.graph.initializer[0].external_data


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--label", "a", "b"], r"2 labels fit no output \(y FP32 \[-1, 4\]\): give one --label"),
        (["--sample", "{}/none.npz"], r"none.npz: it cannot be read \(No such file or directory\)"),
        (["--sample", "{}/model.onnx"], "model.onnx: it is no .npz file: write it with numpy.sav"),
        (["--sample", "{}/array.npz"], "array.npz: it is no .npz file: write it with numpy.savez"),
        (["--sample", "{}/other.npz"], "the sample holds z, and model.onnx takes x: give one arr"),
        (
            ["--sample", "{}/wide.npz"],
            r"wide.npz: x is float32 \[2, 5\], and .*: give rows of",
        ),
        (["--sample", "{}/words.npz"], r"words.npz: x is text \[2, 4\], and the network takes"),
        (["--sample", "{}/one.npz"], "one.npz: it holds 1 rows of x: give two or more, and as"),
        (["--sample", "{}/nan.npz"], "nan.npz: x holds infinity or NaN: give finite numbers"),
        (
            ["--torchscript", "{}/none.pt"],
            r"none.pt: it cannot be read \(No such file or directory",
        ),
        (
            ["--torchscript", "{}/model.onnx"],
            r"torch cannot load it \(.*\): save it with torch.jit",
        ),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(
    options: list[str], sentence: str, add: Add, root: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", z=np.zeros((2, 4), np.float32))
    np.savez(tmp_path / "wide.npz", x=np.zeros((2, 5), np.float32))
    np.savez(tmp_path / "words.npz", x=np.full((2, 4), "a"))
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 4), np.float32))
    np.savez(tmp_path / "nan.npz", x=np.full((2, 4), np.nan, np.float32))
    with (tmp_path / "array.npz").open("wb") as stream:
        np.save(stream, np.zeros((2, 4), np.float32))
    arguments = [option.format(tmp_path) for option in options]
    code, message = add(graph([node("Relu", "x")]), *arguments)
    assert code == 1
    assert message.count("\n") == 1
    assert re.search(sentence, message), message
    assert not root.exists()


def test_a_sample_for_a_fixed_batch_must_hold_whole_batches(add: Add, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((4, 4), np.float32))
    fixed = graph([node("Relu", "x")], [tensor("x", shape=[3, 4])], [tensor("y", shape=[3, 4])])
    code, message = add(fixed, "--sample", str(tmp_path / "rows.npz"))
    assert code == 1
    assert "it holds 4 rows, and the network computes 3 at a time: give a multiple of 3" in message


def test_an_invalid_name_and_a_missing_file_are_refused(
    add: Add, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = add(graph([node("Relu", "x")]), name="a/b")
    assert (code, printed[:29]) == (1, "error: the name 'a/b' must be")
    assert main(["add", "net", "--onnx", str(tmp_path / "none"), "--repository", str(root)]) == 1
    none = tmp_path / "none"
    printed = capsys.readouterr().err
    assert printed == f"error: {none}: it cannot be read (No such file or directory)\n"


class _OtherName(Bend):
    """A `Bend` whose argument has another name."""

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.hidden(z).tanh())


class _OtherWeights(Bend):
    """A `Bend` whose outputs are 0.1 % larger."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x).tanh()) * 1.001


class _TwoOutputs(Bend):
    """A `Bend` that returns its hidden units, too."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x).tanh()
        return self.last(hidden), hidden


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_OtherName, "the module's arguments are z; .*: export that with the module's arguments"),
        (_OtherWeights, r"its answers are not those of model.onnx \(.*\): export both from one"),
        (_TwoOutputs, r"it fails on what model.onnx computes \(.* 2 outputs, not 1\): export both"),
    ],
)
def test_a_torchscript_file_of_another_network_is_refused(
    make: Callable[[], nn.Module], sentence: str, add: Add, root: Path, tmp_path: Path
) -> None:
    module = tmp_path / "other.pt"
    module.write_bytes(scripted(seeded(make)))
    code, message = add(bend_onnx(seeded(Bend)), "--torchscript", str(module))
    assert code == 1
    assert message.count("\n") == 1
    assert message.startswith("error: other.pt: ")
    assert re.search(sentence, message), message
    assert not root.exists()
    module.write_bytes(scripted(seeded(Bend)))
    assert add(bend_onnx(seeded(Bend)), "--torchscript", str(module))[0] == 0


def test_a_refusal_leaves_earlier_versions_unchanged(add: Add, root: Path) -> None:
    add(graph([node("Relu", "x")]))
    before = snapshot(root)
    assert add(graph([node("Log", "x")]))[0] == 1
    assert snapshot(root) == before
