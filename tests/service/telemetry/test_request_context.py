"""The context of a request: its ID, its log line and its parts."""

import asyncio
from contextvars import Context

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from request_contexts import context_of

from service.telemetry.request_context import current_request, start_request

property_test = settings(deadline=None, derandomize=True, database=None, max_examples=200)


@pytest.mark.parametrize("given_id", [b"mine", b"a b/c:d", b"x" * 100, b"~!{}"])
def test_a_printable_id_is_kept(given_id: bytes) -> None:
    assert start_request("GET", "/", {b"x-request-id": given_id}).id == given_id.decode()


@property_test
@given(st.binary(max_size=120))
@example(b"")
@example(b"x" * 101)
@example(b"a\r\nb: c")
def test_an_id_is_always_short_and_printable(given_id: bytes) -> None:
    """The ID is written to a response header and the log, so it must not contain line breaks."""
    identity = start_request("GET", "/", {b"x-request-id": given_id}).id
    assert 0 < len(identity) <= 100
    assert identity.isascii()
    assert identity.isprintable()


def test_generated_ids_are_unique() -> None:
    assert len({start_request("GET", "/", {}).id for _ in range(1000)}) == 1000


async def test_code_of_a_request_finds_its_own_context() -> None:
    async def handle(number: int) -> bool:
        context = start_request("GET", f"/{number}", {})
        await asyncio.sleep(0)
        return current_request() is context and current_request().path == f"/{number}"

    # Each in its own task, as in a server.
    assert all(await asyncio.gather(*(asyncio.create_task(handle(n)) for n in range(20))))


def test_outside_of_a_request_the_context_is_blank() -> None:
    context = Context().run(current_request)
    assert (context.id, context.method, context.path) == ("", "", "")


def test_the_caller_is_the_key_or_else_the_client() -> None:
    assert context_of(client="192.0.2.1").caller == "192.0.2.1"
    assert context_of(client="192.0.2.1", key="ann").caller == "ann"


PREDICTED = context_of(
    "mine",
    "POST",
    "/v2/models/line/infer",
    started=100.0,
    endpoint="/v2/models/{model}/infer",
    model="line",
    version="3",
    status=200,
    rows=2,
    batch_rows=7,
    submitted=100.001,
    queue_seconds=0.002,
    compute_seconds=0.004,
    answered=100.008,
    seconds=0.009,
)


def test_the_line_of_a_prediction_has_its_id_and_durations() -> None:
    assert PREDICTED.line() == (
        "POST '/v2/models/line/infer' 200 in 9.00 ms, line/3: 2 of 7 rows, "
        "queue 2.00 ms, compute 4.00 ms [mine]"
    )


def test_the_line_of_any_request_is_one_line() -> None:
    context = context_of("mine", "GET", "/a\nforged" + "b" * 1000, status=404, seconds=0.001)
    line = context.line()
    assert "\n" not in line
    assert line.startswith("GET '/a\\nforged")
    assert line.endswith("' 404 in 1.00 ms [mine]")
    assert len(line) < 300


def test_the_parts_follow_each_other_within_the_request() -> None:
    parts = PREDICTED.parts()
    assert [name for name, *_ in parts] == ["decode", "queue", "compute", "encode"]
    end = PREDICTED.started
    for _, start, seconds in parts:
        assert start >= end - 1e-9
        assert seconds >= 0
        end = start + seconds
    assert end == pytest.approx(PREDICTED.started + PREDICTED.seconds)


def test_a_request_without_a_prediction_has_no_parts() -> None:
    assert context_of("mine", "GET", "/", submitted=1.0, seconds=2.0).parts() == []
