"""Workers that share a GPU load one after another; every wait is bounded."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import fake_onnx_cuda
from tiny import write_tiny

from service.inference import loader
from service.inference.loading_lock import loading_lock
from service.inference.registry import ModelRegistry
from service.settings import Settings
from service.telemetry.multiprocess_folder import FOLDER


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server of these workers."""
    folder = tmp_path / "counts"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def meet(*devices: str) -> bool:
    """Return whether workers on these devices load at the same time."""
    inside = threading.Barrier(len(devices))

    def load(device: str) -> bool:
        with loading_lock(device, 60):
            try:
                inside.wait(0.3)
            except threading.BrokenBarrierError:
                return False
        return True

    with ThreadPoolExecutor(len(devices)) as pool:
        return all(pool.map(load, devices))


def test_workers_on_one_gpu_load_one_after_another_and_others_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not meet("cuda:0", "cuda:0")
    assert meet("cuda:0", "cuda:1", "cpu", "cpu")
    monkeypatch.delenv(FOLDER)  # a single process without a shared folder
    assert meet("cuda:0", "cuda:0")


def test_a_worker_that_waits_too_long_loads_without_the_lock(
    logged: Callable[[], list[logging.LogRecord]],
) -> None:
    with loading_lock("cuda:0", 60), loading_lock("cuda:0", 0.1):
        pass
    (warning,) = logged()
    assert warning.getMessage() == (
        "models are loaded on cuda:0 while other workers load too: one of them has loaded for 0.1 s"
    )


def test_a_missing_folder_does_not_prevent_loading(
    shared: Path, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    shared.rmdir()
    with loading_lock("cuda:0", 60):
        pass
    assert len(logged()) == 1


def test_a_worker_killed_while_it_loads_releases_the_lock(root: Path) -> None:
    program = (
        "import time; from service.inference.loading_lock import loading_lock\n"
        "with loading_lock('cuda:0', 60): print('loads', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, env=os.environ, stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "loads\n"
        finally:
            worker.kill()
    assert meet("cuda:0")


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_worker_does_not_miss_memory_that_another_uses_while_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If both loaded at once, the second would lack the memory for the runtime that it needs."""
    fake_onnx_cuda(monkeypatch)
    write_tiny(tmp_path / "models", "line", runtimes=("onnx",))
    loading = threading.Barrier(2)
    place = loader.place

    def place_with_peak(*arguments: Any, **keywords: Any) -> Any:
        try:
            loading.wait(0.5)
        except threading.BrokenBarrierError:  # the other worker does not load
            loading.reset()
            return place(*arguments, **keywords)
        raise MemoryError("cuda:0 has too little memory")

    monkeypatch.setattr(loader, "place", place_with_peak)

    settings = Settings(model_repository=tmp_path / "models", device="cuda:0")
    workers = [ModelRegistry(settings), ModelRegistry(settings)]
    await asyncio.gather(*(worker.open(index) for index, worker in enumerate(workers, start=1)))
    for worker in workers:
        assert worker.unavailable == {}
        assert worker["line"].placement.runtime.device == "cuda:0"
        await worker.close()
