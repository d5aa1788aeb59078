"""Which workers accept connections while they load, by what the others have reported."""

import asyncio
import os
from pathlib import Path

import pytest

from service.parent_watch import PARENT
from service.telemetry.multiprocess_folder import FOLDER
from service.transport.rolling_restart import is_first, report_loaded, wait_for_the_first

pytestmark = pytest.mark.timeout(20)  # a longer test hangs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server, one of whose workers this process is."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(PARENT, str(os.getppid()))
    return tmp_path


@pytest.mark.parametrize("ready", [True, False])
def test_only_the_first_worker_of_a_server_accepts_connections_while_it_loads(ready: bool) -> None:
    assert is_first(1)
    assert not is_first(2)
    report_loaded(ready=ready)
    assert not is_first(1)  # it replaces a worker


def test_without_a_folder_the_first_worker_accepts_connections_while_it_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(FOLDER)
    assert is_first(1)
    assert not is_first(2)


def test_a_process_that_is_no_worker_loads_its_models_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(PARENT)
    assert not is_first(1)


async def test_the_others_wait_for_the_first(folder: Path) -> None:
    report_loaded(ready=True)  # this worker was faster
    waiting = asyncio.create_task(wait_for_the_first())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    (folder / f"loaded-{os.getppid()}").write_text("ready")
    await waiting
