"""A rolling restart: new workers start, and the old ones end when the new ones are ready.

No request is lost or refused meanwhile, and the new workers load the packages that are newest then.
Each worker reports in the folder of its server when it has loaded its models. The server needs the
memory of twice as many workers for that time.

A worker accepts connections when it has loaded its models, so that no request meets a worker that
lacks a model. The first worker of a server is the exception: it accepts them at once, because no
other worker can, and reports which models are ready.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.parent_watch import is_worker
from service.telemetry.logs import logger
from service.telemetry.multiprocess_folder import FOLDER

_CHECK_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0
_PREFIX = "loaded-"
_READY, _NOT_READY = "ready", "not ready"


def report_loaded(*, ready: bool) -> None:
    """Report to the supervisor that this worker has loaded its models.

    Args:
        ready: whether the worker serves any of them.
    """
    if folder := os.environ.get(FOLDER):
        try:
            report = Path(folder, f"{_PREFIX}{os.getpid()}")
            report.write_text(_READY if ready else _NOT_READY)
        except OSError as error:
            logger.error("a rolling restart would wait for this worker without end: %s", error)


def is_first(worker_index: int) -> bool:
    """Return whether no worker of this server has loaded its models yet, and this is its first.

    A process that is no worker of `bentoml serve` is not: its caller expects the models.
    """
    folder = os.environ.get(FOLDER)
    return is_worker() and worker_index == 1 and not (folder and any(_reports(Path(folder))))


async def let_others_serve() -> None:
    """Wait as long as another worker serves, since this one does not, and accept no connection.

    The supervisor of a rolling restart ends this worker meanwhile. The wait ends after
    `_PATIENCE_SECONDS`.
    """
    await _wait_while(_another_serves)


async def wait_for_the_first() -> None:
    """Wait until another worker has loaded its models, and accept no connection.

    The first worker of a server accepts connections while it loads. Another one beside it would
    respond that all models are ready, and the next request would meet the first. The wait ends
    after `_PATIENCE_SECONDS`.
    """
    own_name = f"{_PREFIX}{os.getpid()}"
    await _wait_while(lambda folder: all(report.name == own_name for report in _reports(folder)))


async def _wait_while(condition: Callable[[Path], bool]) -> None:
    folder = os.environ.get(FOLDER)
    for _ in range(round(_PATIENCE_SECONDS / _CHECK_SECONDS)):
        if not folder or not condition(Path(folder)):
            return
        await asyncio.sleep(_CHECK_SECONDS)


def _reports(folder: Path) -> Iterator[Path]:
    """Return the reports of the workers of a server, also of those that have ended."""
    return folder.glob(f"{_PREFIX}*")


def _another_serves(folder: Path) -> bool:
    """Return whether a worker of the server that is still alive has reported that it serves."""
    for report in _reports(folder):
        with suppress(OSError):
            if report.read_text() == _READY:
                os.kill(int(report.name.removeprefix(_PREFIX)), 0)
                return True
    return False


async def replace_workers(watcher: Any, folder: Path) -> None:
    """Replace the workers of a watcher, or keep them if the new ones do not become ready.

    Args:
        watcher: circus' watcher of the workers.
        folder: of the server, in which the workers report.
    """
    old_workers = list(watcher.processes.values())
    logger.info(
        "rolling restart: the old workers (%d) end when new ones are ready", len(old_workers)
    )
    watcher.call_hook("before_start")  # these starts are not restarts after a failure
    for _ in range(watcher.numprocesses):
        watcher.spawn_process()
    new_workers = [process for process in watcher.processes.values() if process not in old_workers]
    if (
        len(new_workers) < watcher.numprocesses
    ):  # too little memory, for example; circus logs the error
        failure: str | None = "a new worker could not be started"
    else:
        failure = await _failure(watcher, new_workers, folder)
    if watcher.is_stopping() or watcher.is_stopped():
        return
    if failure:
        logger.error("rolling restart: the old workers go on, as %s", failure)
    await asyncio.gather(
        *(_end(watcher, process) for process in (new_workers if failure else old_workers))
    )
    if not failure:
        logger.info("rolling restart: the old workers have ended")


async def _failure(watcher: Any, new_workers: list[Any], folder: Path) -> str | None:
    """Wait until the new workers have loaded their models; return why they do not serve."""
    waiting = list(new_workers)
    while waiting and not watcher.is_stopping() and not watcher.is_stopped():
        if not all(process.is_alive() for process in new_workers):
            return "a new worker died"
        for process in list(waiting):
            with suppress(FileNotFoundError):
                report = (folder / f"{_PREFIX}{process.pid}").read_text()
                if report == _NOT_READY:
                    return "a new worker serves no model"
                if report == _READY:  # otherwise it is being written
                    waiting.remove(process)
        await asyncio.sleep(_CHECK_SECONDS)
    return None


async def _end(watcher: Any, process: Any) -> None:
    """End a worker: it finishes its requests first."""
    await watcher.kill_process(process)
    watcher.reap_process(process.pid)
