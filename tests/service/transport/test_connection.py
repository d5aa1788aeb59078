"""The number of connections that a worker accepts."""

import sys
from collections.abc import Iterator

import pytest

from service.transport import connection
from service.transport.connection import OTHER_FILES, max_connections

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


@pytest.fixture(autouse=True)
def _uncached() -> Iterator[None]:
    max_connections.cache_clear()
    yield
    max_connections.cache_clear()


@pytest.mark.parametrize(
    ("files", "accepted"),
    [
        (200, 150),
        (1_024, 768),
        (10_000 + OTHER_FILES, 10_000),
        (10**6, 10_000),
        (-1, 10_000),  # no limit
    ],
)
def test_connections_leave_open_files_for_other_work(
    files: int, accepted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.resource, "getrlimit", lambda _: (files, files))
    assert max_connections(10_000) == accepted
