"""The checks of headers keep nothing of what they read."""

import tracemalloc

import pytest

from service.errors import BadInputError
from service.transport.framing import check_framing


def test_long_hosts_are_refused_and_not_kept() -> None:
    tracemalloc.start()
    try:
        for number in range(200):
            lines = [(b"host", b"%d" % number + b"a" * 60_000)]
            with pytest.raises(BadInputError, match="must be a host"):
                check_framing(b"GET", b"/", "1.1", lines, dict(lines))
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
