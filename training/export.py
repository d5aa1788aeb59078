"""Export of a trained network as a package: TorchScript, ONNX, parity, card and pictures.

The exported graph includes the preprocessing and, for a classifier, the softmax, so that clients
send raw inputs. Each file is opened with its serving runtime and compared with the network in
eager mode. If a comparison fails, no package is written.
"""

import io
import platform
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path

import torch
from onnx import load_model_from_string
from torch import Tensor, nn

from models.card import (
    EXAMPLE_TOLERANCE,
    MODEL_FILES,
    Example,
    FitRecord,
    ModelCard,
    RecordedTensor,
    RuntimeName,
)
from models.interfaces import IMAGE, POINT, X
from models.loading import check_example
from models.package import ModelPackage, require_writable, write_package
from models.parity import check_parity
from models.repository import ModelRepository
from models.runtimes import Arrays, OnnxRuntime, Runtime
from models.subnormals import FlushToZero
from models.tensor_spec import TensorSpec
from models.torch_runtimes import TorchScriptRuntime
from training import plots
from training.datasets import Dataset, digits
from training.runs import RunResult

EXAMPLE_ROWS = 2


class ExportError(RuntimeError):
    """An export that cannot be served. No file was written."""


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
    """Return the module to export, its input and its output.

    The names of the module's arguments are the names of the tensors.
    """
    if data.task == "regression":
        low, high = float(data.train.inputs.min()), float(data.train.inputs.max())
        return (
            _CurveGraph(network).eval(),
            replace(X, minimum=low, maximum=high),
            TensorSpec(name="y", datatype="FP32", shape=(-1, 1), meaning="the curve's value at x"),
        )  # fmt: skip
    probabilities = TensorSpec(
        name="probabilities", datatype="FP32", shape=(-1, len(data.labels)), minimum=0, maximum=1,
        meaning="of each class; a row sums to 1", labels=data.labels,
    )  # fmt: skip
    if data.input_kind == "columns":
        return (
            _PointGraph(network).eval(),
            POINT,
            probabilities,
        )
    return _ImageGraph(network).eval(), IMAGE, probabilities


def torchscript(graph: nn.Module) -> bytes:
    """Return the graph as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(graph), stream)
    return stream.getvalue()


def onnx(graph: nn.Module, sample: Tensor, spec: TensorSpec, output: TensorSpec) -> bytes:
    """Return the graph as a single ONNX file with a dynamic batch size.

    Args:
        graph: the module, in eval mode and on the CPU.
        sample: two or more input rows.
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
        return _without_metadata(path.read_bytes())


def _without_metadata(content: bytes) -> bytes:
    """Remove the exporter's metadata: stack traces, which contain paths of this machine."""
    model = load_model_from_string(content)
    messages = (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions)
    for message in messages:
        del message.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    stripped: bytes = model.SerializeToString()
    return stripped


def export(result: RunResult, root: Path) -> ModelPackage:
    """Export and verify the network, and write the next version of its package under `root`.

    Raises:
        ParityError: the outputs of a file differ from those of the network.
        ExportError: the inputs or outputs of a file do not match the card, or the package cannot
            be written.
        PackageError: the package's folder cannot be read, or another process wrote the version.
    """
    data = result.data
    graph, spec, output = graph_of(result.network, data)
    samples = data.test.inputs
    files = {
        MODEL_FILES["torchscript"]: torchscript(graph),
        MODEL_FILES["onnx"]: onnx(graph, samples[:2], spec, output),
    }

    def eager(inputs: Arrays) -> Arrays:
        with torch.inference_mode(), FlushToZero():  # as the runtimes compute
            return {output.name: graph(torch.from_numpy(inputs[spec.name])).numpy()}

    # MNIST's images are not ours to redistribute: the example of an image network is from
    # scikit-learn's digits.
    source = digits() if data.input_kind == "images" else data
    recorded = source.test.inputs[:EXAMPLE_ROWS].numpy()
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
        name=result.recipe.name,
        version=ModelRepository(root).next_version(result.recipe.name),
        summary=result.recipe.summary,
        task=data.task,
        inputs=(spec,),
        outputs=(output,),
        fit=_fit_record(result),
        evaluations=result.evaluations,
        seeds=result.seeds,
        example=example,
        intended_use=result.recipe.intended_use,
        limits=result.recipe.limits,
    )
    opened: Mapping[RuntimeName, Runtime] = {
        "onnx": _require_fit(OnnxRuntime(files[MODEL_FILES["onnx"]]), card),
        "torchscript": _require_fit(
            TorchScriptRuntime(files[MODEL_FILES["torchscript"]], outputs=[output.name]), card
        ),
    }
    parity = tuple(
        check_parity(
            eager, runtime, {spec.name: samples.numpy()}, runtime=name,
            classification=data.task == "classification",
        )
        for name, runtime in opened.items()
    )  # fmt: skip
    pictures = plots.report(result.network, data, result.history, result.evaluations[0])
    try:
        return write_package(root, card.model_copy(update={"parity": parity}), files | pictures)
    except OSError as error:
        raise _unwritable(root, error) from error


def check_repository(root: Path) -> None:
    """Check, before any training, that packages can be written under `root`.

    Raises:
        ExportError: packages cannot be written.
    """
    try:
        require_writable(root)
    except OSError as error:
        raise _unwritable(root, error) from error


def _unwritable(root: Path, error: OSError) -> ExportError:
    reason = error.strerror or type(error).__name__
    return ExportError(f"the repository {root}: packages cannot be written there ({reason})")


def _require_fit(runtime: OnnxRuntime | TorchScriptRuntime, card: ModelCard) -> Runtime:
    mismatch = runtime.mismatch(card) or check_example(runtime, card.example, card.outputs)
    if mismatch:
        raise ExportError(f"{card.name}, {runtime.name}: {mismatch}")
    return runtime


def _fit_record(result: RunResult) -> FitRecord:
    history = result.history
    libraries = ("torch", "torchvision", "onnx", "onnxruntime", "numpy", "scikit-learn")
    return FitRecord(
        recipe=result.recipe.name,
        setting=result.preset,
        network=_layers(result.network),
        parameter_count=sum(parameter.numel() for parameter in result.network.parameters()),
        hyperparameters=result.hyperparameters.model_dump(),
        seed=result.hyperparameters.seed,
        data=result.data.record(),
        libraries={"python": platform.python_version()}
        | {name: version for name in libraries if (version := _installed(name))},
        device=_machine(result.device),
        epochs=len(history.epochs),
        kept_epoch=history.kept.epoch if history.kept else 0,
        seconds=history.seconds,
    )


def _layers(network: nn.Module) -> str:
    """Return the layers on one line, as `Linear(784, 512), ReLU`, without identity layers."""

    def text_of(layer: nn.Module) -> str:
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
    return ", ".join(text_of(layer) for layer in layers if not isinstance(layer, nn.Identity))


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
