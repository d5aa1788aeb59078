"""An attention layer of any length, whose memory is quadratic in the length, and its arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_packages import onnx_file

WIDTH = 8


def write_attention(folder: Path, positions: int | None = None) -> Path:
    """Write `x` [batch, length, 8] → `y`, of the same shape.

    Args:
        folder: where to write.
        positions: the length of a table of positions, which is added to `x`; None for no table.
    """
    random = np.random.default_rng(5)
    constants: dict[str, NDArray[Any]] = {
        name: (random.normal(size=(WIDTH, WIDTH)) / 2).astype(np.float32) for name in "qkv"
    }
    nodes = []
    if positions is not None:
        constants["table"] = random.normal(size=(positions, WIDTH)).astype(np.float32)
        constants |= {"zero": np.array(0), "one": np.array(1)}
        nodes += [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "one"], ["length"]),
            helper.make_node("Range", ["zero", "length", "one"], ["places"]),
            helper.make_node("Gather", ["table", "places"], ["rows"]),
            helper.make_node("Add", ["x", "rows"], ["h"]),
        ]
    start = "x" if positions is None else "h"
    nodes += [helper.make_node("MatMul", [start, name], [f"{name}x"]) for name in "qkv"]
    nodes += [
        helper.make_node("Transpose", ["kx"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["qx", "kt"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "vx"], ["y"]),
    ]
    tensors = [(name, TensorProto.FLOAT, ["batch", "length", WIDTH]) for name in "xy"]
    file = folder / f"attention-{positions}.onnx"
    file.write_bytes(onnx_file(nodes, tensors[:1], tensors[1:], **constants))
    return file


def rows_of(length: int, count: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Return random rows of one length."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, length, WIDTH)).astype(np.float32)
