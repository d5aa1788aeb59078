"""The record of one request: its id, its line in the log, and the parts of its time."""

import asyncio
from contextvars import Context

import pytest
from exchanges import exchange_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.http.exchange import begin, current

property_test = settings(deadline=None, derandomize=True, database=None, max_examples=200)


@pytest.mark.parametrize("given_id", [b"mine", b"a b/c:d", b"x" * 100, b"~!{}"])
def test_an_id_that_is_plain_text_is_kept(given_id: bytes) -> None:
    assert begin("GET", "/", {b"x-request-id": given_id}).id == given_id.decode()


@property_test
@given(st.binary(max_size=120))
@example(b"")
@example(b"x" * 101)
@example(b"a\r\nb: c")
def test_an_id_is_always_short_and_printable(given_id: bytes) -> None:
    """It stands in a header of the answer and in the log, where a line break would be forged."""
    identity = begin("GET", "/", {b"x-request-id": given_id}).id
    assert 0 < len(identity) <= 100
    assert identity.isascii()
    assert identity.isprintable()


def test_an_id_that_is_made_up_is_made_up_once() -> None:
    assert len({begin("GET", "/", {}).id for _ in range(1000)}) == 1000


def test_what_runs_for_a_request_finds_its_own_exchange() -> None:
    async def handle(number: int) -> bool:
        exchange = begin("GET", f"/{number}", {})
        await asyncio.sleep(0)
        return current() is exchange and current().path == f"/{number}"

    async def run() -> list[bool]:
        # Each in a task of its own, as a server runs them.
        return await asyncio.gather(*(asyncio.create_task(handle(n)) for n in range(20)))

    assert all(asyncio.run(run()))


def test_outside_of_a_request_there_is_a_blank_one() -> None:
    found = Context().run(current)
    assert (found.id, found.method, found.path) == ("", "", "")


PREDICTED = exchange_of(
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


def test_the_line_of_a_prediction_says_whose_it_is_and_where_its_time_went() -> None:
    assert PREDICTED.line() == (
        "POST '/v2/models/line/infer' 200 in 9.00 ms, line/3: 2 of 7 rows, "
        "queue 2.00 ms, compute 4.00 ms [mine]"
    )


def test_the_line_of_another_request_is_one_line() -> None:
    exchange = exchange_of("mine", "GET", "/a\nforged" + "b" * 1000, status=404, seconds=0.001)
    line = exchange.line()
    assert "\n" not in line
    assert line.startswith("GET '/a\\nforged")
    assert line.endswith("' 404 in 1.00 ms [mine]")
    assert len(line) < 300


def test_the_parts_lie_within_the_request_one_after_another() -> None:
    parts = PREDICTED.parts()
    assert [name for name, *_ in parts] == ["decode", "queue", "compute", "encode"]
    end = PREDICTED.started
    for _, start, seconds in parts:
        assert start >= end - 1e-9
        assert seconds >= 0
        end = start + seconds
    assert end == pytest.approx(PREDICTED.started + PREDICTED.seconds)


def test_a_request_without_a_prediction_has_no_parts() -> None:
    assert exchange_of("mine", "GET", "/", submitted=1.0, seconds=2.0).parts() == []
