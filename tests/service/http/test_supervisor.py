"""When a worker is replaced, and what it gets; what circus does of it is tested end to end."""

import os
from types import SimpleNamespace

import pytest

from service.http import supervisor
from service.http.supervisor import (
    REPLACED_WITHIN_SECONDS,
    REPLACEMENTS,
    Replacements,
    share_cores,
)


def test_workers_are_replaced_until_that_is_seen_not_to_help() -> None:
    now = 0.0
    may_start = Replacements(lambda: now)
    watcher = SimpleNamespace(numprocesses=2)
    assert may_start(watcher)
    assert may_start(watcher)
    for _ in range(2 * REPLACEMENTS):
        assert may_start(watcher), "each of the two workers may be replaced so often"
    assert not may_start(watcher)
    now = REPLACED_WITHIN_SECONDS + 1
    assert may_start(watcher), "a death now and then is no reason to end"


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(8.0, 3, "2"), (8.0, 8, "1"), (8.0, 9, "1"), (2.5, 1, "2"), (0.5, 1, "1"), (8.0, 1, None)],
)
def test_workers_share_the_cores_of_their_container(
    monkeypatch: pytest.MonkeyPatch, cores: float, workers: int, threads: str | None
) -> None:
    monkeypatch.setattr(supervisor, "system_resources", lambda: {"cpu": cores})
    monkeypatch.setattr(supervisor.os, "cpu_count", lambda: 8)
    watcher = SimpleNamespace(numprocesses=workers, env={})
    share_cores(watcher)
    assert watcher.env.get("FITSERVE_THREADS") == threads


def test_the_threads_that_the_operator_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "current_settings", lambda: SimpleNamespace(threads=7))
    watcher = SimpleNamespace(numprocesses=100, env={"FITSERVE_THREADS": "7"})
    share_cores(watcher)
    assert watcher.env == {"FITSERVE_THREADS": "7"}


def test_bentoml_knows_how_many_cores_there_are() -> None:
    assert 0 < supervisor.system_resources()["cpu"] <= (os.cpu_count() or 1)
