"""The protocol's endpoints, as an ASGI application over the catalog of models."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Receive, Scope, Send

from service.batching.batch import Answer
from service.callbacks import called_back
from service.catalog import Catalog
from service.errors import (
    BadInputError,
    MethodNotAllowedError,
    NotReadyError,
    ServiceError,
    UnknownModelError,
    UnknownPathError,
)
from service.http.body import read_body
from service.http.endpoint import Reply, Responder, error_response, json_response, parse_json
from service.http.exchange import Exchange, current
from service.open_inference import describe
from service.open_inference.codec import decode, encode
from service.predictor import Predictor
from service.settings import current_settings

PREFIX = "/v2"
INFER = "/models/{model}/infer"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: what it asks of whom."""

    catalog: Catalog
    exchange: Exchange
    receive: Receive
    model: str
    version: str

    async def read(self) -> bytes | bytearray:
        """The whole body."""
        body = await read_body(self.exchange.headers, self.receive, current_settings())
        self.exchange.receive = self.receive
        return body

    @property
    def predictor(self) -> Predictor:
        """The model that the path names.

        Raises:
            NotReadyError: it was refused, or is being loaded.
            UnknownModelError: there is none of that name and version.
        """
        return _find(self.catalog, self.exchange, self.model, self.version)


async def _server(call: Call) -> Reply:
    """The server's name, version and extensions."""
    return json_response(describe.server())


async def _live(call: Call) -> Reply:
    """Whether the process can go on serving, as `/livez` says too."""
    if not call.catalog.alive:
        raise NotReadyError("This process has to be started anew.")
    return json_response({"live": True})


async def _ready(call: Call) -> Reply:
    """Whether all models serve. `/readyz` says whether one does."""
    if not call.catalog.ready:
        raise NotReadyError("No model is ready.")
    if refused := len(call.catalog.refused):
        raise NotReadyError(
            f"{refused} of the models {'is' if refused == 1 else 'are'} not ready; "
            "POST /v2/repository/index tells why."
        )
    return json_response({"ready": True, "live": True})


async def _models(call: Call) -> Reply:
    """The names of the models that serve."""
    return json_response({"models": [predictor.card.name for predictor in call.catalog]})


async def _index(call: Call) -> Reply:
    """Every package of the repository, and why one is not ready; or those that are ready alone."""
    body = await call.read()
    ready = parse_json(body).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise BadInputError("The request's 'ready' must be true or false.")
    return json_response(describe.index(call.catalog, ready_only=ready))


async def _statistics_of_all(call: Call) -> Reply:
    """What all models have done since this worker started."""
    return json_response(describe.statistics(*call.catalog))


async def _metadata(call: Call) -> Reply:
    """A model's inputs and outputs."""
    return json_response(describe.metadata(call.predictor))


async def _model_ready(call: Call) -> Reply:
    """Whether a model serves."""
    return json_response({"name": call.predictor.card.name, "ready": True})


async def _configuration(call: Call) -> Reply:
    """A model's configuration, in Triton's words."""
    return json_response(describe.configuration(call.predictor))


async def _statistics(call: Call) -> Reply:
    """What a model has done since this worker started."""
    return json_response(describe.statistics(call.predictor))


async def _infer(call: Call) -> Reply:
    """Ask a model for a prediction, in JSON or with binary tensors."""
    predictor = call.predictor
    body = await call.read()
    return await called_back(lambda reply: infer(predictor, call.exchange, body, reply))


Handler = Callable[[Call], Awaitable[Reply]]

# Below /v2; {model} may be followed by versions/{version}.
ROUTES: Mapping[str, tuple[str, Handler]] = {
    "": ("GET", _server),
    "/health/live": ("GET", _live),
    "/health/ready": ("GET", _ready),
    "/models": ("GET", _models),
    "/models/stats": ("GET", _statistics_of_all),
    "/repository/index": ("POST", _index),
    "/models/{model}": ("GET", _metadata),
    "/models/{model}/ready": ("GET", _model_ready),
    "/models/{model}/config": ("GET", _configuration),
    "/models/{model}/stats": ("GET", _statistics),
    INFER: ("POST", _infer),
}


class OpenInference:
    """The ASGI application. `catalog` is set at start-up."""

    catalog: Catalog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request whose path begins with `PREFIX`."""
        exchange = current()
        try:
            response = await self._answer(exchange, receive)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            response = error_response(error)
        await response(scope, receive, send)

    def responder(self, path: str) -> Responder | None:
        """Who answers a POST to `path` whose body is whole; None where only ASGI leads there."""
        pattern, model, version = split(path)
        if pattern != INFER:
            return None
        endpoint = PREFIX + pattern

        def respond(
            exchange: Exchange, body: bytes, reply: Callable[[Reply], None]
        ) -> Callable[[], None]:
            exchange.endpoint = endpoint
            return infer(_find(self.catalog, exchange, model, version), exchange, body, reply)

        return respond

    async def _answer(self, exchange: Exchange, receive: Receive) -> Reply:
        pattern, model, version = split(exchange.path)
        route = ROUTES.get(pattern)
        if route is None:
            raise UnknownPathError(f"There is nothing at {exchange.path[:100]!r} in the protocol.")
        exchange.endpoint = PREFIX + pattern
        method, handler = route
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if exchange.method not in allowed:
            raise MethodNotAllowedError(exchange.method, *allowed)
        return await handler(Call(self.catalog, exchange, receive, model, version))


def infer(
    predictor: Predictor,
    exchange: Exchange,
    body: bytes | bytearray,
    reply: Callable[[Reply], None],
) -> Callable[[], None]:
    """Ask a model for a prediction; `reply` gets the answer, also where the model fails.

    Returns:
        What gives it up.

    Raises:
        ServiceError: nothing was computed, and `reply` is not called.
    """
    predictor.check_room()
    header_length = exchange.headers.get(b"inference-header-content-length")
    request = decode(predictor.card, body, header_length)

    def answered(answer: Answer | ServiceError) -> None:
        if isinstance(answer, ServiceError):
            reply(error_response(answer, exchange))
            return
        try:
            content, json_length = encode(predictor.card, request, answer.outputs)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is answered
            reply(error_response(error, exchange))
            return
        if json_length is None:
            reply(Reply(exchange, content))
            return
        length = (b"inference-header-content-length", b"%d" % json_length)
        reply(Reply(exchange, content, b"application/octet-stream", headers=(length,)))

    return predictor.begin(exchange, request.inputs, answered, request.timeout)


def _find(catalog: Catalog, exchange: Exchange, model: str, version: str) -> Predictor:
    predictor = catalog[model]
    exchange.model = predictor.card.name
    if version and version != predictor.card.version:
        raise UnknownModelError(
            f"Request for unknown model: {model!r} version {version[:20]} is not found; "
            f"version {predictor.card.version} is the one that serves."
        )
    return predictor


def split(path: str) -> tuple[str, str, str]:
    """A path → its pattern in `ROUTES` (or in nothing), the model and the version that it names."""
    return (_known if len(path) <= _LONGEST_KNOWN else _split)(path)


def _split(path: str) -> tuple[str, str, str]:
    parts = path.removeprefix(PREFIX).split("/")
    if len(parts) < 3 or parts[1] != "models" or parts[2:] == ["stats"]:
        return "/".join(parts), "", ""
    model, version, rest = parts[2], "", parts[3:]
    if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
        version, rest = rest[1], rest[2:]
    return "/".join(("", "models", "{model}", *rest)), model, version


_LONGEST_KNOWN = 256  # characters of a path
_known = lru_cache(maxsize=256)(_split)  # a client asks for the same ones again and again
