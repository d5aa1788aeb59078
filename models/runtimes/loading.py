"""The loading of a package's file into a runtime, with checks against the card.

`open_runtime` returns a runtime only if the file's bytes match the card's digest, the graph has the
card's inputs and outputs, and the runtime reproduces the card's recorded prediction. Training
checks its exports with the same runtimes that serve them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.kinds.split_rows import plain
from models.kinds.tensor_spec import TensorSpec
from models.kinds.tokens import TOKENIZER_FILE, Tokenizer, TokenizerError
from models.package.card import MODEL_FILES, WEIGHTS_FILE, Example, RuntimeName
from models.package.model_package import ModelPackage, PackageError
from models.runtimes.devices import DeviceError
from models.runtimes.differences import excess, relative_difference
from models.runtimes.rows_first import RowsFirst
from models.runtimes.runtime import (
    Arrays,
    OnnxRuntime,
    Runtime,
    may_vary_in_cost,
    one_line,
)
from models.runtimes.torch_runtimes import TORCH_RUNTIMES, TorchRuntime


def open_runtime(
    package: ModelPackage, name: RuntimeName, device: str = "cpu", threads: int = 0
) -> Runtime:
    """Load one file of `package` and check it against the card.

    The runtime takes and gives tensors with the rows first, whatever the network's layout
    (`models.kinds.batch_axes`).

    Args:
        package: the package. The file's digest is checked before the file is loaded.
        name: the runtime, which determines the file.
        device: `cpu` or `cuda:<index>`.
        threads: threads for one batch; 0 leaves the choice to the runtime.

    Raises:
        DeviceError: the runtime cannot use the device on this machine, or a check fails on the
            device and passes on the CPU.
        PackageError: the file is missing, altered, or not loadable; the graph does not fit the
            card; or the runtime does not reproduce the recorded prediction.
    """
    try:
        return _opened(package, name, device, threads)
    except PackageError as error:
        if device == "cpu":
            raise
        _opened(package, name, "cpu", threads)  # raises if the file itself is at fault
        raise DeviceError(f"{device} fails where the CPU does not: {error.reason}") from error


def _opened(package: ModelPackage, name: RuntimeName, device: str, threads: int) -> Runtime:
    card, file = package.card, MODEL_FILES[name]
    content = package.load(file)
    has_weights_beside = name == "onnx" and WEIGHTS_FILE in card.files
    weights = package.load(WEIGHTS_FILE) if has_weights_beside else None
    runtime: OnnxRuntime | TorchRuntime
    try:
        if name == "onnx":
            runtime = OnnxRuntime(
                content,
                device,
                threads,
                optimized=card.optimized,
                bounded=card.has_free_dimensions or may_vary_in_cost(content),
                weights=weights,
            )
        else:
            outputs = [spec.name for spec in card.outputs]
            bfloat16 = [spec.name for spec in card.inputs if spec.datatype == "BF16"]
            runtime = TORCH_RUNTIMES[name](
                content, device, threads, outputs=outputs, bfloat16=bfloat16
            )
    except (DeviceError, ImportError):
        raise
    except Exception as error:
        reason = f"it cannot be loaded ({one_line(error)})"
        raise PackageError(package.label, file, reason) from error
    opened: Runtime = runtime if card.is_rows_first else RowsFirst(runtime, card.axes)
    mismatch = runtime.mismatch(card) or check_example(
        opened, card.rows_first.example, card.outputs
    )
    if mismatch:
        raise PackageError(package.label, file, mismatch)
    return opened


def open_tokenizer(package: ModelPackage) -> Tokenizer | None:
    """Load the tokenizer of a package; None if the package takes no texts.

    Raises:
        PackageError: the file is missing, altered or unreadable, gives other tokens than recorded,
            or the library is not installed.
    """
    spec = package.card.text
    if spec is None:
        return None
    content = package.load(TOKENIZER_FILE)
    try:
        return Tokenizer(spec, content)
    except ImportError as error:
        reason = f"{error.name} is not installed: pip install 'fitserve[text]'"
        raise PackageError(package.label, TOKENIZER_FILE, reason) from error
    except TokenizerError as error:
        raise PackageError(package.label, TOKENIZER_FILE, str(error)) from error


def check_example(runtime: Runtime, example: Example, outputs: Sequence[TensorSpec]) -> str | None:
    """Repeat the recorded prediction; return how the result differs, or None if it does not."""
    try:
        result = _compute_example(example, runtime)
    except Exception as error:  # noqa: BLE001 - any error is a reason to refuse the file
        return f"the recorded prediction fails on {runtime.device} ({one_line(error)})"
    return _mismatch(result, example, outputs)


def example_mismatch(
    compute: Callable[[Arrays], Arrays], example: Example, outputs: Sequence[TensorSpec]
) -> str | None:
    """Do as `check_example`, for any function that computes as a runtime does."""
    try:
        return _mismatch(_compute_example(example, compute), example, outputs)
    except Exception as error:  # noqa: BLE001 - any error means that the example fails
        return f"the recorded prediction fails ({one_line(error)})"


def _compute_example(example: Example, compute: Callable[[Arrays], Arrays]) -> Arrays:
    outputs = compute({name: tensor.array() for name, tensor in example.inputs.items()})
    return {name: plain(array) for name, array in outputs.items()}


def _mismatch(result: Arrays, example: Example, outputs: Sequence[TensorSpec]) -> str | None:
    for spec in outputs:
        computed, recorded = result[spec.name], example.outputs[spec.name].array()
        if computed.shape != recorded.shape or computed.dtype != recorded.dtype:
            return (
                f"{spec.name} of the recorded prediction is {computed.dtype} "
                f"{list(computed.shape)}; "
                f"the card says {recorded.dtype} {list(recorded.shape)}"
            )
        if recorded.dtype.kind != "f":
            if not np.array_equal(computed, recorded):
                kind = "text" if spec.datatype == "BYTES" else "whole number"
                return f"{spec.name} is another {kind} than the recorded prediction's"
            continue
        difference = relative_difference(computed, recorded, probabilities=spec.is_probabilities)
        if differs := excess(difference, example.tolerance, recorded.dtype):
            return f"{spec.name} differs from the recorded prediction {differs}"
    return None
