"""Tensors with an empty inner dimension, such as a decoder's cache before the first token."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_packages import onnx_file

from models.__main__ import main
from models.adding.add import add
from models.errors import AddError
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from service.api.v2.tensors import check_shape
from service.errors import BadInputError


def decoder() -> bytes:
    """Return a graph that appends a token to a cache and returns both caches and the new sum."""
    return onnx_file(
        [
            helper.make_node("Concat", ["past", "new"], ["present"], axis=1),
            helper.make_node("Identity", ["past"], ["before"]),
            helper.make_node("ReduceSum", ["present", "axes"], ["sum"], keepdims=0),
        ],
        [
            ("past", TensorProto.FLOAT, ["batch", "tokens", 4]),
            ("new", TensorProto.FLOAT, ["batch", 1, 4]),
        ],
        [
            ("present", TensorProto.FLOAT, ["batch", "more", 4]),
            ("before", TensorProto.FLOAT, ["batch", "tokens", 4]),
            ("sum", TensorProto.FLOAT, ["batch", 4]),
        ],
        axes=np.array([1], np.int64),
    )


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_decoder_is_added_with_an_empty_cache_and_computes_any_cache(
    tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, root, rows = tmp_path / "model.onnx", tmp_path / "repository", tmp_path / "rows.npz"
    file.write_bytes(decoder())
    new = np.random.default_rng(0).normal(size=(8, 1, 4)).astype(np.float32)
    np.savez(rows, past=np.ones((8, tokens, 4), np.float32), new=new)
    options = ["--onnx", str(file), "--repository", str(root), "--sample", str(rows)]
    assert main(["add", "decoder", *options]) == 0, capsys.readouterr().err
    package = ModelRepository(root).get("decoder")
    assert package.card.inputs[0].shape == (-1, -1, 4)
    runtime = open_runtime(package, "onnx")
    for size in (0, 5):
        outputs = runtime({"past": np.ones((2, size, 4), np.float32), "new": new[:2]})
        assert outputs["present"].shape == (2, size + 1, 4)
        np.testing.assert_allclose(outputs["sum"], new[:2, 0] + size, rtol=1e-6)


def recurrent(kind: str, gates: int) -> bytes:
    """Return a graph of one recurrent operator over a free number of steps."""
    return onnx_file(
        [
            helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
            helper.make_node(kind, ["steps", "w", "r"], ["hidden"], hidden_size=2),
            helper.make_node("Transpose", ["hidden"], ["y"], perm=[2, 0, 1, 3]),
        ],
        [("x", TensorProto.FLOAT, ["batch", "steps", 4])],
        [("y", TensorProto.FLOAT, ["batch", "steps", 1, 2])],
        w=np.ones((1, 2 * gates, 4), np.float32),
        r=np.ones((1, 2 * gates, 2), np.float32),
    )


@pytest.mark.parametrize(("kind", "gates", "nonempty"), [("GRU", 3, (1,)), ("LSTM", 4, ())])
def test_an_empty_dimension_that_ends_the_process_is_refused(
    kind: str, gates: int, nonempty: tuple[int, ...], tmp_path: Path
) -> None:
    """ONNX Runtime ends on a GRU over no steps, and computes an LSTM over none."""
    file, root = tmp_path / "model.onnx", tmp_path / "repository"
    file.write_bytes(recurrent(kind, gates))
    assert main(["add", "net", "--onnx", str(file), "--repository", str(root)]) == 0
    (spec,) = ModelRepository(root).get("net").card.inputs
    assert spec.nonempty == nonempty
    if nonempty:
        with pytest.raises(BadInputError, match="-1 is any size, but axis 1 must not be 0"):
            check_shape(spec, [1, 0, 4])
    else:
        assert check_shape(spec, [1, 0, 4]) == (1, 0, 4)
    assert check_shape(spec, [1, 5, 4]) == (1, 5, 4)


def product(columns: str | int) -> bytes:
    """Return a graph of a product of each row's integers with themselves, over some columns."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["some"]),
        helper.make_node("Cast", ["some"], ["whole"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["whole"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMulInteger", ["whole", "turned"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"start": 0, "end": columns if isinstance(columns, int) else 100, "axis": 2}
    shape: list[str | int] = ["batch", 4, columns if isinstance(columns, str) else 4]
    return onnx_file(
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, ["batch", 4, 4])],
        **{name: np.array([number], np.int64) for name, number in constants.items()},
    )


def test_an_empty_dimension_that_returns_uninitialized_memory_is_refused(tmp_path: Path) -> None:
    """The memory may hold numbers of another request."""
    file = tmp_path / "model.onnx"
    file.write_bytes(product("columns"))
    card = add(tmp_path / "repository", "net", file).card
    assert card.inputs[0].nonempty == (2,)


def test_a_graph_that_returns_uninitialized_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(product(4))
    add(tmp_path / "repository", "net", file)
    file.write_bytes(product(0))
    with pytest.raises(AddError, match="it returns uninitialized memory"):
        add(tmp_path / "repository", "net", file)


def test_a_graph_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    """The network returns the last state of a GRU over no steps, for any request."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Slice", ["turned", "start", "start"], ["steps"]),
        helper.make_node("GRU", ["steps", "w", "r"], ["", "last"], hidden_size=2),
        helper.make_node("Transpose", ["last"], ["y"], perm=[1, 0, 2]),
    ]
    file = tmp_path / "model.onnx"
    file.write_bytes(
        onnx_file(
            nodes,
            [("x", TensorProto.FLOAT, ["batch", 3, 4])],
            [("y", TensorProto.FLOAT, ["batch", 1, 2])],
            start=np.array([0], np.int64),
            w=np.ones((1, 6, 4), np.float32),
            r=np.ones((1, 6, 2), np.float32),
        )
    )
    with pytest.raises(AddError, match=r"model.onnx: for \[8, 3, 4\] of x, it ends the process"):
        add(tmp_path / "repository", "net", file)
