"""Tensors with an empty inner dimension, as a decoder's cache before its first token."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_packages import onnx_file

from models.__main__ import main
from models.repository import ModelRepository
from models.runtimes import open_runtime


def decoder() -> bytes:
    """A new token's numbers behind those of the cache, and how the cache was; and its sum."""
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
def test_a_decoder_is_added_with_an_empty_cache_and_computes_any(
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
