"""Tensors with an empty inner dimension, such as a decoder's cache before the first token."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_packages import onnx_file

from models.__main__ import main
from models.loading import open_runtime
from models.repository import ModelRepository
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
        answer = runtime({"past": np.ones((2, size, 4), np.float32), "new": new[:2]})
        assert answer["present"].shape == (2, size + 1, 4)
        np.testing.assert_allclose(answer["sum"], new[:2, 0] + size, rtol=1e-6)


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
