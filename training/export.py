"""From a fitted network to a proved package: TorchScript, ONNX, parity, card, pictures.

The graph that ships holds its preprocessing, and a softmax for classifiers, so that a client sends
what it has. Each exported file is opened by the runtime that will serve it and proved equal to the
network in eager mode; where that fails, no package is written.
"""

import io
import platform
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path

import torch
from onnx import load_model_from_string
from torch import Tensor, nn

from models.card import (
    MODEL_FILES,
    Example,
    FitRecord,
    ModelCard,
    RecordedTensor,
    RuntimeName,
    TensorSpec,
)
from models.package import ModelPackage, require_writable, write_package
from models.parity import prove
from models.repository import ModelRepository
from models.runtimes import Arrays, OnnxRuntime, Runtime, TorchScriptRuntime, recall
from training import plots
from training.datasets import Dataset, digits
from training.fitting import Fitted

EXAMPLE_ROWS = 2
# One recorded prediction must hold on every device that may serve it: a GPU sums in another order.
EXAMPLE_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """An export that cannot be served: nothing was written."""


class _ImageGraph(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).softmax(dim=1)  # type: ignore[no-any-return]


class _PointGraph(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, point: Tensor) -> Tensor:
        return self.network(point).softmax(dim=1)  # type: ignore[no-any-return]


class _CurveGraph(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def graph_of(network: nn.Module, data: Dataset) -> tuple[nn.Module, TensorSpec, TensorSpec]:
    """The module that ships, its input, and its output. Argument names are tensor names."""
    if not data.labels:
        low, high = float(data.train.inputs.min()), float(data.train.inputs.max())
        return (
            _CurveGraph(network).eval(),
            TensorSpec(
                name="x", datatype="FP32", shape=(-1, 1), minimum=low, maximum=high,
                meaning="where to evaluate the curve; outside the range it extrapolates",
            ),
            TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="the curve's value at x"),
        )  # fmt: skip
    probabilities = TensorSpec(
        name="probabilities", datatype="FP32", shape=(-1, len(data.labels)), minimum=0, maximum=1,
        meaning="of each class; a row sums to 1", labels=data.labels,
    )  # fmt: skip
    if data.train.inputs.ndim == 2:
        return (
            _PointGraph(network).eval(),
            TensorSpec(
                name="point", datatype="FP32", shape=(-1, 2), meaning="coordinates in the plane"
            ),
            probabilities,
        )
    return (
        _ImageGraph(network).eval(),
        TensorSpec(
            name="image", datatype="UINT8", shape=(-1, 28, 28), minimum=0, maximum=255,
            meaning="grey pixels, white ink on black, framed as MNIST frames a digit",
        ),
        probabilities,
    )  # fmt: skip


def torchscript(graph: nn.Module) -> bytes:
    """The graph as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(graph), stream)
    return stream.getvalue()


def onnx(graph: nn.Module, sample: Tensor, spec: TensorSpec, output: TensorSpec) -> bytes:
    """The graph as one ONNX file with a dynamic batch.

    Args:
        graph: in eval mode, on the CPU.
        sample: two or more rows of input.
        spec: the input.
        output: the output.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            graph,
            (sample,),
            path,
            input_names=[spec.name],
            output_names=[output.name],
            dynamic_shapes={spec.name: {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return _without_traces(path.read_bytes())


def _without_traces(content: bytes) -> bytes:
    """The graph without the exporter's notes: stack traces, with the paths of this machine."""
    model = load_model_from_string(content)
    noted = (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions)
    for part in noted:
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    stripped: bytes = model.SerializeToString()
    return stripped


def export(fitted: Fitted, root: Path) -> ModelPackage:
    """Export, prove and write the package, as the next version of its name under `root`.

    Raises:
        ParityError: a file's answers are not the network's.
        ExportError: a file's inputs and outputs are not the card's, or the package cannot be
            written.
        PackageError: the package's folder cannot be read, or its version was taken meanwhile.
    """
    data = fitted.data
    graph, spec, output = graph_of(fitted.network, data)
    samples = data.test.inputs
    files = {
        MODEL_FILES["torchscript"]: torchscript(graph),
        MODEL_FILES["onnx"]: onnx(graph, samples[:2], spec, output),
    }

    def eager(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            return {output.name: graph(torch.from_numpy(inputs[spec.name])).numpy()}

    # MNIST's own images are not ours to hand on: an image package records scikit-learn's.
    shown = data if spec.name != "image" else digits()
    recorded = shown.test.inputs[:EXAMPLE_ROWS].numpy()
    example = Example(
        inputs={spec.name: RecordedTensor.of(spec.datatype, recorded)},
        outputs={
            output.name: RecordedTensor.of(
                output.datatype, eager({spec.name: recorded})[output.name]
            )
        },
        tolerance=EXAMPLE_TOLERANCE,
    )
    card = ModelCard(
        name=fitted.recipe.name,
        version=ModelRepository(root).next_version(fitted.recipe.name),
        summary=fitted.recipe.summary,
        task="classification" if data.labels else "regression",
        inputs=(spec,),
        outputs=(output,),
        fit=_fit_record(fitted),
        evaluations=fitted.evaluations,
        seeds=fitted.seeds,
        example=example,
        intended_use=fitted.recipe.intended_use,
        limits=fitted.recipe.limits,
    )
    opened: Mapping[RuntimeName, Runtime] = {
        "onnx": _require_fit(OnnxRuntime(files[MODEL_FILES["onnx"]]), card),
        "torchscript": _require_fit(
            TorchScriptRuntime(files[MODEL_FILES["torchscript"]], outputs=[output.name]), card
        ),
    }
    parity = tuple(
        prove(
            eager, runtime, {spec.name: samples.numpy()}, runtime=name,
            classification=bool(data.labels),
        )
        for name, runtime in opened.items()
    )  # fmt: skip
    pictures = plots.report(fitted.network, data, fitted.history, fitted.evaluations[0])
    try:
        return write_package(root, card.model_copy(update={"parity": parity}), files | pictures)
    except OSError as error:
        raise _unwritable(root, error) from error


def check_repository(root: Path) -> None:
    """Check that packages can be written under `root`, before a network is fitted for one.

    Raises:
        ExportError: they cannot.
    """
    try:
        require_writable(root)
    except OSError as error:
        raise _unwritable(root, error) from error


def _unwritable(root: Path, error: OSError) -> ExportError:
    reason = error.strerror or type(error).__name__
    return ExportError(f"the repository {root}: packages cannot be written there ({reason})")


def _require_fit(runtime: OnnxRuntime | TorchScriptRuntime, card: ModelCard) -> Runtime:
    mismatch = runtime.mismatch(card) or recall(runtime, card.example, card.outputs)
    if mismatch:
        raise ExportError(f"{card.name}, {runtime.name}: {mismatch}")
    return runtime


def _fit_record(fitted: Fitted) -> FitRecord:
    history = fitted.history
    libraries = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "scikit-learn")
    return FitRecord(
        recipe=fitted.recipe.name,
        setting=fitted.setting,
        network=_layers(fitted.network),
        parameter_count=sum(parameter.numel() for parameter in fitted.network.parameters()),
        hyperparameters=fitted.settings.model_dump(),
        seed=fitted.settings.seed,
        data=fitted.data.record(),
        libraries={"python": platform.python_version()}
        | {name: found for name in libraries if (found := _installed(name))},
        device=_machine(fitted.device),
        epochs=len(history.epochs),
        kept_epoch=history.kept.epoch if history.kept else 0,
        seconds=history.seconds,
    )


def _layers(network: nn.Module) -> str:
    """The layers on one line, as `Linear(784, 512), ReLU`; those that do nothing are left out."""

    def brief(layer: nn.Module) -> str:
        name = type(layer).__name__
        match layer:
            case nn.Linear():
                return f"{name}({layer.in_features}, {layer.out_features})"
            case nn.Conv2d():
                size = "x".join(map(str, layer.kernel_size))
                return f"{name}({layer.in_channels}, {layer.out_channels}, {size})"
            case nn.Dropout():
                return f"{name}({layer.p:g})"
            case _:
                return name

    layers = network.children() if isinstance(network, nn.Sequential) else [network]
    return ", ".join(brief(layer) for layer in layers if not isinstance(layer, nn.Identity))


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {platform.machine()}, {torch.get_num_threads()} threads"


def _installed(name: str) -> str | None:
    for distribution in (name, f"{name}-gpu"):
        try:
            return installed(distribution)
        except ModuleNotFoundError:
            continue
    return None
