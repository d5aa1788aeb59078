"""What the service says of itself: the playground, cards and pictures, OpenAPI, metrics."""

import asyncio
import re

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.package import PackageError
from service.catalog import Catalog
from service.errors import ServiceError, UnknownPathError
from service.http.endpoint import Reply, json_response, plain
from service.http.exchange import current
from service.http.playground import Playground, to_keep
from service.telemetry import metrics


def create_pages() -> Starlette:
    """The mounted application; its `state.catalog` and `state.openapi` are set at start-up."""
    playground = Playground()
    return Starlette(
        routes=[
            Route("/", plain(playground.page)),
            Route("/playground/{file}", plain(playground.file)),
            Route("/models", plain(_models)),
            Route("/models/{name}", plain(_model)),
            Route("/models/{name}/report/{file}", plain(_picture)),
            Route("/docs.json", plain(_docs)),
            Route("/metrics", plain(_metrics)),
        ]
    )


async def _models(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    models = b",".join(catalog.description(predictor.card.name).summary for predictor in catalog)
    refused = orjson.dumps(catalog.refused)
    return Reply(current(), b'{"models":[%b],"refused":%b}' % (models, refused))


async def _model(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    return Reply(current(), catalog.description(request.path_params["name"]).full)


async def _picture(request: Request) -> Response:
    """A picture of a package's report, with the digest that its card says."""
    catalog: Catalog = request.app.state.catalog
    package = catalog[request.path_params["name"]].package
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
    return to_keep(content, "image/png", request)


async def _docs(request: Request) -> Response:
    return json_response(request.app.state.openapi)


async def _metrics(request: Request) -> Response:
    content = await asyncio.to_thread(metrics.exposition)
    return Response(content, media_type=metrics.CONTENT_TYPE)
