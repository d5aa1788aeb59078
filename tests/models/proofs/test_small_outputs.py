"""Wrong networks are found and correct networks are added at any magnitude of the outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_networks import scripted
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper
from small_packages import Bend, bend_onnx, onnx_file, reseal, seeded
from torch import Tensor, nn

from models.adding.add import add
from models.errors import AddError
from models.package.model_package import PackageError
from models.package.repository import ModelRepository
from models.proofs import row_proof
from models.runtimes.loading import open_runtime

SMALL = [1e-6, 1e-12]


def network(nodes: list[Any], kind: int = T.FLOAT, **constants: NDArray[Any]) -> bytes:
    """Return a graph from `x` to `y`, [N, 4] each."""
    return onnx_file(nodes, [("x", kind, ["batch", 4])], [("y", kind, ["batch", 4])], **constants)


def scaled(nodes: list[Any], scale: float, **constants: NDArray[Any]) -> bytes:
    """Return such a graph whose nodes compute `z`, with `y` = `scale` * `z`."""
    last = helper.make_node("Mul", ["z", "scale"], ["y"])
    return network([*nodes, last], scale=np.full(4, scale, np.float32), **constants)


def added(tmp_path: Path, content: bytes, **options: Any) -> ModelRepository:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    root = tmp_path / "repository"
    add(root, "net", file, **options)
    return ModelRepository(root)


@pytest.mark.parametrize("scale", SMALL)
def test_dependent_rows_are_found_in_small_outputs(
    scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean = helper.make_node("ReduceMean", ["x", "first"], ["mean"], keepdims=1)
    centred = helper.make_node("Sub", ["x", "mean"], ["z"])
    content = scaled([mean, centred], scale, first=np.array([0], np.int64))
    monkeypatch.setattr(
        row_proof, "row_mixing", lambda _, sizes, *__: [None] * len(sizes)
    )  # it is seen without the graph
    card = added(tmp_path, content).get("net").card
    assert card.batching == "none"
    assert "differs by" in card.limits[-1]


@pytest.mark.parametrize("scale", SMALL)
def test_dropout_in_training_mode_is_found_in_small_outputs(scale: float, tmp_path: Path) -> None:
    dropout = helper.make_node("Dropout", ["x", "half", "training"], ["z"])
    content = scaled([dropout], scale, half=np.array(0.5, np.float32), training=np.array(True))
    with pytest.raises(AddError, match="differs when the same row is computed again"):
        added(tmp_path, content)


class _Small(nn.Module):
    """A `Bend` with small outputs."""

    def __init__(self, scale: float, other: float = 1.0) -> None:
        super().__init__()
        self.bend = seeded(Bend)
        self.scale = scale
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(x * self.other) * self.scale


def _small_bend(scale: float) -> bytes:
    """Return the ONNX file of a `_Small`."""
    bend = seeded(Bend)
    bend.last.bias.data *= scale
    return bend_onnx(bend, scale=scale)


@pytest.mark.parametrize("scale", [1.0, *SMALL])
def test_a_torchscript_file_of_another_network_is_found_in_small_outputs(
    scale: float, tmp_path: Path
) -> None:
    module = tmp_path / "module.pt"
    module.write_bytes(scripted(_Small(scale, other=1.1)))
    with pytest.raises(AddError, match="its answers are not those of"):
        added(tmp_path, _small_bend(scale), torchscript=module)
    module.write_bytes(scripted(_Small(scale)))
    package = added(tmp_path, _small_bend(scale), torchscript=module).get("net")
    open_runtime(package, "torchscript")
    resealed = reseal(package, "model.pt", scripted(_Small(scale, other=1.1)))
    with pytest.raises(PackageError, match="y differs from the recorded prediction"):
        open_runtime(resealed, "torchscript")


@pytest.mark.parametrize(
    "columns", [[1e6] * 4, [1e-6] * 4, [1e-12] * 4, [0] * 4, [1e6, 1, 1e-6, 0]]
)
def test_a_correct_network_is_added_at_any_magnitude_of_its_outputs(
    columns: list[float], tmp_path: Path
) -> None:
    weights = np.random.default_rng(1).normal(size=(4, 4)) * columns
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    package = added(tmp_path, network([product], w=weights.astype(np.float32))).get("net")
    open_runtime(package, "onnx")


@pytest.mark.parametrize("value", [1e-9, 7.0])
def test_a_correct_network_with_a_constant_output_is_added(value: float, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "value"], ["y"]),
    ]
    constants = {"none": np.zeros(4, np.float32), "value": np.full(4, value, np.float32)}
    open_runtime(added(tmp_path, network(nodes, **constants)).get("net"), "onnx")


def test_a_correct_network_in_half_precision_is_added(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float16)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Tanh", ["z"], ["y"]),
    ]
    open_runtime(added(tmp_path, network(nodes, T.FLOAT16, w=weights)).get("net"), "onnx")
