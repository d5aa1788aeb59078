"""Tests of the service run with the default settings, whatever the environment contains.

The timings of one test are not kept for the next one.
"""

import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from service.processes.jobs import close_pool, start_pool
from service.settings import Settings
from service.telemetry.logs import logger

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("FITSERVE_")]:
        monkeypatch.delenv(name)
    cache = tmp_path_factory.getbasetemp() / f"cache-{next(_numbers)}"  # created if it is used
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[None]:
    """The processes for jobs, which the tests of a file share, with their event loop."""
    start_pool(Settings())
    yield
    await close_pool()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[logging.LogRecord]]]:
    """The log of the service in this test; BentoML may keep it from the root logger."""
    logger.addHandler(caplog.handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield lambda: [record for record in caplog.records if record.name == logger.name]
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
    logger.propagate = propagate
