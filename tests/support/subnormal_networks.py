"""Networks to which subnormal numbers make a difference, in outputs and in time."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_packages import onnx_file, torchscript
from torch import Tensor, nn

from models.package.card import RuntimeName
from models.runtimes.runtime import OnnxRuntime, Runtime
from models.runtimes.torch_runtimes import TorchScriptRuntime

WIDTH = 512
ARCTANGENTS = 16
SUBNORMAL = 1e-40
TINY = 1e-20
"""A normal number whose square is subnormal."""


class Squares(nn.Module):
    """The square of each number."""

    def forward(self, x: Tensor) -> Tensor:
        """FP32 [N, WIDTH] of x, FP32 [N, WIDTH]."""
        return x * x


class Roots(nn.Module):
    """The sum of many square roots of each number.

    All x86 processors need several times as long for roots of subnormal numbers, also those that
    multiply subnormal numbers fast.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.linspace(0.5, 1.5, 32))

    def forward(self, x: Tensor) -> Tensor:
        """FP32 [N, WIDTH] of x, FP32 [N, WIDTH]."""
        return (x.unsqueeze(2) * self.scales).sqrt().sum(2)


def squares_onnx() -> bytes:
    """Return `Squares` as ONNX."""
    return onnx_file(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [("y", TensorProto.FLOAT, ["batch", WIDTH])],
    )


def arctangents_onnx(count: int = ARCTANGENTS) -> bytes:
    """Return repeated arctangents of each number as ONNX: those of subnormals are subnormal.

    In ONNX Runtime, they make more of a difference than roots.
    """
    names = ["x", *(f"h{number}" for number in range(1, count)), "y"]
    return onnx_file(
        [helper.make_node("Atan", [x], [y]) for x, y in pairwise(names)],
        [("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [("y", TensorProto.FLOAT, ["batch", WIDTH])],
    )


def open_squares(name: RuntimeName, threads: int) -> Runtime:
    """Open `Squares` on the CPU."""
    return _open(name, threads, squares_onnx(), Squares())


def open_slow(name: RuntimeName, threads: int) -> Runtime:
    """Open the network of the runtime that subnormal numbers slow down most, on the CPU."""
    return _open(name, threads, arctangents_onnx(), Roots())


def rows(count: int, value: float) -> NDArray[np.float32]:
    """Return rows of one number."""
    return np.full((count, WIDTH), value, np.float32)


def _open(name: RuntimeName, threads: int, content: bytes, module: nn.Module) -> Runtime:
    if name == "onnx":
        return OnnxRuntime(content, threads=threads)
    return TorchScriptRuntime(torchscript(module.eval()), threads=threads, outputs=["y"])
