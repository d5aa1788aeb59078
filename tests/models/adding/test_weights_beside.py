"""Weights that are too large for an ONNX file are in a file of their own, with a digest."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_packages import edit_card, snapshot

import models.sources.external_weights
from models.__main__ import main
from models.adding.add import add
from models.errors import AddError
from models.package.card import WEIGHTS_FILE
from models.package.model_package import ModelPackage, PackageError, write_package
from models.runtimes.loading import open_runtime

COLUMNS = 64
DEEP = np.random.default_rng(0).normal(size=(2, COLUMNS, COLUMNS)).astype(np.float32) / COLUMNS
TABLE = np.arange(2_000, dtype=np.int64)


def write_graph(file: Path, location: str = "weights.bin") -> None:
    """Write a network whose weights are in another file: two products, and a row of a table."""
    constants = {"first": DEEP[0], "second": DEEP[1], "table": TABLE, "offset": np.float32([2])}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("MatMul", ["hidden", "second"], ["product"]),
            helper.make_node("Add", ["product", "offset"], ["y"]),
            helper.make_node("Gather", ["table", "index"], ["entry"]),
        ],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", COLUMNS]),
            helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", COLUMNS]),
            helper.make_tensor_value_info("entry", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, file, save_as_external_data=True, location=location, size_threshold=0)


def expected(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(x @ DEEP[0] @ DEEP[1] + 2)


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of more than 10 kB count as too large for an ONNX file."""
    monkeypatch.setattr(models.sources.external_weights, "LARGEST_INSIDE", 10_000)


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    write_graph(tmp_path / "net.onnx")
    return add(tmp_path / "repository", "net", tmp_path / "net.onnx")


def test_large_weights_are_a_file_of_the_package(package: ModelPackage) -> None:
    package.verify()
    card = package.card
    assert card.files[WEIGHTS_FILE].bytes == DEEP.nbytes
    assert card.files["model.onnx"].bytes < DEEP.nbytes
    assert (package.path / WEIGHTS_FILE).read_bytes() == DEEP.tobytes()
    assert "weights of model.onnx" in (package.path / "README.md").read_text()
    x = np.random.default_rng(1).normal(size=(5, COLUMNS)).astype(np.float32)
    index = np.arange(5)
    outputs = open_runtime(package, "onnx")({"x": x, "index": index})
    np.testing.assert_allclose(outputs["y"], expected(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["entry"], index)


def test_the_graph_is_followed_without_the_weights_in_it(package: ModelPackage) -> None:
    """A table of whole numbers stays in the file, as its size is the range of the index."""
    assert package.card.batching == "rows"
    assert [(spec.name, spec.maximum) for spec in package.card.inputs] == [
        ("x", None),
        ("index", len(TABLE) - 1),
    ]


def test_weights_within_the_bound_are_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.sources.external_weights, "LARGEST_INSIDE", 10**6)
    write_graph(tmp_path / "net.onnx")
    package = add(tmp_path / "repository", "net", tmp_path / "net.onnx")
    assert package.card.files.keys() == {"model.onnx", "README.md"}


def test_a_network_whose_rows_mix_is_still_found(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    model.graph.node[2].input[1] = "sum"
    total = helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=1)
    model.graph.node.insert(2, total)
    onnx.save(model, tmp_path / "net.onnx")
    card = add(tmp_path / "repository", "net", tmp_path / "net.onnx").card
    assert (card.batching, WEIGHTS_FILE in card.files) == ("none", True)
    assert any("ReduceSum" in limit for limit in card.limits)


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def linked(path: Path) -> None:
    path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(path.parents[3] / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (changed, "its SHA-256 is not the card's"),
        (shortened, "it holds 32,764 bytes where the card says 32,768"),
        (linked, "it is a link"),
        (Path.unlink, "it cannot be read (No such file or directory)"),
    ],
)
def test_a_damaged_file_of_weights_is_refused(
    damage: Any, reason: str, package: ModelPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(package.path / WEIGHTS_FILE)
    with pytest.raises(PackageError, match=re.escape(reason)) as caught:
        open_runtime(package, "onnx")
    assert caught.value.file == WEIGHTS_FILE
    assert main(["--repository", str(package.path.parents[1]), "verify"]) == 1
    assert f"refused  package net/1: {WEIGHTS_FILE}: {reason}" in capsys.readouterr().out


def test_a_card_without_the_weights_is_refused(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, in the package and in the working directory, and has no digest."""
    monkeypatch.chdir(package.path)
    edit_card(package, lambda card: card["files"].pop(WEIGHTS_FILE))
    with pytest.raises(PackageError, match=r"model.onnx: it cannot be loaded .*External data"):
        open_runtime(ModelPackage.read(package.path), "onnx")


@pytest.mark.parametrize("location", ["../outside", "other", "{}/outside"])
def test_a_graph_takes_weights_from_no_other_file(
    location: str, package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(package.path)
    location = location.format(tmp_path)
    for file in (package.path.parent / "outside", package.path / "other", tmp_path / "outside"):
        file.write_bytes(DEEP.tobytes())
    graph = package.load("model.onnx")
    model = onnx.load_from_string(graph)
    model.graph.initializer[0].external_data[0].value = location
    files = {"model.onnx": model.SerializeToString(), WEIGHTS_FILE: package.load(WEIGHTS_FILE)}
    other = write_package(tmp_path / "others", package.card, files)
    with pytest.raises(PackageError, match=r"model.onnx: it cannot be loaded"):
        open_runtime(other, "onnx")


def too_short(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(DEEP.tobytes()[:-4])


def as_a_link(folder: Path) -> None:
    (folder / "weights.bin").rename(folder / "target")
    (folder / "weights.bin").symlink_to(folder / "target")


@pytest.mark.parametrize("spoil", [too_short, as_a_link])
def test_a_source_whose_weights_cannot_be_read_writes_nothing(spoil: Any, tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx")
    spoil(tmp_path)
    with pytest.raises(AddError, match=r"net.onnx: its weights are in another file, which cannot"):
        add(tmp_path / "repository", "net", tmp_path / "net.onnx")
    assert snapshot(tmp_path / "repository") == {}


def test_a_removed_version_comes_back_with_its_weights(package: ModelPackage) -> None:
    options = ["--repository", str(package.path.parents[1])]
    assert main([*options, "remove", "net", "1"]) == 0
    assert main([*options, "restore", "net", "1"]) == 0
    assert main([*options, "verify", "net"]) == 0
