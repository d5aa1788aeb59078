"""The protocol's endpoints, as an ASGI application over the model registry."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

from starlette.types import Receive, Scope, Send

from models.package.card import ModelCard
from service.api.state import ServiceState, find_model
from service.api.v2.codec import (
    Encoded,
    InferRequest,
    decode,
    decode_large,
    encode,
    encode_long,
    is_bulky,
    is_large,
    is_long,
)
from service.api.v2.metadata import (
    model_configuration,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from service.batching.batch import Arrays, InferenceResponse
from service.concurrency import Cancellable, wait_for_callback
from service.errors import (
    BadInputError,
    BodyTooLargeError,
    LoadingError,
    MethodNotAllowedError,
    NotReadyError,
    ServiceError,
    UnknownPathError,
)
from service.http.body import read_body
from service.http.responses import (
    Reply,
    Responder,
    error_response,
    in_a_task,
    json_response,
    reply_from_task,
)
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.json_body import Body, parse_json
from service.processes.jobs import LARGE_BYTES, run_job, whole
from service.settings import Settings, settings_of
from service.telemetry.request_context import RequestContext, current_request

# Copies release the GIL. More threads would take the cores from the event loop.
_tensors = ThreadPoolExecutor(1, "tensors")

PREFIX = "/v2"
INFER = "/models/{model}/infer"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the arguments of a handler."""

    registry: ModelRegistry
    context: RequestContext
    receive: Receive
    settings: Settings
    model: str
    version: str

    async def read(self) -> Body:
        """Return the whole body."""
        body = await read_body(self.context.headers, self.receive, self.settings)
        self.context.receive = self.receive
        return body

    @property
    def predictor(self) -> Predictor:
        """The model that the path names.

        Raises:
            NotReadyError: the model is unavailable or being loaded.
            UnknownModelError: there is no model of that name and version.
        """
        return find_model(self.registry, self.context, self.model, self.version)


async def _server(call: Call) -> Reply:
    """The server's name, version and extensions."""
    return json_response(server_metadata())


async def _live(call: Call) -> Reply:
    """Whether the process can serve, as `/livez` reports too."""
    if not call.registry.alive:
        raise NotReadyError("This process has to be started anew.")
    return json_response({"live": True})


async def _ready(call: Call) -> Reply:
    """Whether all models serve. `/readyz` is also 200 if some are unavailable."""
    if call.registry.is_loading:
        loading = len(call.registry.loading) or "Some"
        raise LoadingError(
            f"{loading} of the models {'is' if loading == 1 else 'are'} being loaded; "
            "try again in a few seconds."
        )
    if not call.registry.ready:
        raise NotReadyError("No model is ready.")
    if unavailable := len(call.registry.unavailable):
        raise NotReadyError(
            f"{unavailable} of the models {'is' if unavailable == 1 else 'are'} not ready; "
            "POST /v2/repository/index tells why."
        )
    return json_response({"ready": True, "live": True})


async def _models(call: Call) -> Reply:
    """The names of the models that serve."""
    return json_response({"models": [predictor.card.name for predictor in call.registry]})


async def _index(call: Call) -> Reply:
    """Every package of the repository with its state and the reason, or only the ready ones."""
    body = await call.read()
    if len(body) > LARGE_BYTES:
        raise BodyTooLargeError("The body of this request is an object with 'ready', or empty.")
    ready = parse_json(body).get("ready", False) if body else False
    if not isinstance(ready, bool):
        raise BadInputError("The request's 'ready' must be true or false.")
    return json_response(repository_index(call.registry, ready_only=ready))


async def _statistics_of_all(call: Call) -> Reply:
    """The statistics of all models since the start of this worker."""
    return json_response(model_statistics(*call.registry))


async def _metadata(call: Call) -> Reply:
    """A model's inputs and outputs."""
    return json_response(model_metadata(call.predictor))


async def _model_ready(call: Call) -> Reply:
    """Whether a model serves."""
    return json_response({"name": call.predictor.card.name, "ready": True})


async def _configuration(call: Call) -> Reply:
    """A model's configuration, in Triton's words."""
    return json_response(model_configuration(call.predictor))


async def _statistics(call: Call) -> Reply:
    """The statistics of a model since the start of this worker."""
    return json_response(model_statistics(call.predictor))


async def _infer(call: Call) -> Reply:
    """Run a prediction, in JSON or with binary tensors."""
    await call.registry.wait_until_loaded(call.model)
    predictor = call.predictor
    body = await call.read()
    return await wait_for_callback(lambda reply: infer(predictor, call.context, body, reply))


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
    """The ASGI application of the protocol."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def takes(self, path: str) -> bool:
        """Return whether a path is `PREFIX` or below it."""
        return path.startswith(PREFIX) and (len(path) == len(PREFIX) or path[len(PREFIX)] == "/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request whose path begins with `PREFIX`.

        Raises:
            ServiceError: the request is refused; the app sends the response.
        """
        response = await self._respond(current_request(), receive, settings_of(scope))
        await response(scope, receive, send)

    def responder(self, path: str) -> Responder | None:
        """Return the responder of a POST to `path` with a whole body; None if only ASGI can."""
        pattern, model, version = split(path)
        if pattern != INFER:
            return None
        endpoint = PREFIX + pattern

        def respond(
            context: RequestContext, body: Body, reply: Callable[[Reply], None]
        ) -> Cancellable:
            context.endpoint = endpoint
            registry = self._state.registry
            if registry.is_loading:
                return in_a_task(infer_when_loaded)(context, body, reply)
            return infer(find_model(registry, context, model, version), context, body, reply)

        async def infer_when_loaded(context: RequestContext, body: Body) -> Reply:
            await self._state.registry.wait_until_loaded(model)
            predictor = find_model(self._state.registry, context, model, version)
            return await wait_for_callback(lambda reply: infer(predictor, context, body, reply))

        return respond

    async def _respond(
        self, context: RequestContext, receive: Receive, settings: Settings
    ) -> Reply:
        pattern, model, version = split(context.path)
        route = ROUTES.get(pattern)
        if route is None:
            raise UnknownPathError(f"There is nothing at {context.path[:100]!r} in the protocol.")
        context.endpoint = PREFIX + pattern
        method, handler = route
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if context.method not in allowed:
            raise MethodNotAllowedError(context.method, *allowed)
        call = Call(self._state.registry, context, receive, settings, model, version)
        return await handler(call)


def infer(
    predictor: Predictor,
    context: RequestContext,
    body: Body,
    reply: Callable[[Reply], None],
) -> Cancellable:
    """Run a prediction.

    Args:
        predictor: the model.
        context: of the request.
        body: of the request, decompressed.
        reply: called once with the response, also if the model fails.

    Returns:
        The handle of the prediction.

    Raises:
        ServiceError: the request was refused; `reply` is not called.
    """
    predictor.check_capacity(context)
    header_length = context.headers.get(b"inference-header-content-length")
    if is_large(predictor.card, body, header_length):
        return in_a_task(partial(_infer_large, predictor))(context, body, reply)
    request = decode(predictor.card, body, header_length)

    def done(response: InferenceResponse | ServiceError) -> None:
        try:
            if isinstance(response, ServiceError):
                result = error_response(response, context)
            elif is_long(request, response.outputs) or is_bulky(request, response.outputs):
                written = _write_long(predictor.card, request, response.outputs, context)
                reply_from_task(written, context, reply)
                return
            else:
                result = _reply(encode(predictor.card, request, response.outputs), context)
        except Exception as error:  # noqa: BLE001 - the boundary of a callback
            result = error_response(error, context)
        reply(result)

    return predictor.enqueue(context, request.inputs, done, request.timeout)


async def _infer_large(predictor: Predictor, context: RequestContext, body: Body) -> Reply:
    """Run a prediction; its JSON is read and written in another process."""
    header_length = context.headers.get(b"inference-header-content-length")
    request = await run_job(
        context.caller, decode_large, whole(body), predictor.card, header_length
    )
    response = await predictor.predict(request.inputs, request.timeout)
    if is_long(request, response.outputs) or is_bulky(request, response.outputs):
        return await _write_long(predictor.card, request, response.outputs, context)
    return _reply(encode(predictor.card, request, response.outputs), context)


async def _write_long(
    card: ModelCard, request: InferRequest, outputs: Arrays, context: RequestContext
) -> Reply:
    """Return a response whose JSON is written in another process, or its tensors on a thread."""
    if not is_long(request, outputs):
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(_tensors, encode, card, request, outputs)
        return _reply(encoded, context)
    return _reply(await run_job(context.caller, encode_long, card, request, outputs), context)


def _reply(encoded: Encoded, context: RequestContext) -> Reply:
    content, json_length = encoded
    if json_length is None:
        return Reply(context, content)
    length = (b"inference-header-content-length", b"%d" % json_length)
    return Reply(context, content, b"application/octet-stream", headers=(length,))


def split(path: str) -> tuple[str, str, str]:
    """Split a path into its pattern, in the form of `ROUTES`, and its model and version."""
    return (_cached_split if len(path) <= _MAX_CACHED_PATH else _split)(path)


def _split(path: str) -> tuple[str, str, str]:
    parts = path.removeprefix(PREFIX).split("/")
    if len(parts) < 3 or parts[1] != "models" or parts[2:] == ["stats"]:
        return "/".join(parts), "", ""
    model, version, rest = parts[2], "", parts[3:]
    if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
        version, rest = rest[1], rest[2:]
    return "/".join(("", "models", "{model}", *rest)), model, version


_MAX_CACHED_PATH = 256  # characters of a path
_cached_split = lru_cache(maxsize=256)(_split)  # clients repeat the same paths
