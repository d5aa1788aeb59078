"""When a worker is replaced, and what it gets; what circus does of it is tested end to end."""

import asyncio
import os
from types import SimpleNamespace

import pytest
from bentoml._internal.utils import circus
from circus.arbiter import Arbiter
from circus.exc import ConflictError

from service.http import server, supervisor
from service.http.supervisor import (
    REPLACED_WITHIN_SECONDS,
    REPLACEMENTS,
    Replacements,
    Supervisor,
    _stop_seconds,
    share_cores,
    supervise,
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


def test_workers_that_are_started_anew_on_purpose_have_not_died() -> None:
    may_start = Replacements(lambda: 0.0)
    watcher = SimpleNamespace(numprocesses=1)
    for _ in range(REPLACEMENTS + 5):
        assert may_start.begin()
        assert may_start(watcher)


def test_the_option_outweighs_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server, "current_settings", lambda: SimpleNamespace(graceful_shutdown_seconds=7.0)
    )
    assert _stop_seconds(["--fd", "3"]) == 7
    assert _stop_seconds(["--timeout-graceful-shutdown", "125", "--fd", "3"]) == 125


def test_a_signal_that_comes_while_circus_is_busy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [True, True]

    async def stop(_: Arbiter) -> None:
        if refusals:
            refusals.pop()
            raise ConflictError("arbiter is already running arbiter_start_watchers command")

    monkeypatch.setattr(Arbiter, "stop", stop)
    arbiter = object.__new__(Supervisor)
    asyncio.run(asyncio.wait_for(arbiter._stop(), 10))
    assert refusals == []


def test_bentoml_finds_the_supervisor_where_it_looks_for_its_arbiter() -> None:
    supervise()
    made = circus.create_standalone_arbiter([])
    assert isinstance(made, Supervisor)
    assert made.endpoint.startswith("inproc://")
    assert made.pubsub_endpoint.startswith("inproc://")
    assert issubclass(circus.ThreadedArbiter, Supervisor)


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
