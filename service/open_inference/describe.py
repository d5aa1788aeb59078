"""What the protocol says of the server and of a model, apart from its answers."""

from typing import Any

from models.card import MODEL_FILES, RuntimeName, TensorSpec
from service.catalog import Catalog
from service.predictor import Predictor
from service.settings import VERSION

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)

_PLATFORMS: dict[RuntimeName, str] = {"onnx": "onnx_onnxv1", "torchscript": "pytorch_torchscript"}
"""As the protocol names them."""
_TRITON_PLATFORMS: dict[RuntimeName, str] = {
    "onnx": "onnxruntime_onnx",
    "torchscript": "pytorch_libtorch",
}
_BACKENDS: dict[RuntimeName, str] = {"onnx": "onnxruntime", "torchscript": "pytorch"}


def server() -> dict[str, Any]:
    """Name, version, and the extensions that are spoken in full."""
    return {"name": "fitserve", "version": VERSION, "extensions": EXTENSIONS}


def index(catalog: Catalog, *, ready_only: bool = False) -> list[dict[str, str]]:
    """Every package of the repository: ready, or not and why; of one put back, that it is so.

    Args:
        catalog: the models.
        ready_only: leave out those that do not serve.
    """
    ready = [
        {
            "name": predictor.card.name,
            "version": predictor.card.version,
            "state": "READY",
            "reason": catalog.notices.get(predictor.card.name, ""),
        }
        for predictor in catalog
    ]
    refused = [
        {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
        for name, reason in catalog.refused.items()
    ]
    return ready if ready_only else [*ready, *refused]


def metadata(predictor: Predictor) -> dict[str, Any]:
    """A model's inputs and outputs. Shapes have the batch as their first dimension."""
    card = predictor.card
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": _PLATFORMS[predictor.placement.runtime.name],
        "inputs": [_tensor(spec) for spec in card.inputs],
        "outputs": [_tensor(spec) for spec in card.outputs],
    }


def configuration(predictor: Predictor) -> dict[str, Any]:
    """The model's configuration, in the words of Triton's `ModelConfig`, as Triton writes it.

    What it says of is there, so `optimization` and what else has no meaning here is left out. A
    network whose graph is fixed to one batch has `max_batch_size` 0, and whole shapes as `dims`.
    """
    card, runtime = predictor.card, predictor.placement.runtime
    batches = card.fixed_batch is None
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
    }


def _batching(predictor: Predictor) -> dict[str, Any]:
    """What is computed together: any rows, whole batches, or each request alone."""
    if predictor.card.fixed_batch is not None:
        return {}
    if predictor.card.batching == "none":
        return {"parameters": {"batching": {"string_value": "none"}}}
    return {"dynamic_batching": predictor.batching}


def statistics(*predictors: Predictor) -> dict[str, Any]:
    """What the models have done since the start of this worker."""
    return {
        "model_stats": [
            predictor.statistics.describe(predictor.card.name, predictor.card.version)
            for predictor in predictors
        ]
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _configured(spec: TensorSpec, *, batches: bool) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": f"TYPE_{spec.datatype}",
        "dims": spec.shape[1:] if batches else spec.shape,
    }


def _label_file(spec: TensorSpec) -> str:
    """A name, where Triton has the file with the labels: clients read whether there are some."""
    return f"{spec.name}_labels.txt" if spec.labels else ""
