"""Export of a trained network as a package: ONNX, TorchScript, parity, card and pictures.

Each file is opened with its serving runtime and compared with the network in
eager mode. If a comparison fails, no package is written.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path

import torch
from torch import Tensor, nn

from models.graphs.row_mixing import row_mixing
from models.kinds.tensor_spec import TensorSpec
from models.package.card import (
    EXAMPLE_TOLERANCE,
    MODEL_FILES,
    Example,
    FitRecord,
    ModelCard,
    RecordedTensor,
    RuntimeName,
)
from models.package.model_package import ModelPackage, require_writable, write_package
from models.package.repository import ModelRepository
from models.proofs.parity import check_parity
from models.runtimes.loading import check_example
from models.runtimes.runtime import Arrays, Runtime
from models.runtimes.subnormals import FlushToZero
from models.runtimes.torch_runtimes import TorchRuntime
from models.torch_graphs.script_harm import harm
from models.torch_graphs.script_mixing import script_mixing
from training.exported_files import export_files, open_file
from training.reports import plots
from training.runs import RunResult

EXAMPLE_ROWS = 2
PARITY_ROWS = 10_000
PARITY_NUMBERS = 8_388_608
"""The numbers of the inputs that the parity check computes one row at a time, for large rows."""
MIN_PARITY_ROWS = 64
MAX_LISTED_MODULES = 60
"""A module of more, such as a ResNet of timm, is named in the card without its layers."""


class ExportError(RuntimeError):
    """An export that cannot be served. No file was written."""


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
    contents = export_files(served, data.test.inputs[:2])

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
    card, contents = _proved(card, contents, recorded)
    samples = arrays(data.test.inputs[: _parity_rows(data.test.inputs)])
    parity = tuple(
        check_parity(
            eager,
            _opened(name, content, card),
            samples,
            runtime=name,
            classification=data.task == "classification",
        )
        for name, content in contents.items()
    )
    pictures = plots.report(
        {
            "loss-curves": plots.loss_curves(result.history, data.task),
            **recipe.pictures(result.network, data, result.evaluations[0]),
        }
    )
    card = card.model_copy(update={"parity": parity})
    try:
        files = {MODEL_FILES[name]: content for name, content in contents.items()}
        return write_package(root, card, files | dict(served.files) | pictures)
    except OSError as error:
        raise _unwritable(root, error) from error


def _proved(
    card: ModelCard, contents: Mapping[RuntimeName, bytes], rows: Arrays
) -> tuple[ModelCard, dict[RuntimeName, bytes]]:
    """Return the card and the files, with rows batched as far as they are proved to be apart.

    If the graph may mix rows, each request is computed alone. If a file of torch may, or if a
    request may harm others there, it is left out.
    """
    (mixing,) = row_mixing(contents["onnx"], [rows])
    if mixing:
        reason = (
            "Each request is computed alone, as it came, since it is not proved that a row's "
            f"answer does not depend on the rows beside it: {mixing}."
        )
        card = card.model_copy(update={"batching": "none", "limits": (*card.limits, reason)})
    kept = dict(contents)
    for name, content in contents.items():
        runtime = open_file(name, content, [spec.name for spec in card.outputs])
        if not isinstance(runtime, TorchRuntime):
            continue
        found = harm(runtime) or (None if mixing else script_mixing(runtime, rows))
        if found:
            del kept[name]
            reason = f"The file of torch is left out: {found}."
            card = card.model_copy(update={"limits": (*card.limits, reason)})
    return card, kept


def _parity_rows(inputs: Tensor) -> int:
    rows = PARITY_NUMBERS // max(1, inputs[:1].numel())
    return min(PARITY_ROWS, max(MIN_PARITY_ROWS, rows))


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


def _opened(name: RuntimeName, content: bytes, card: ModelCard) -> Runtime:
    """Open a file with its runtime.

    Raises:
        ExportError: it does not fit the card.
    """
    runtime = open_file(name, content, [spec.name for spec in card.outputs])
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
        run_ids=dict(result.run_ids),
    )


def _layers(network: nn.Module) -> str:
    """Return the layers on one line, as `Linear(784, 512), ReLU`, without identity layers.

    A module of modules is written with its layers, as `MirrorAveraged(Pixels, Flatten)`; a
    sequence of layers as these alone.
    """
    name = type(network).__name__.removeprefix("_")
    match network:
        case nn.Linear():
            return f"{name}({network.in_features}, {network.out_features})"
        case nn.Conv2d():
            size = "x".join(map(str, network.kernel_size))
            return f"{name}({network.in_channels}, {network.out_channels}, {size})"
        case nn.Embedding():
            return f"{name}({network.num_embeddings}, {network.embedding_dim})"
        case nn.LSTM():
            return f"{name}({network.input_size}, {network.hidden_size})"
        case nn.Dropout():
            return f"{name}({network.p:g})"
        case nn.Identity():
            return ""
    inside = ", ".join(text for layer in network.children() if (text := _layers(layer)))
    if isinstance(network, nn.Sequential | nn.ModuleList):
        return inside
    if inside and sum(1 for _ in network.modules()) <= MAX_LISTED_MODULES:
        return f"{name}({inside})"
    return name


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
