"""Errors of all libraries become `{"error": "<one sentence>"}`."""

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from service.errors import QueueFullError
from service.http.error_middleware import ErrorMiddleware
from service.http.responses import error_response
from service.telemetry.request_context import start_request


async def listed(request: Request) -> Response:
    return JSONResponse([{"error": "pickle is not read"}], 415)


async def unready(request: Request) -> Response:
    raise HTTPException(503, "not ready", headers={"Retry-After": "3"})


async def in_pieces(request: Request) -> Response:
    async def pieces() -> Any:
        yield b'{"error": "too '
        yield b'slow"}'

    return StreamingResponse(pieces(), 504)


async def ours(request: Request) -> Response:
    return error_response(QueueFullError("full"))


async def fine(request: Request) -> Response:
    return PlainTextResponse("fine", headers={"x-kept": "yes"})


APP = Starlette(
    routes=[
        Route("/listed", listed),
        Route("/unready", unready),
        Route("/pieces", in_pieces),
        Route("/ours", ours),
        Route("/fine", fine, methods=["POST"]),
        Route("/both", fine),
    ],
    middleware=[Middleware(ErrorMiddleware)],
)


async def ask(path: str, method: str = "GET") -> httpx.Response:
    start_request(method, path, {b"x-request-id": b"mine"})
    transport = httpx.ASGITransport(APP)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nowhere", 404, "There is nothing at '/nowhere'; /docs.json says what there is."),
        ("/fine", 405, "GET is not allowed here; POST is."),
        ("/both", 405, "PUT is not allowed here; GET and HEAD are."),
        ("/listed", 415, "pickle is not read"),
        ("/unready", 503, "not ready"),
        ("/pieces", 504, "too slow"),
        ("/ours", 503, "full"),
    ],
)
async def test_an_error_is_one_sentence_in_one_shape(path: str, status: int, message: str) -> None:
    response = await ask(path, "PUT" if path == "/both" else "GET")
    assert response.status_code == status
    assert response.json() == {"error": message}
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["x-request-id"] == "mine"


async def test_headers_of_an_error_for_programs_are_kept() -> None:
    assert (await ask("/fine")).headers["allow"] == "POST"
    for method in ("PUT", "OPTIONS", "POST"):
        assert (await ask("/both", method)).headers["allow"] == "GET, HEAD"
    assert (await ask("/both", "HEAD")).status_code == 200
    assert (await ask("/unready")).headers["retry-after"] == "3"
    assert (await ask("/ours")).headers["retry-after"] == "1"


async def test_successful_responses_are_not_changed() -> None:
    response = await ask("/fine", "POST")
    assert (response.status_code, response.text, response.headers["x-kept"]) == (200, "fine", "yes")
