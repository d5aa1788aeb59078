"""Memory that callers share: bounded, and never all of it for one caller."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.shared_buffer import SharedBuffer


def taken_by(buffer: SharedBuffer, caller: str, size: int) -> int:
    """Take bodies of this size until one is refused; return how many were taken."""
    count = 0
    while buffer.take(caller, size):
        count += 1
    return count


def test_each_caller_gets_a_share_and_something_is_left_for_the_next() -> None:
    buffer = SharedBuffer(1_000)
    assert taken_by(buffer, "a", 10) == 50
    assert taken_by(buffer, "b", 10) == 25
    assert taken_by(buffer, "c", 10) == 13
    for _ in range(50):
        buffer.give_back("a", 10)
    assert taken_by(buffer, "b", 10) == 19, "now it has as much as is free"


def test_one_body_may_take_everything_part_by_part() -> None:
    buffer = SharedBuffer(1_000)
    assert all(buffer.take("a", 100, earlier=100 * n) for n in range(10))
    assert not buffer.take("a", 1, earlier=1_000)
    buffer.give_back("a", 1_000)
    assert buffer.take("a", 2_000), "what is larger than the memory is accepted alone"
    assert not buffer.take("b", 1)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 400), st.booleans())))
def test_the_bytes_are_never_more_than_the_limit(steps: list[tuple[str, int, bool]]) -> None:
    buffer, held = SharedBuffer(1_000), [("a", 0)]
    for caller, size, gives_back in steps:
        if gives_back and held:
            buffer.give_back(*held.pop())
        elif buffer.take(caller, size):
            held.append((caller, size))
        total = sum(size for _, size in held)
        assert total <= 1_000
    for caller, size in held:
        buffer.give_back(caller, size)
    assert buffer.take("a", 1_000), "all of it is free again"


@pytest.mark.parametrize("size", [0, 10])
def test_a_caller_without_bytes_is_forgotten(size: int) -> None:
    buffer = SharedBuffer(1_000)
    assert buffer.take("a", size)
    buffer.give_back("a", size)
    assert not buffer._taken
