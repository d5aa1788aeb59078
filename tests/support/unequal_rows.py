"""A network on rows of any length, with a mask: the mean of the real places, and each less it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import onnx_file

node = helper.make_node


def write_masked_mean(folder: Path, *, masked: bool = True, unlike: int = 0) -> Path:
    """Write the graph: x and mask, FP32 [batch, length] → mean [batch, 1], centred [batch, length].

    Without `masked`, the mean is that of all places. Rows of the length `unlike` have a mean that
    is larger by 1.
    """
    shape: list[str | int] = ["batch", "length"]
    mean = [
        node("Mul", ["x", "mask"], ["real"]),
        node("ReduceSum", ["real", "axes"], ["sum"]),
        node("ReduceSum", ["mask", "axes"], ["count"]),
        node("Div", ["sum", "count"], ["masked"]),
        node("Shape", ["x"], ["length"], start=1),
        node("Equal", ["length", "unlike"], ["is_unlike"]),
        node("Cast", ["is_unlike"], ["added"], to=T.FLOAT),
        node("Add", ["masked", "added"], ["mean"]),
    ]
    if not masked:
        mean = [node("ReduceMean", ["x", "axes"], ["mean"]), node("Identity", ["mask"], ["unused"])]
    file = folder / "mean.onnx"
    file.write_bytes(
        onnx_file(
            [*mean, node("Sub", ["x", "mean"], ["centred"])],
            [("x", T.FLOAT, shape), ("mask", T.FLOAT, shape)],
            [("mean", T.FLOAT, ["batch", 1]), ("centred", T.FLOAT, shape)],
            axes=np.array([1]),
            unlike=np.array([unlike]),
        )
    )
    return file


def rows_of_length(length: int, count: int = 4) -> dict[str, NDArray[np.float32]]:
    """Return rows whose places are all real."""
    x = np.random.default_rng(length).normal(size=(count, length)).astype(np.float32)
    return {"x": x, "mask": np.ones_like(x)}
