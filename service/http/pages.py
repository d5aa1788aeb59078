"""What the service says of itself: the playground, cards, OpenAPI description, metrics."""

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.catalog import Catalog, describe
from service.http.endpoint import json_response, plain
from service.http.playground import Playground
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
            Route("/docs.json", plain(_docs)),
            Route("/metrics", plain(_metrics)),
        ]
    )


async def _models(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    return json_response(
        {"models": [describe(predictor) for predictor in catalog], "refused": catalog.refused}
    )


async def _model(request: Request) -> Response:
    catalog: Catalog = request.app.state.catalog
    return json_response(describe(catalog[request.path_params["name"]]))


async def _docs(request: Request) -> Response:
    return json_response(request.app.state.openapi)


async def _metrics(request: Request) -> Response:
    content = await asyncio.to_thread(metrics.exposition)
    return Response(content, media_type=metrics.CONTENT_TYPE)
