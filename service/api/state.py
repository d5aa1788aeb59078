"""The state that the endpoints share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.http.responses import Responder
from service.inference.registry import ModelRegistry


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
