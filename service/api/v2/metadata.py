"""The protocol's metadata of the server and of models."""

from typing import Any

from models.kinds.tensor_spec import TensorSpec
from models.package.card import MODEL_FILES, ModelCard, RuntimeName
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.settings import VERSION

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)

_PLATFORMS: dict[RuntimeName, str] = {
    "onnx": "onnx_onnxv1",
    "torchscript": "pytorch_torchscript",
    "pt2": "pytorch_pt2",
}
"""The protocol's names of the platforms."""
_TRITON_PLATFORMS: dict[RuntimeName, str] = {
    "onnx": "onnxruntime_onnx",
    "torchscript": "pytorch_libtorch",
    "pt2": "pytorch_pt2",
}
_BACKENDS: dict[RuntimeName, str] = {
    "onnx": "onnxruntime",
    "torchscript": "pytorch",
    "pt2": "pytorch",
}


def server_metadata() -> dict[str, Any]:
    """Return the name, the version and the fully supported extensions."""
    return {"name": "fitserve", "version": VERSION, "extensions": EXTENSIONS}


def repository_index(registry: ModelRegistry, *, ready_only: bool = False) -> list[dict[str, str]]:
    """Return every package of the repository with its state and the reason, if any.

    Args:
        registry: the models.
        ready_only: leave out the models that do not serve.
    """
    ready = [
        {
            "name": predictor.card.name,
            "version": predictor.card.version,
            "state": "READY",
            "reason": registry.notices.get(predictor.card.name, ""),
        }
        for predictor in registry
    ]
    if ready_only:
        return ready
    states = {name: ("UNAVAILABLE", reason) for name, reason in registry.unavailable.items()}
    states |= dict.fromkeys(registry.loading, ("LOADING", ""))
    return ready + [
        {"name": name, "version": "", "state": state, "reason": reason}
        for name, (state, reason) in states.items()
    ]


def model_metadata(predictor: Predictor) -> dict[str, Any]:
    """Return a model's inputs and outputs, with the shapes that a client sends and gets."""
    card = predictor.card
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": _PLATFORMS[predictor.placement.runtime.name],
        "inputs": [_tensor(spec) for spec in card.inputs],
        "outputs": [_tensor(spec) for spec in card.outputs],
        **_columns(card),
    }


def _columns(card: ModelCard) -> dict[str, Any]:
    """Return the columns of a table, which the endpoints of rows take; empty for other models."""
    if card.table is None:
        return {}
    return {"parameters": {f"column.{one.name}": one.to_text() for one in card.table.columns}}


def model_configuration(predictor: Predictor) -> dict[str, Any]:
    """Return the model's configuration as Triton writes its `ModelConfig`.

    Fields without a meaning here, such as `optimization`, are left out. A network with a fixed
    batch, or with a batch that is not the first dimension everywhere, has `max_batch_size` 0, and
    whole shapes as `dims`.
    """
    card, runtime = predictor.card, predictor.placement.runtime
    batches = _has_batch_size(card)
    gpu = runtime.device.partition(":")[2]
    return {
        "name": card.name,
        "platform": _TRITON_PLATFORMS[runtime.name],
        "backend": _BACKENDS[runtime.name],
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": predictor.max_batch_rows if batches else 0,
        "input": [
            {**_configured(spec, batches=batches), "format": "FORMAT_NONE", "optional": False}
            for spec in card.inputs
        ],
        "output": [
            {**_configured(spec, batches=batches), "label_filename": _label_file(spec)}
            for spec in card.outputs
        ],
        "instance_group": [
            {
                "name": card.name,
                "kind": "KIND_GPU" if gpu else "KIND_CPU",
                "count": 1,
                "gpus": [int(gpu)] if gpu else [],
            }
        ],
        "default_model_filename": MODEL_FILES[runtime.name],
        **_batching(predictor),
        **_parameters(card),
    }


def _has_batch_size(card: ModelCard) -> bool:
    """Return whether the network has a batch in Triton's sense: first everywhere, of any size."""
    return card.is_rows_first and card.fixed_batch is None


def _batching(predictor: Predictor) -> dict[str, Any]:
    """Return the batcher of the model; none for fixed batches, and for requests alone."""
    if not _has_batch_size(predictor.card) or predictor.card.batching == "none":
        return {}
    return {"dynamic_batching": predictor.batching}


def _parameters(card: ModelCard) -> dict[str, Any]:
    """Return what Triton's fields do not say.

    These are requests computed alone, the largest shapes, the axes of a batch that is not the
    first dimension everywhere, the index by which outputs are divided among the rows, and the
    columns of a table.
    """
    parameters: dict[str, str] = _columns(card).get("parameters", {})
    if card.fixed_batch is None and card.batching == "none":
        parameters["batching"] = "none"
    if not card.is_rows_first and card.axes.has_batch:
        for name, axis in (card.axes.inputs | card.axes.outputs).items():
            parameters[f"batch_axis.{name}"] = "none" if axis is None else str(axis)
    if split := card.split:
        column = "" if split.column is None else f":{split.column}"
        parameters["split_by"] = f"{split.index}{column}"
    for spec in card.inputs:
        if spec.max_shape is not None:
            dims = spec.max_shape[1:] if _has_batch_size(card) else spec.max_shape
            parameters[f"max_dims.{spec.name}"] = ",".join(map(str, dims))
    if not parameters:
        return {}
    return {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}


def model_statistics(*predictors: Predictor) -> dict[str, Any]:
    """Return the statistics of the models since the start of this worker."""
    return {
        "model_stats": [
            predictor.statistics.to_json(predictor.card.name, predictor.card.version)
            for predictor in predictors
        ]
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _configured(spec: TensorSpec, *, batches: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}",
        "dims": spec.shape[1:] if batches else spec.shape,
    }


def _label_file(spec: TensorSpec) -> str:
    """Return the name of Triton's label file: clients check whether there is one."""
    return f"{spec.name}_labels.txt" if spec.labels else ""
