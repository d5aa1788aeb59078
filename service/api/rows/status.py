"""The pages of the row protocols: which models serve, what they take, and health."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.kinds.tensor_spec import Datatype, TensorSpec
from models.package.card import ModelCard
from service.api.rows.dialects import path_pattern
from service.http.responses import Reply, json_response
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry

HEALTH = "/ping"

_DTYPES: Mapping[Datatype, str] = {
    "BOOL": "DT_BOOL",
    "BYTES": "DT_STRING",
    "FP16": "DT_HALF",
    "BF16": "DT_BFLOAT16",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
}
"""TensorFlow's names of datatypes, apart from those of whole numbers."""


def _models(registry: ModelRegistry) -> Reply:
    """The names of the models that serve."""
    return json_response({"models": [predictor.card.name for predictor in registry]})


def _ping(registry: ModelRegistry) -> Reply:
    """Whether a model serves, for SageMaker and MLflow."""
    ready = registry.ready and not registry.is_loading
    return json_response({"status": "Healthy" if ready else "Unhealthy"}, 200 if ready else 503)


def _model(predictor: Predictor) -> Reply:
    """Whether a model serves: KServe's fields, and TensorFlow Serving's."""
    card = predictor.card
    status = {"error_code": "OK", "error_message": ""}
    state = {"version": card.version, "state": "AVAILABLE", "status": status}
    return json_response({"name": card.name, "ready": True, "model_version_status": [state]})


def _metadata(predictor: Predictor) -> Reply:
    """The inputs and outputs of a model, as TensorFlow Serving describes a signature."""
    card = predictor.card
    return json_response(
        {
            "model_spec": {"name": card.name, "signature_name": "", "version": card.version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": _signature(card)}}},
        }
    )


def _signature(card: ModelCard) -> dict[str, Any]:
    def tensors(specs: Sequence[TensorSpec]) -> dict[str, Any]:
        return {
            spec.name: {
                "dtype": _DTYPES.get(spec.datatype, f"DT_{spec.datatype}"),
                "tensor_shape": {
                    "dim": [{"size": str(size), "name": ""} for size in spec.shape],
                    "unknown_rank": False,
                },
                "name": spec.name,
            }
            for spec in specs
        }

    return {
        "inputs": tensors(card.inputs),
        "outputs": tensors(card.outputs),
        "method_name": "tensorflow/serving/predict",
    }


PAGES: Mapping[str, Callable[[ModelRegistry], Reply]] = {
    "/v1/models": _models,
    HEALTH: _ping,
    "/health": _ping,
}
"""The pages of all models, by path. MLflow's server has two paths of health."""
MODEL_PAGES: Mapping[str, Callable[[Predictor], Reply]] = {
    "/v1/models/{model}": _model,
    "/v1/models/{model}/metadata": _metadata,
}
"""The pages of one model; `/versions/{version}` may follow its name."""
MODEL_PATTERNS = [(path_pattern(path), path, page) for path, page in MODEL_PAGES.items()]
