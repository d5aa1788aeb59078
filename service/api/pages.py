"""The pages: the playground, the API page, model cards and their pictures, OpenAPI, metrics."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.package.model_package import PackageError
from service.api.openapi.description import openapi_with_models
from service.api.state import ServiceState
from service.api.static_pages import STATIC_PAGES, cacheable_response
from service.errors import ServiceError, UnknownPathError
from service.http.responses import EXCEPTION_HANDLERS, Reply, json_response
from service.telemetry import metrics
from service.telemetry.request_context import current_request

Handler = Callable[[Request], Awaitable[Response]]


def create_pages(state: ServiceState) -> Starlette:
    """Create the application that BentoML mounts at `/`."""
    pages = _Pages(state)
    handlers: dict[str, Handler] = {
        **{page.path: page.page for page in STATIC_PAGES},
        **{page.files_path: page.file for page in STATIC_PAGES},
        "/models": pages.models,
        "/models/{name}": pages.model,
        "/models/{name}/report/{file}": pages.picture,
        "/docs.json": pages.openapi,
        "/metrics": pages.metrics,
    }
    return Starlette(
        routes=[Route(path, _labelled(path, handler)) for path, handler in handlers.items()],
        exception_handlers=EXCEPTION_HANDLERS,
    )


def _labelled(path: str, handler: Handler) -> Handler:
    """Note the endpoint of the request, for its metrics."""

    async def call(request: Request) -> Response:
        current_request().endpoint = path
        return await handler(request)

    return call


class _Pages:
    """The handlers of the pages that depend on the models."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    async def models(self, _: Request) -> Response:
        registry = self._state.registry
        names = [predictor.card.name for predictor in registry]
        summaries = b",".join(registry.description(name).summary for name in names)
        refused, loading = orjson.dumps(registry.unavailable), orjson.dumps(registry.loading)
        content = b'{"models":[%b],"refused":%b,"loading":%b}' % (summaries, refused, loading)
        return Reply(current_request(), content)

    async def model(self, request: Request) -> Response:
        description = self._state.registry.description(request.path_params["name"])
        return Reply(current_request(), description.full)

    async def picture(self, request: Request) -> Response:
        """Send a picture of a package's report, if it has the digest that the card says."""
        package = self._state.registry[request.path_params["name"]].package
        file = f"report/{request.path_params['file']}"
        pictures = [name for name in package.card.files if re.fullmatch(r"report/[^/]+\.png", name)]
        if file not in pictures:
            raise UnknownPathError(
                f"Model {package.card.name!r} has no picture {file[:100]!r}; "
                f"there are: {', '.join(pictures) or 'none'}."
            )
        try:
            content = await asyncio.to_thread(package.load, file)
        except PackageError as error:
            raise ServiceError(
                f"The picture {file!r} of model {package.card.name!r} is not the one of its card "
                "any more."
            ) from error
        return cacheable_response(content, "image/png", request)

    async def openapi(self, _: Request) -> Response:
        cards = [predictor.card for predictor in self._state.registry]
        return json_response(openapi_with_models(self._state.openapi, cards))

    async def metrics(self, _: Request) -> Response:
        content = await asyncio.to_thread(metrics.exposition)
        return Response(content, media_type=metrics.CONTENT_TYPE)
