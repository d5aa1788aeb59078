"""The endpoints of predictions in rows, as an ASGI application over the model registry."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from models.kinds.tokens import groups_of
from models.package.card import ModelCard
from service.api.rows.dialects import Dialect, Media, RowsRequest, Written, path_pattern
from service.api.rows.pictures import FORM, takes_pictures
from service.api.rows.status import HEALTH, MODEL_PATTERNS, PAGES
from service.api.rows.texts import merged
from service.api.state import ServiceState, find_model
from service.api.v2.texts import elements
from service.batching.batch import Arrays, InferenceResponse
from service.concurrency import Cancellable, wait_for_callback
from service.errors import (
    BadInputError,
    MethodNotAllowedError,
    ServiceError,
    UnknownPathError,
)
from service.http.body import read_body
from service.http.responses import (
    Reply,
    Responder,
    error_response,
    in_a_task,
    reply_from_task,
)
from service.inference.predictor import Predictor
from service.inference.registry import ModelRegistry
from service.json_body import Body, check_structure
from service.processes.jobs import LARGE_ELEMENTS, is_large_json, run_job, whole
from service.settings import Settings
from service.telemetry.request_context import RequestContext, current_request

DIALECTS: Mapping[str, Dialect] = {
    name: import_module(f"service.api.rows.{name}").DIALECT
    for name in ("predict", "v1", "invocations", "vertex")
}


class Target(NamedTuple):
    """A dialect, and the model that a path names; "" for the default model."""

    dialect: Dialect
    model: str
    version: str


def target(path: str) -> Target | None:
    """Return what a POST to `path` asks for; None for another path."""
    for pattern, dialect in _PATTERNS:
        if found := pattern.fullmatch(path):
            names = found.groupdict()
            return Target(dialect, names.get("model") or "", names.get("version") or "")
    return None


_PATTERNS = [
    (path_pattern(dialect.endpoint), dialect) for dialect in DIALECTS.values() if dialect.endpoint
]


class Rows:
    """The ASGI application of all dialects."""

    def __init__(self, state: ServiceState, settings: Settings) -> None:
        self._state = state
        self._settings = settings
        self._vertex_routes = {settings.vertex_predict_route, settings.vertex_health_route}

    def takes(self, path: str) -> bool:
        """Return whether a path is one of a dialect."""
        if path.startswith("/models/") and path.endswith("/predict"):
            return True
        if path.startswith("/v1/") or path in PAGES or path in ("/v1", "/invocations"):
            return True
        return path in self._vertex_routes

    def _target(self, path: str) -> Target | None:
        """Return what a POST to `path` asks for, also to the path that Vertex AI sets."""
        found = target(path)
        if found is None and path == self._settings.vertex_predict_route:
            return Target(DIALECTS["vertex"], "", "")
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request to a path of `takes`.

        Raises:
            ServiceError: the request is refused; the app sends the response.
        """
        response = await self._respond(current_request(), receive)
        await response(scope, receive, send)

    async def _respond(self, context: RequestContext, receive: Receive) -> Reply:
        registry = self._state.registry
        found = self._target(context.path)
        if found is None:
            return self._page(context)
        context.endpoint = found.dialect.endpoint or context.path
        if context.method != "POST":
            raise MethodNotAllowedError(context.method, "POST")
        model = found.model or default_model(registry, context, self._settings)
        await registry.wait_until_loaded(model)
        find_model(registry, context, model, found.version)  # before a body is read for nothing
        body = await read_body(context.headers, receive, self._settings)
        context.receive = receive
        return await wait_for_callback(
            lambda reply: self._predict(found._replace(model=model), context, body, reply)
        )

    def _predict(
        self, found: Target, context: RequestContext, body: Body, reply: Callable[[Reply], None]
    ) -> Cancellable:
        predictor = find_model(self._state.registry, context, found.model, found.version)
        media = media_of(context, self._settings.max_image_pixels)
        return predict(found.dialect, predictor, media, context, body, reply)

    def _page(self, context: RequestContext) -> Reply:
        registry, path = self._state.registry, context.path
        if path == self._settings.vertex_health_route:
            path = HEALTH
        if path in PAGES:
            self._require_get(context, path)
            return PAGES[path](registry)
        for pattern, endpoint, page in MODEL_PATTERNS:
            if found := pattern.fullmatch(path):
                self._require_get(context, endpoint)
                model, version = found["model"], found["version"] or ""
                return page(find_model(registry, context, model, version))
        raise UnknownPathError(f"There is nothing at {path[:100]!r}.")

    def _require_get(self, context: RequestContext, endpoint: str) -> None:
        context.endpoint = endpoint
        if context.method not in ("GET", "HEAD"):
            raise MethodNotAllowedError(context.method, "GET", "HEAD")

    def responder(self, path: str) -> Responder | None:
        """Return the responder of a POST to `path` with a whole body; None if only ASGI can."""
        found = target(path)
        if found is None or not found.model:
            return None
        registry, endpoint = self._state.registry, found.dialect.endpoint

        def respond(
            context: RequestContext, body: Body, reply: Callable[[Reply], None]
        ) -> Cancellable:
            context.endpoint = endpoint
            if registry.is_loading:
                return in_a_task(when_loaded)(context, body, reply)
            return self._predict(found, context, body, reply)

        async def when_loaded(context: RequestContext, body: Body) -> Reply:
            await registry.wait_until_loaded(found.model)
            return await wait_for_callback(lambda reply: self._predict(found, context, body, reply))

        return respond


def default_model(registry: ModelRegistry, context: RequestContext, settings: Settings) -> str:
    """Return the model of a path that names none.

    Raises:
        BadInputError: the request and the settings name none, and there are several.
    """
    if named := context.headers.get(b"x-model"):
        return named.decode("latin-1")
    if settings.default_model:
        return settings.default_model
    names = {*(predictor.card.name for predictor in registry), *registry.loading}
    if len(names) != 1:
        raise BadInputError(
            "There are several models: name one with the header X-Model, or in the setting "
            "FITSERVE_DEFAULT_MODEL."
        )
    return names.pop()


def predict(
    dialect: Dialect,
    predictor: Predictor,
    media: Media,
    context: RequestContext,
    body: Body,
    reply: Callable[[Reply], None],
) -> Cancellable:
    """Run a prediction; the other arguments and the result as `service.api.v2.routes.infer`."""
    predictor.check_capacity(context)
    if is_large_json(body, len(body)) or takes_pictures(predictor.card):
        return in_a_task(partial(_predict_large, dialect, predictor, media))(context, body, reply)
    request = dialect.read(predictor.card, body, media)
    if request.texts:
        return in_a_task(partial(_predict_texts, dialect, predictor, request))(context, body, reply)

    def done(response: InferenceResponse | ServiceError) -> None:
        try:
            if isinstance(response, ServiceError):
                result = error_response(response, context)
            elif _is_long(response.outputs):
                written = _write(dialect, predictor.card, request, response.outputs, context)
                reply_from_task(written, context, reply)
                return
            else:
                result = _reply(dialect.write(predictor.card, request, response.outputs), context)
        except Exception as error:  # noqa: BLE001 - the boundary of a callback
            result = error_response(error, context)
        reply(result)

    return predictor.enqueue(context, request.inputs, done, None)


async def _predict_large(
    dialect: Dialect, predictor: Predictor, media: Media, context: RequestContext, body: Body
) -> Reply:
    """Run a prediction whose request is large or has pictures: another process reads it."""
    request = await run_job(
        context.caller, read_large, whole(body), dialect.name, predictor.card, media
    )
    if request.texts:
        return await _predict_texts(dialect, predictor, request, context, body)
    response = await predictor.predict(request.inputs)
    return await _write(dialect, predictor.card, request, response.outputs, context)


async def _predict_texts(
    dialect: Dialect,
    predictor: Predictor,
    request: RowsRequest,
    context: RequestContext,
    body: Body,
) -> Reply:
    """Run a prediction for texts: padded together, or else those of equal lengths together."""
    card, reader = predictor.card, predictor.texts
    if reader is None:
        raise BadInputError(f"Model {card.name!r} takes no texts.")
    tokens = await reader.tokens(context.caller, request.texts)
    groups, outputs = groups_of(tokens, card.padding), []
    for group in groups:
        inputs = reader.rows([tokens[at] for at in group], card.padding)
        outputs.append((await predictor.predict(inputs)).outputs)
        request = request._replace(inputs=inputs)
    request = request._replace(texts=(), tokens=tokens)
    return await _write(dialect, card, request, merged(groups, outputs), context)


async def _write(
    dialect: Dialect,
    card: ModelCard,
    request: RowsRequest,
    outputs: Arrays,
    context: RequestContext,
) -> Reply:
    """Return a response, which another process writes if it is long."""
    if not _is_long(outputs):
        return _reply(dialect.write(card, request, outputs), context)
    return _reply(
        await run_job(context.caller, write_long, dialect.name, card, request, outputs), context
    )


def _is_long(outputs: Arrays) -> bool:
    """Return whether a response takes too long for the event loop to write."""
    return sum(map(elements, outputs.values())) > LARGE_ELEMENTS


def read_large(body: bytearray, dialect: str, card: ModelCard, media: Media) -> RowsRequest:
    """Read a request in another process."""
    if media.content_type != FORM:
        check_structure(body)
    return DIALECTS[dialect].read(card, body, media)


def write_long(dialect: str, card: ModelCard, request: RowsRequest, outputs: Arrays) -> Written:
    """Write a response in another process."""
    return DIALECTS[dialect].write(card, request, outputs)


def _reply(written: Written, context: RequestContext) -> Reply:
    return Reply(context, written.body, written.media_type)


def media_of(context: RequestContext, max_pixels: int) -> Media:
    """Return what a request says of its body and its response."""

    def stated(name: bytes) -> str:
        return context.headers.get(name, b"").decode("latin-1").partition(";")[0].strip().lower()

    header = context.headers.get(b"content-type", b"")
    return Media(stated(b"content-type"), stated(b"accept"), header, max_pixels)
