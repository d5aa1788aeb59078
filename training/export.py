"""Export of a trained network as a package: TorchScript, ONNX, parity, card and pictures.

Each file is opened with its serving runtime and compared with the network in
eager mode. If a comparison fails, no package is written.
"""

import io
import platform
import tempfile
import warnings
from collections.abc import Mapping, Sequence
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
from models.loading import check_example
from models.package import ModelPackage, require_writable, write_package
from models.parity import check_parity
from models.repository import ModelRepository
from models.runtimes import Arrays, OnnxRuntime, Runtime
from models.subnormals import FlushToZero
from models.tensor_spec import TensorSpec
from models.torch_runtimes import TorchScriptRuntime
from training import plots
from training.runs import RunResult
from training.served import Served

EXAMPLE_ROWS = 2
_EXPORTER_WARNINGS = (
    ".*_check_is_size will be removed",
    ".*_flat_weights.* were assigned during export",
)
"""Of torch's exporter about its own functions, for an LSTM."""


class ExportError(RuntimeError):
    """An export that cannot be served. No file was written."""


def torchscript(graph: nn.Module) -> bytes:
    """Return the graph as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated")
        torch.jit.save(torch.jit.script(graph), stream)
    return stream.getvalue()


def onnx(served: Served, rows: Tensor) -> bytes:
    """Return the module as a single ONNX file, with the free dimensions of its inputs.

    Args:
        served: the module and its tensors.
        rows: two or more rows of the data set.
    """
    batch = torch.export.Dim("batch")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        for message in _EXPORTER_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            served.module,
            served.arguments(rows),
            path,
            input_names=[spec.name for spec in served.inputs],
            output_names=[spec.name for spec in served.outputs],
            dynamic_shapes={
                spec.name: {
                    axis: batch if axis == 0 else torch.export.Dim.DYNAMIC
                    for axis, size in enumerate(spec.shape)
                    if size == -1
                }
                for spec in served.inputs
            },
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
    data, recipe = result.data, result.recipe
    served = recipe.served(result.network, data)
    files = {
        MODEL_FILES["torchscript"]: torchscript(served.module),
        MODEL_FILES["onnx"]: onnx(served, data.test.inputs[:2]),
    }

    def arrays(rows: Tensor) -> Arrays:
        arguments = served.arguments(rows)
        return {
            spec.name: argument.numpy()
            for spec, argument in zip(served.inputs, arguments, strict=True)
        }

    def eager(inputs: Arrays) -> Arrays:
        with torch.inference_mode(), FlushToZero():  # as the runtimes compute
            outputs = served.module(*(torch.from_numpy(inputs[s.name]) for s in served.inputs))
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        return {spec.name: o.numpy() for spec, o in zip(served.outputs, outputs, strict=True)}

    recorded = arrays(data.example_rows(EXAMPLE_ROWS))
    example = Example(
        inputs=_recorded(served.inputs, recorded),
        outputs=_recorded(served.outputs, eager(recorded)),
        tolerance=EXAMPLE_TOLERANCE,
    )
    card = ModelCard(
        name=recipe.name,
        version=ModelRepository(root).next_version(recipe.name),
        summary=recipe.summary,
        task=data.task,
        inputs=served.inputs,
        outputs=served.outputs,
        fit=_fit_record(result),
        evaluations=result.evaluations,
        seeds=result.seeds,
        example=example,
        intended_use=recipe.intended_use,
        limits=recipe.limits,
        **served.card,
    )
    names = [spec.name for spec in served.outputs]
    opened: Mapping[RuntimeName, Runtime] = {
        "onnx": _require_fit(OnnxRuntime(files[MODEL_FILES["onnx"]]), card),
        "torchscript": _require_fit(
            TorchScriptRuntime(files[MODEL_FILES["torchscript"]], outputs=names), card
        ),
    }
    samples = arrays(data.test.inputs)
    parity = tuple(
        check_parity(
            eager, runtime, samples, runtime=name, classification=data.task == "classification"
        )
        for name, runtime in opened.items()
    )
    pictures = plots.report(
        {
            "loss-curves": plots.loss_curves(result.history),
            **recipe.pictures(result.network, data, result.evaluations[0]),
        }
    )
    card = card.model_copy(update={"parity": parity})
    try:
        return write_package(root, card, files | dict(served.files) | pictures)
    except OSError as error:
        raise _unwritable(root, error) from error


def _recorded(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, RecordedTensor]:
    return {spec.name: RecordedTensor.of(spec.datatype, arrays[spec.name]) for spec in specs}


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
