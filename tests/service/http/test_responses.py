"""Every request gets one JSON response with the ID of the request, however it ends."""

import asyncio
import gc
import json
import logging
import re
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.errors import (
    BadInputError,
    BodiesFullError,
    BodyTimeoutError,
    BodyTooLargeError,
    ComputeMemoryError,
    DeadlineExceededError,
    ForeignOriginError,
    HeaderTimeoutError,
    HeaderTooLargeError,
    MethodNotAllowedError,
    MisdirectedRequestError,
    ModelFaultError,
    NotImplementedHttpError,
    NotReadyError,
    QueueFullError,
    RateLimitError,
    ServiceError,
    TooManyConnectionsError,
    UnauthorizedError,
    UnknownModelError,
    UnknownPathError,
    UnknownVersionError,
    UnsupportedMediaError,
)
from service.http.responses import EXCEPTION_HANDLERS, Reply, json_response, typed
from service.telemetry.request_context import RequestContext, start_request

Logged = Callable[[], list[logging.LogRecord]]

STATUSES = {
    BadInputError: 400,
    UnauthorizedError: 401,
    ForeignOriginError: 403,
    UnknownModelError: 404,
    UnknownPathError: 404,
    BodyTimeoutError: 408,
    HeaderTimeoutError: 408,
    NotImplementedHttpError: 501,
    UnknownVersionError: 505,
    BodyTooLargeError: 413,
    UnsupportedMediaError: 415,
    MisdirectedRequestError: 421,
    HeaderTooLargeError: 431,
    ModelFaultError: 500,
    QueueFullError: 503,
    BodiesFullError: 503,
    ComputeMemoryError: 503,
    TooManyConnectionsError: 503,
    NotReadyError: 503,
    DeadlineExceededError: 504,
}
INTERNALS = "/srv/models at 10.0.0.7"


def request_with(headers: dict[str, str]) -> Request:
    """Start the context of a request."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    start_request("GET", "/", dict(raw))
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


async def through_typed(outcome: Any, headers: dict[str, str]) -> Response:
    """Respond as a typed endpoint that returns or raises `outcome`."""

    async def method(service: object) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    request_with(headers)
    response: Response = await typed(method)(None)
    return response


async def through_refusal(outcome: Any, headers: dict[str, str]) -> Response:
    """Respond as a typed endpoint to a request that could not be parsed."""
    if not isinstance(outcome, Exception):
        return await through_typed(outcome, headers)

    async def method(service: object) -> None:
        raise AssertionError("a refused request must not be computed")

    request_with(headers)
    response: Response = await typed(method)(None, refusal=outcome)
    return response


async def through_page(outcome: Any, headers: dict[str, str]) -> Response:
    """Respond as a page."""

    async def handler(request: Request) -> Response:
        if isinstance(outcome, BaseException):
            raise outcome
        return json_response(outcome)

    request_with(headers)
    return await ask_page(handler)


async def ask_page(handler: Any) -> Response:
    app = Starlette(routes=[Route("/", handler)], exception_handlers=EXCEPTION_HANDLERS)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        response = await client.get("/")
    return Response(response.content, response.status_code, dict(response.headers))


every_way = pytest.mark.parametrize("answered", [through_typed, through_refusal, through_page])
Answered = Callable[[Any, dict[str, str]], Awaitable[Response]]


def test_every_error_of_the_service_is_in_the_table() -> None:
    assert set(ServiceError.__subclasses__()) == {
        *STATUSES,
        MethodNotAllowedError,
        RateLimitError,
    }


@every_way
async def test_the_result_of_an_endpoint_is_sent_as_json(answered: Answered) -> None:
    response = await answered({"y": [1.5]}, {})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {"y": [1.5]}
    assert "retry-after" not in response.headers


@every_way
@pytest.mark.parametrize(
    ("kind", "status"), [(kind, status) for kind, status in STATUSES.items() if status != 500]
)
async def test_an_error_is_sent_with_its_status_and_sentence_and_is_not_logged(
    answered: Answered, kind: type[ServiceError], status: int, logged: Logged
) -> None:
    response = await answered(kind("Change this."), {})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {"error": "Change this."}
    assert response.headers["x-request-id"]
    assert logged() == []


@every_way
@pytest.mark.parametrize("kind", list(STATUSES))
async def test_only_503_has_retry_after(answered: Answered, kind: type[ServiceError]) -> None:
    headers = (await answered(kind("Change this."), {})).headers
    assert headers.get("retry-after") == ("1" if STATUSES[kind] == 503 else None)


async def test_a_wrong_method_gets_405_with_the_allowed_ones() -> None:
    response = await through_page(MethodNotAllowedError("PUT", "GET", "HEAD"), {})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(bytes(response.body)) == {
        "error": "PUT is not allowed here; GET and HEAD are."
    }


@pytest.mark.parametrize("kind", [BodyTimeoutError, BodyTooLargeError])
async def test_a_body_that_is_not_read_to_its_end_closes_its_connection(
    kind: type[ServiceError],
) -> None:
    assert (await through_page(kind("Change this."), {})).headers["connection"] == "close"


@every_way
@pytest.mark.parametrize(
    "fault",
    [RuntimeError(INTERNALS), KeyError(INTERNALS), ServiceError(""), MemoryError(INTERNALS)],
)
async def test_a_fault_is_reported_by_its_id_and_logged_in_full(
    answered: Answered, fault: Exception, logged: Logged
) -> None:
    response = await answered(fault, {"X-Request-Id": "call-7"})
    assert response.status_code == 500
    message = json.loads(bytes(response.body))
    assert list(message) == ["error"]
    assert "call-7" in message["error"]
    assert INTERNALS not in message["error"]
    assert type(fault).__name__ not in message["error"]
    (record,) = logged()
    assert record.levelno == logging.ERROR
    assert "call-7" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


async def test_a_model_fault_names_the_model_and_logs_the_cause(logged: Logged) -> None:
    fault = ModelFaultError("Model mnist-cnn failed on this request.")
    fault.__cause__ = RuntimeError(INTERNALS)
    response = await through_typed(fault, {"X-Request-Id": "call-7"})
    assert response.status_code == 500
    message = json.loads(bytes(response.body))["error"]
    assert message.startswith("Model mnist-cnn failed on this request. ")
    assert "call-7" in message
    assert INTERNALS not in message
    (record,) = logged()
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


async def test_a_result_that_json_cannot_represent_is_a_fault_of_the_service(
    logged: Logged,
) -> None:
    response = await through_typed({"y": object()}, {})
    assert response.status_code == 500
    assert list(json.loads(bytes(response.body))) == ["error"]
    assert len(logged()) == 1


async def test_a_refused_body_is_freed_without_the_garbage_collector() -> None:
    """Large bodies would otherwise stay in memory for as long as the collector does not run."""
    bodies = []

    class Body:
        pass

    def refuse(body: Body) -> None:
        bodies.append(weakref.ref(body))
        raise BadInputError("it is refused")

    async def method(_: Any) -> Any:
        raise AssertionError

    start_request("POST", "/x", {})
    gc.disable()
    try:
        try:
            refuse(Body())
        except BadInputError as error:
            result = typed(method)(None, refusal=error)
        response: Response = await result
        assert (response.status_code, bodies[0]()) == (400, None)
    finally:
        gc.enable()


@pytest.mark.parametrize("answered", [through_typed, through_page])
async def test_a_cancelled_request_gets_no_response(answered: Answered) -> None:
    with pytest.raises(asyncio.CancelledError):
        await answered(asyncio.CancelledError(), {})


@every_way
@pytest.mark.parametrize("identity", ["7", "a b/c:d", "x" * 100, "{}~!@#$%^&*()_+"])
@pytest.mark.parametrize("outcome", [{"y": 1}, BadInputError("Change this.")])
async def test_the_id_of_a_request_is_kept(answered: Answered, identity: str, outcome: Any) -> None:
    assert (await answered(outcome, {"X-Request-Id": identity})).headers["x-request-id"] == identity


@every_way
@pytest.mark.parametrize("identity", ["", "x" * 101, "é", "a\r\nSet-Cookie: b", "a\x00b", "\x7f"])
async def test_an_invalid_id_is_replaced(answered: Answered, identity: str) -> None:
    made = (await answered({"y": 1}, {"X-Request-Id": identity})).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made)


async def test_every_request_without_an_id_gets_a_unique_one() -> None:
    made = {(await through_page({}, {})).headers["x-request-id"] for _ in range(100)}
    assert len(made) == 100


async def test_concurrent_requests_keep_their_ids() -> None:
    async def ask(identity: str) -> str:
        async def handler(_: Request) -> Response:
            await asyncio.sleep(0.001 * int(identity) % 7)
            return json_response({})

        request_with({"X-Request-Id": identity})
        return (await ask_page(handler)).headers["x-request-id"]

    identities = [str(number) for number in range(50)]
    assert await asyncio.gather(*map(ask, identities)) == identities


def test_a_compressed_body_is_used_if_it_is_shorter() -> None:
    reply = Reply(RequestContext("7", "GET", "/"), b"x" * 100, b"text/plain")
    reply.take_compressed(b"y" * 100, b"gzip")
    assert reply.body == b"x" * 100
    assert b"content-encoding" not in reply.lines
    reply.raw_headers.append((b"x-mine", b"1"))
    reply.take_compressed(b"y" * 99, b"gzip")
    assert reply.body == b"y" * 99
    changed = [b"content-length: 99", b"content-encoding: gzip", b"vary: accept-encoding"]
    for line in changed:
        assert reply.lines.count(line + b"\r\n") == 1
    assert b"content-length: 100" not in reply.lines
    sent = [b": ".join(header) for header in reply.raw_headers]
    assert sorted(sent) == sorted(
        [*changed, b"content-type: text/plain", b"x-request-id: 7", b"x-mine: 1"]
    )
