"""Restarts of workers and their configuration; the effects in circus are tested end to end."""

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bentoml._internal.utils import circus
from circus.arbiter import Arbiter
from circus.exc import ConflictError

from service.settings import Settings
from service.transport import bentoml_adapter, rolling_restart, supervisor
from service.transport.rolling_restart import replace_workers
from service.transport.supervisor import (
    MAX_RESTARTS,
    RESTART_WINDOW_SECONDS,
    RestartLimit,
    Supervisor,
    ThreadedSupervisor,
    share_cores,
    supervise,
)


def test_workers_are_restarted_until_the_limit() -> None:
    now = 0.0
    may_start = RestartLimit(lambda: now)
    watcher = SimpleNamespace(numprocesses=2)
    assert may_start(watcher)
    assert may_start(watcher)
    for _ in range(2 * MAX_RESTARTS):
        assert may_start(watcher), "each of the two workers may be replaced so often"
    assert not may_start(watcher)
    now = RESTART_WINDOW_SECONDS + 1
    assert may_start(watcher), "a death now and then is no reason to end"


def test_intentional_restarts_do_not_count() -> None:
    may_start = RestartLimit(lambda: 0.0)
    watcher = SimpleNamespace(numprocesses=1)
    for _ in range(MAX_RESTARTS + 5):
        assert may_start.begin()
        assert may_start(watcher)


@pytest.mark.parametrize(
    ("option", "seconds"), [([], 7.0), (["--timeout-graceful-shutdown", "125"], 125.0)]
)
def test_the_option_overrides_the_setting(option: list[str], seconds: float) -> None:
    watcher = SimpleNamespace(args=["worker.py", *option, "--fd", "3"])
    arbiter = object.__new__(Supervisor)
    arbiter._settings = Settings(graceful_shutdown_seconds=7.0)
    assert arbiter._stop_seconds(watcher) == seconds


async def test_a_signal_that_arrives_while_circus_is_busy_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = [True, True]

    async def stop(_: Arbiter) -> None:
        if refusals:
            refusals.pop()
            raise ConflictError("arbiter is already running arbiter_start_watchers command")

    monkeypatch.setattr(Arbiter, "stop", stop)
    arbiter = object.__new__(Supervisor)
    arbiter._workers = []
    await asyncio.wait_for(arbiter._stop(), 10)
    assert refusals == []


def test_bentoml_uses_the_supervisor_as_its_arbiter() -> None:
    supervise(Settings())
    made = circus.create_standalone_arbiter([])
    assert isinstance(made, Supervisor)
    assert made.endpoint.startswith("inproc://")
    assert made.pubsub_endpoint.startswith("inproc://")
    assert isinstance(circus.create_standalone_arbiter([], threaded=True), ThreadedSupervisor)


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(8.0, 3, "2"), (8.0, 8, "1"), (8.0, 9, "1"), (2.5, 1, "2"), (0.5, 1, "1"), (8.0, 1, None)],
)
def test_workers_share_the_cores_of_their_container(
    monkeypatch: pytest.MonkeyPatch, cores: float, workers: int, threads: str | None
) -> None:
    monkeypatch.setattr(bentoml_adapter, "available_cores", lambda: cores)
    monkeypatch.setattr(supervisor.os, "cpu_count", lambda: 8)
    watcher = SimpleNamespace(numprocesses=workers, env={})
    share_cores(watcher, 0)
    assert watcher.env.get("FITSERVE_INTRA_OP_THREADS") == threads


def test_threads_set_by_the_operator_are_kept() -> None:
    watcher = SimpleNamespace(numprocesses=100, env={"FITSERVE_INTRA_OP_THREADS": "7"})
    share_cores(watcher, 7)
    assert watcher.env == {"FITSERVE_INTRA_OP_THREADS": "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has CPU masks")
def test_the_cpu_mask_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert bentoml_adapter.available_cores() <= 1


def test_bentoml_reports_the_number_of_cores() -> None:
    assert 0 < bentoml_adapter.available_cores() <= (os.cpu_count() or 1)


async def test_without_all_new_workers_a_rolling_restart_ends_no_old_one(tmp_path: Path) -> None:
    """As circus does if the system has too little memory for another process."""
    ended: list[int] = []

    async def kill(process: SimpleNamespace) -> None:
        ended.append(process.pid)

    watcher = SimpleNamespace(
        processes={1: SimpleNamespace(pid=1, is_alive=lambda: True)},
        numprocesses=1,
        call_hook=lambda _: True,
        spawn_process=lambda: False,
        is_stopping=lambda: False,
        is_stopped=lambda: False,
        kill_process=kill,
        reap_process=lambda _: None,
    )
    await replace_workers(watcher, tmp_path)
    assert ended == []


async def test_a_report_that_is_being_written_is_not_yet_read(tmp_path: Path) -> None:
    new = SimpleNamespace(pid=2, is_alive=lambda: True)
    watcher = SimpleNamespace(is_stopping=lambda: False, is_stopped=lambda: False)
    report = tmp_path / "loaded-2"
    report.touch()
    waiting = asyncio.create_task(rolling_restart._failure(watcher, [new], tmp_path))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    report.write_text("ready")
    assert await asyncio.wait_for(waiting, 10) is None
