"""The door for models of Keras 3, in Python or in a `.keras` file."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fitserve.doors import is_of
from fitserve.exported import RANDOM, Exported, ExportError, Record, reason

SHOWN = "model of Keras"


def takes(network: object) -> bool:
    """Return whether the network is a model of Keras."""
    return is_of(network, "keras", "Model")


def read(file: Path) -> Any:
    """Return the model in a file. Code in the file is not run."""
    import keras

    try:
        return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:
        raise ExportError(
            f"{file.name}: Keras cannot load it ({error}): load it in Python with its own classes, "
            "and give it to fitserve.save"
        ) from error


def export(network: Any, samples: Sequence[Any], labels: Sequence[str]) -> Exported:
    """Return the model as files.

    Args:
        network: the built model.
        samples: one: an array of rows, or a mapping of the model's inputs to arrays; random rows by
            default.
        labels: the classes.

    Raises:
        ExportError: the model fails on the sample, or has no form in ONNX.
    """
    import keras

    if not getattr(network, "inputs", None):
        raise ExportError(
            f"the model {network.name} states no inputs: call a Sequential on rows first; make a "
            "subclass of keras.Model a model of its inputs, keras.Model(x, network(x)) with "
            "x = keras.Input(shape)"
        )
    names = [tensor.name for tensor in network.inputs]
    rows = _rows(network, names, samples[0]) if samples else _random(network)
    try:
        results = network(list(rows.values()) if len(rows) > 1 else rows[names[0]], training=False)
    except Exception as error:
        raise ExportError(
            f"the model fails on the sample ({_reason(error)}): give rows that it takes"
        ) from error
    answers = [np.asarray(keras.ops.convert_to_numpy(one)) for one in _list(results)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        try:
            network.export(file, format="onnx", verbose=False)
        except ImportError as error:
            raise ExportError(f"{error.name} is not installed: pip install {error.name}") from error
        except Exception as error:
            raise ExportError(f"the model has no form in ONNX ({_reason(error)})") from error
        onnx, inputs, outputs = _read(file)
    if len(inputs) == len(rows):
        rows = dict(zip(inputs, rows.values(), strict=True))
    return Exported(
        onnx,
        [Record(rows, dict(zip(outputs, answers, strict=True)))],
        f"{network.name} of Keras {keras.__version__}",
        labels=labels,
        notes=() if samples else [RANDOM],
    )


def _rows(network: Any, names: Sequence[str], sample: Any) -> dict[str, Any]:
    given = (
        dict(sample)
        if isinstance(sample, Mapping)
        else dict(zip(names, sample if isinstance(sample, tuple) else [sample], strict=False))
    )
    if set(given) != set(names):
        raise ExportError(f"the sample names {', '.join(given)}: the inputs are {', '.join(names)}")
    try:
        return {
            tensor.name: np.asarray(given[tensor.name], tensor.dtype) for tensor in network.inputs
        }
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"the sample is no array of numbers ({reason(error)}): give rows"
        ) from error


def _reason(error: Exception) -> str:
    """Return what failed: the first line of Keras says where, the next what, in bold letters."""
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception encountered")]
    return said[0].rstrip(".") if said else reason(error)


def _random(network: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    shapes = {
        tensor.name: tuple(size or 8 for size in tensor.shape[1:]) for tensor in network.inputs
    }
    return {
        tensor.name: random.normal(size=(4, *shapes[tensor.name])).astype(tensor.dtype)
        for tensor in network.inputs
    }


def _list(results: Any) -> list[Any]:
    if isinstance(results, Mapping):
        return list(results.values())
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _read(file: Path) -> tuple[bytes, list[str], list[str]]:
    import onnx

    model = onnx.load(file)
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    return model.SerializeToString(), inputs, [value.name for value in model.graph.output]
