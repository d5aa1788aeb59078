"""The state that the endpoints share, and the model that a request names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import UnknownModelError
from service.http.responses import Responder
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.telemetry.request_context import RequestContext


@dataclass
class ServiceState:
    """The shared state, created before the endpoints; start-up loads the models into it.

    Attributes:
        registry: the models.
        responders: of the typed endpoints, by path.
        openapi: the OpenAPI description of all endpoints.
    """

    registry: ModelRegistry
    responders: dict[str, Responder] = field(default_factory=dict)
    openapi: Mapping[str, Any] = field(default_factory=dict)


def find_model(
    registry: ModelRegistry, context: RequestContext, model: str, version: str
) -> Predictor:
    """Return a model, and note it in the context.

    Args:
        registry: the models.
        context: of the request.
        model: the name.
        version: "" for the one that is served.

    Raises:
        NotReadyError: the model is unavailable or being loaded.
        UnknownModelError: there is no model of that name and version.
    """
    predictor = registry[model]
    context.model = predictor.card.name
    if version and version != predictor.card.version:
        raise UnknownModelError(
            f"Request for unknown model: {model!r} version {version[:20]} is not found; "
            f"version {predictor.card.version} is served."
        )
    return predictor
