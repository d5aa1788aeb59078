"""Two real packages, small enough to be written quickly, and ways to damage them.

`blot/1` classifies 4x4 images (UINT8) into three classes, `bend/1` is a curve. Each has both files:
TorchScript of the module below, and ONNX with the same weights.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from models.kinds.tensor_spec import TensorSpec
from models.package.card import (
    ClassReport,
    DataRecord,
    Evaluation,
    Example,
    FitRecord,
    ModelCard,
    ParityRecord,
    RecordedTensor,
    SeedFigures,
    Splits,
)
from models.package.model_package import ModelPackage
from models.runtimes.runtime import Arrays

CardJson = dict[str, Any]

property_test = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
IMAGE = TensorSpec(
    name="image", datatype="UINT8", shape=(-1, 4, 4), meaning="grey pixels", minimum=0, maximum=255
)
PROBABILITIES = TensorSpec(
    name="probabilities", datatype="FP32", shape=(-1, 3), meaning="of each class",
    minimum=0, maximum=1, labels=("dot", "bar", "cross"),
)  # fmt: skip
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 1), meaning="where to evaluate the curve")
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="the curve's value at x")


class Blot(nn.Module):
    """Maps UINT8 [N, 4, 4] to probabilities FP32 [N, 3], preprocessing inside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities of a batch of images."""
        return self.linear(image.float().div(255).flatten(1)).softmax(dim=1)


class Bend(nn.Module):
    """Maps FP32 [N, 1] to FP32 [N, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, 5)
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of the curve at a batch of x."""
        return self.last(self.hidden(x).tanh())


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the module with the same weights on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make().eval()


def torchscript(module: nn.Module) -> bytes:
    """Return the module as the content of a `model.pt`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(module), stream)
    return stream.getvalue()


def onnx_file(
    nodes: list[Any],
    inputs: list[tuple[str, int, list[str | int]]],
    outputs: list[tuple[str, int, list[str | int]]],
    **constants: NDArray[Any],
) -> bytes:
    """Return a graph as a `model.onnx`; inputs and outputs are (name, element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def bfloat16_onnx() -> bytes:
    """Return a graph that doubles pairs of numbers of BF16."""
    kind = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["single", "single"], ["twice"]),
        helper.make_node("Cast", ["twice"], ["y"], to=kind),
    ]
    return onnx_file(nodes, [("x", kind, ["batch", 2])], [("y", kind, ["batch", 2])])


def blot_onnx(module: nn.Module) -> bytes:
    """Return the weights of a `Blot` as ONNX."""
    return onnx_file(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "white"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        [("image", TensorProto.UINT8, ["batch", 4, 4])],
        [("probabilities", TensorProto.FLOAT, ["batch", 3])],
        white=np.float32(255).reshape(1),
        weight=module.linear.weight.detach().numpy(),
        bias=module.linear.bias.detach().numpy(),
    )


def bend_onnx(
    module: nn.Module,
    *,
    name: str = "x",
    width: int = 1,
    batch: str | int = "batch",
    datatype: int = TensorProto.FLOAT,
    extra_output: bool = False,
    scale: float = 1.0,
) -> bytes:
    """Return the weights of a `Bend` as ONNX; other arguments make graphs unlike its card."""
    dtype = helper.tensor_dtype_to_np_dtype(datatype)
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    outputs: list[tuple[str, int, list[str | int]]] = [("y", datatype, [batch, 1])]
    if extra_output:
        outputs.append(("bent", datatype, [batch, 5]))
    return onnx_file(
        [
            helper.make_node("Gemm", [name, "w1", "b1"], ["sums"], transB=1),
            helper.make_node("Tanh", ["sums"], ["bent"]),
            helper.make_node("Gemm", ["bent", "w2", "b2"], ["y"], transB=1),
        ],
        [(name, datatype, [batch, width])],
        outputs,
        w1=np.repeat(weights["hidden.weight"], width, axis=1).astype(dtype),
        b1=weights["hidden.bias"].astype(dtype),
        w2=(weights["last.weight"] * scale).astype(dtype),
        b2=weights["last.bias"].astype(dtype),
    )


@dataclass(frozen=True)
class Kit:
    """A network, with the arguments of `write_package` for its package."""

    module: nn.Module
    card: ModelCard
    files: Mapping[str, bytes]

    def eager(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs of the network itself."""
        with torch.inference_mode():
            output = self.module(torch.from_numpy(inputs[self.card.inputs[0].name]))
        return {self.card.outputs[0].name: output.numpy()}

    def rows(self, count: int) -> dict[str, NDArray[Any]]:
        """Return rows of input, the same on every call."""
        random = np.random.default_rng(count)
        if self.card.inputs[0] is IMAGE:
            return {"image": random.integers(0, 256, (count, 4, 4), dtype=np.uint8)}
        return {"x": random.uniform(-3, 3, (count, 1)).astype(np.float32)}


def _example(
    module: nn.Module, spec: TensorSpec, output: TensorSpec, rows: NDArray[Any]
) -> Example:
    with torch.inference_mode():
        outputs = module(torch.from_numpy(rows)).numpy()
    return Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, rows)},
        outputs={output.name: RecordedTensor.of(output.datatype, outputs)},
        tolerance=1e-3,
    )


def blot_kit() -> Kit:
    """Return a classifier whose card has every field."""
    module = seeded(Blot)
    rows = (np.arange(32, dtype=np.uint8) * 8).reshape(2, 4, 4)
    test = Evaluation(
        data="blots",
        split="test",
        samples=12_345,
        metrics={"accuracy": 0.98765, "negative_log_likelihood": 0.000321},
        classes=(
            ClassReport(label="dot", precision=0.9111, recall=0.8222, f1=0.8644, samples=4_111),
            ClassReport(label="bar", precision=0.7333, recall=0.6444, f1=0.6860, samples=4_222),
            ClassReport(label="cross", precision=0.5555, recall=0.4666, f1=0.5072, samples=4_012),
        ),
        confusion=((4_000, 111, 0), (22, 4_200, 0), (0, 12, 4_000)),
    )
    validation = Evaluation(
        data="blots", split="validation", samples=678, metrics={"accuracy": 0.9712}
    )
    fit = FitRecord(
        recipe="blot",
        setting="default",
        network="Linear(16, 3)",
        parameter_count=51_234,
        hyperparameters={
            "epochs": 17, "lr": 0.0025, "optimizer": "adamw", "hidden": (512, 256),
            "clip_norm": None, "mixed_precision": False,
        },
        seed=4,
        data=DataRecord(
            name="blots", summary="drawn blots", sha256="ab" * 32,
            splits=Splits(train=54_321, validation=678, test=12_345),
        ),
        libraries={"python": "3.11.7", "torch": "2.13.0"},
        device="cpu, 2 threads",
        epochs=17,
        kept_epoch=13,
        seconds=98.6,
    )  # fmt: skip
    card = ModelCard(
        name="blot",
        version="1",
        summary="It tells blots apart.",
        task="classification",
        inputs=(IMAGE,),
        outputs=(PROBABILITIES,),
        fit=fit,
        evaluations=(test, validation),
        seeds=(
            SeedFigures(
                setting="tutorial", metric="accuracy", seeds=(0, 1), values=(0.9612, 0.9634),
                mean=0.9623, standard_deviation=0.0011, samples=12_345,
            ),
        ),
        parity=(
            ParityRecord(
                runtime="onnx", samples=2_000, batch_sizes=(1, 7, 64),
                largest_absolute_difference=3.4e-7, largest_relative_difference=5.6e-7,
                equal_answers=1.0, tolerance="1e-05 absolute",
            ),
        ),
        example=_example(module, IMAGE, PROBABILITIES, rows),
        intended_use="Tests.",
        limits=("It knows three blots.", "It was hardly fitted."),
    )  # fmt: skip
    files = {
        "model.onnx": blot_onnx(module),
        "model.pt": torchscript(module),
        "report/loss-curves.png": PICTURE,
    }
    return Kit(module, card, files)


def bend_kit() -> Kit:
    """Return a regressor whose card has only required fields and one metric."""
    module = seeded(Bend)
    card = ModelCard(
        name="bend",
        version="1",
        summary="It bends.",
        task="regression",
        inputs=(X,),
        outputs=(Y,),
        evaluations=(
            Evaluation(data="bends", split="test", samples=3_000, metrics={"mse": 1.12218}),
        ),
        example=_example(module, X, Y, np.array([[-1.5], [0.25]], np.float32)),
        intended_use="Tests.",
    )
    return Kit(module, card, {"model.onnx": bend_onnx(module), "model.pt": torchscript(module)})


def edit_card(package: ModelPackage, edit: Callable[[CardJson], object]) -> Path:
    """Change the card on disk, as with an editor; return the path of the package."""
    path = package.path / "card.json"
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_text(json.dumps(content))
    return package.path


def reseal(package: ModelPackage, file: str, content: bytes) -> ModelPackage:
    """Replace a file, update its digest in the card, and read the package again."""
    (package.path / file).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return ModelPackage.read(edit_card(package, lambda card: card["files"].update({file: record})))


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Return every path under `root`, with the content of the files."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }
