"""However a request ends, its sender gets one JSON answer, with the request's id."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
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
    DeadlineExceededError,
    ForeignOriginError,
    HeadTimeoutError,
    HeadTooLargeError,
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
from service.http.endpoint import Reply, json_response, plain, typed
from service.http.exchange import Exchange, begin

Logged = Callable[[], list[logging.LogRecord]]

STATUSES = {
    BadInputError: 400,
    UnauthorizedError: 401,
    ForeignOriginError: 403,
    UnknownModelError: 404,
    UnknownPathError: 404,
    BodyTimeoutError: 408,
    HeadTimeoutError: 408,
    NotImplementedHttpError: 501,
    UnknownVersionError: 505,
    BodyTooLargeError: 413,
    UnsupportedMediaError: 415,
    MisdirectedRequestError: 421,
    HeadTooLargeError: 431,
    ModelFaultError: 500,
    QueueFullError: 503,
    BodiesFullError: 503,
    TooManyConnectionsError: 503,
    NotReadyError: 503,
    DeadlineExceededError: 504,
}
INTERNALS = "/srv/models at 10.0.0.7"


def request_with(headers: dict[str, str]) -> Request:
    """A request that the front has let in."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    begin("GET", "/", dict(raw))
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


def through_typed(outcome: Any, headers: dict[str, str]) -> Response:
    """Answer as a typed endpoint does, with an outcome or by raising it."""

    async def method(service: object) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def answer() -> Response:
        request_with(headers)
        response: Response = await typed(method)(None)
        return response

    return asyncio.run(answer())


def through_refusal(outcome: Any, headers: dict[str, str]) -> Response:
    """Answer as a typed endpoint does to a request that could not be read."""
    if not isinstance(outcome, Exception):
        return through_typed(outcome, headers)

    async def method(service: object) -> None:
        raise AssertionError("a refused request must not be computed")

    async def answer() -> Response:
        request_with(headers)
        response: Response = await typed(method)(None, refusal=outcome)
        return response

    return asyncio.run(answer())


def through_plain(outcome: Any, headers: dict[str, str]) -> Response:
    """Answer as a page does."""

    async def handler(request: Request) -> Response:
        if isinstance(outcome, BaseException):
            raise outcome
        return json_response(outcome)

    async def answer() -> Response:
        return await plain(handler)(request_with(headers))

    return asyncio.run(answer())


every_way = pytest.mark.parametrize("answered", [through_typed, through_refusal, through_plain])
Answered = Callable[[Any, dict[str, str]], Response]


def test_every_error_of_the_service_is_in_the_table() -> None:
    assert set(ServiceError.__subclasses__()) == {
        *STATUSES,
        MethodNotAllowedError,
        RateLimitError,
    }


@every_way
def test_what_an_endpoint_gives_is_sent_as_json(answered: Answered) -> None:
    response = answered({"y": [1.5]}, {})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {"y": [1.5]}
    assert "retry-after" not in response.headers


@every_way
@pytest.mark.parametrize(
    ("kind", "status"), [(kind, status) for kind, status in STATUSES.items() if status != 500]
)
def test_an_error_is_answered_with_its_status_and_its_sentence_and_is_not_logged(
    answered: Answered, kind: type[ServiceError], status: int, logged: Logged
) -> None:
    response = answered(kind("Change this."), {})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert json.loads(bytes(response.body)) == {"error": "Change this."}
    assert response.headers["x-request-id"]
    assert logged() == []


@every_way
@pytest.mark.parametrize("kind", list(STATUSES))
def test_retry_after_goes_with_503_and_with_nothing_else(
    answered: Answered, kind: type[ServiceError]
) -> None:
    headers = answered(kind("Change this."), {}).headers
    assert headers.get("retry-after") == ("1" if STATUSES[kind] == 503 else None)


def test_a_wrong_method_is_405_and_names_the_right_one() -> None:
    response = through_plain(MethodNotAllowedError("PUT", "GET", "HEAD"), {})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(bytes(response.body)) == {
        "error": "PUT is not allowed here; GET and HEAD are."
    }


@pytest.mark.parametrize("kind", [BodyTimeoutError, BodyTooLargeError])
def test_a_body_that_is_not_read_to_its_end_closes_its_connection(
    kind: type[ServiceError],
) -> None:
    assert through_plain(kind("Change this."), {}).headers["connection"] == "close"


@every_way
@pytest.mark.parametrize(
    "fault",
    [RuntimeError(INTERNALS), KeyError(INTERNALS), ServiceError(""), MemoryError(INTERNALS)],
)
def test_a_fault_of_ours_tells_its_sender_an_id_and_the_log_the_rest(
    answered: Answered, fault: Exception, logged: Logged
) -> None:
    response = answered(fault, {"X-Request-Id": "call-7"})
    assert response.status_code == 500
    told = json.loads(bytes(response.body))
    assert list(told) == ["error"]
    assert "call-7" in told["error"]
    assert INTERNALS not in told["error"]
    assert type(fault).__name__ not in told["error"]
    (record,) = logged()
    assert record.levelno == logging.ERROR
    assert "call-7" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


def test_a_model_s_fault_names_the_model_and_logs_the_cause(logged: Logged) -> None:
    fault = ModelFaultError("Model mnist-cnn failed on this request.")
    fault.__cause__ = RuntimeError(INTERNALS)
    response = through_typed(fault, {"X-Request-Id": "call-7"})
    assert response.status_code == 500
    told = json.loads(bytes(response.body))["error"]
    assert told.startswith("Model mnist-cnn failed on this request. ")
    assert "call-7" in told
    assert INTERNALS not in told
    (record,) = logged()
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


def test_an_answer_that_is_no_json_is_a_fault_of_ours(logged: Logged) -> None:
    response = through_typed({"y": object()}, {})
    assert response.status_code == 500
    assert list(json.loads(bytes(response.body))) == ["error"]
    assert len(logged()) == 1


@pytest.mark.parametrize("answered", [through_typed, through_plain])
def test_a_caller_that_went_away_is_not_answered(answered: Answered) -> None:
    with pytest.raises(asyncio.CancelledError):
        answered(asyncio.CancelledError(), {})


@every_way
@pytest.mark.parametrize("identity", ["7", "a b/c:d", "x" * 100, "{}~!@#$%^&*()_+"])
@pytest.mark.parametrize("outcome", [{"y": 1}, BadInputError("Change this.")])
def test_a_request_s_id_is_that_of_its_sender(
    answered: Answered, identity: str, outcome: Any
) -> None:
    assert answered(outcome, {"X-Request-Id": identity}).headers["x-request-id"] == identity


@every_way
@pytest.mark.parametrize("identity", ["", "x" * 101, "é", "a\r\nSet-Cookie: b", "a\x00b", "\x7f"])
def test_a_bad_id_is_replaced_by_one_of_ours(answered: Answered, identity: str) -> None:
    made = answered({"y": 1}, {"X-Request-Id": identity}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made)


def test_every_request_without_an_id_gets_its_own() -> None:
    made = {through_plain({}, {}).headers["x-request-id"] for _ in range(100)}
    assert len(made) == 100


def test_requests_at_the_same_time_keep_their_own_ids() -> None:
    async def handler(request: Request) -> Response:
        await asyncio.sleep(0.001 * int(request.headers["x-request-id"]) % 7)
        return json_response({})

    async def ask(identity: str) -> str:
        answer = await plain(handler)(request_with({"X-Request-Id": identity}))
        return answer.headers["x-request-id"]

    async def ask_all(identities: list[str]) -> list[str]:
        return await asyncio.gather(*map(ask, identities))

    identities = [str(number) for number in range(50)]
    assert asyncio.run(ask_all(identities)) == identities


def test_an_application_of_plain_handlers_answers_every_failure_as_json() -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError(INTERNALS)

    async def ask() -> httpx.Response:
        begin("GET", "/", {b"x-request-id": b"call-7"})
        transport = httpx.ASGITransport(Starlette(routes=[Route("/", plain(broken))]))
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            return await client.get("/")

    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "call-7"
    assert response.headers["content-type"] == "application/json"
    assert INTERNALS not in response.text


def test_a_body_is_taken_compressed_where_that_is_shorter() -> None:
    reply = Reply(Exchange("7", "GET", "/"), b"x" * 100, b"text/plain")
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
