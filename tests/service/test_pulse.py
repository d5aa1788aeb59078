"""The pulse: what hangs is given up, what is lost is noticed, and a loop that stands still ends."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated import Gated
from tiny import write_tiny

from service import gpu_watch
from service import pulse as pulse_module
from service.catalog import Catalog
from service.errors import ModelFaultError, NotReadyError
from service.placement import Placement
from service.predictor import STUCK, Predictor
from service.pulse import Pulse
from service.settings import Settings
from service.telemetry.metrics import exposition


@asynccontextmanager
async def beating(
    folder: Path, runtime: Gated, settings: Settings
) -> AsyncIterator[tuple[Catalog, Pulse]]:
    """A catalog whose model `line` computes on this runtime, and its pulse."""
    package = write_tiny(folder, "line", runtimes=("onnx",))
    catalog = Catalog(settings)
    catalog._predictors["line"] = Predictor(package, Placement(runtime, {}), settings)
    pulse = Pulse(catalog, settings)
    pulse.start()
    assert catalog.alive
    yield catalog, pulse
    pulse.stop()
    runtime.gate.set()
    await catalog.close()


def test_a_compute_that_hangs_is_given_up_and_after_some_of_them_the_process_is_not_alive(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        settings = Settings(max_compute_seconds=0.2)
        async with beating(tmp_path, Gated(), settings) as (catalog, _):
            for number in range(STUCK):
                assert catalog.alive
                with pytest.raises(ModelFaultError):
                    await catalog["line"].predict({"x": np.zeros((1, 1), np.float32)})
                shown = f'fitserve_given_up_computes{{model="line"}} {number + 1}.0'
                assert shown in exposition().decode()
            assert not catalog.alive

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_process_whose_event_loop_stands_still_ends(root: Path) -> None:
    program = """
        import asyncio, time
        from service import pulse
        from service.catalog import Catalog
        from service.settings import Settings

        pulse._STILL_SECONDS = 0.0

        async def run():
            settings = Settings(max_compute_seconds=1)
            pulse.Pulse(Catalog(settings), settings).start()
            await asyncio.sleep(2.5)
            print("moves", flush=True)
            time.sleep(60)

        asyncio.run(run())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root, env=os.environ, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("moves\n", 70)
    assert "the event loop has stood still" in ended.stderr


# A GPU.


class Memory:
    """What a GPU says of its memory when it is asked; it may fail, or hold whoever asks."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, device: str) -> tuple[int, int]:
        """Answer as torch does: the free bytes, and all."""
        assert device == "cuda:0"
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return 250, 1000


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """The memory of a GPU that is asked often, and that hangs after 0.2 s."""
    found = Memory()
    monkeypatch.setattr("torch.cuda.mem_get_info", found)
    monkeypatch.setattr(gpu_watch, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(gpu_watch, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(pulse_module, "_SECONDS", 0.01)
    yield found
    found.gate.set()


def with_gpu(
    folder: Path, test: Callable[[Catalog], Coroutine[Any, Any, None]], seconds: float = 30
) -> None:
    """Run a test on a catalog whose model computes on that GPU, while the pulse looks."""

    async def run() -> None:
        runtime = Gated()
        runtime.device = "cuda:0"
        async with beating(folder, runtime, Settings()) as (catalog, _):
            catalog._open = True
            assert catalog.ready
            await test(catalog)

    asyncio.run(asyncio.wait_for(run(), seconds))


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - what it waits for happens on another thread
        await asyncio.sleep(0.01)


def test_the_memory_of_a_gpu_is_shown(tmp_path: Path, memory: Memory) -> None:
    async def test(catalog: Catalog) -> None:
        shown = 'fitserve_gpu_memory_bytes{device="cuda:0",kind="used"} 750.0'
        await until(lambda: shown in exposition().decode())

    with_gpu(tmp_path, test)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), "CUDA error: unspecified launch"),
        (OSError(), "OSError"),  # there is always a reason
    ],
)
def test_a_gpu_that_fails_makes_it_not_ready_at_once_until_it_answers(
    error: Exception,
    reason: str,
    tmp_path: Path,
    memory: Memory,
    logged: Callable[[], list[logging.LogRecord]],
) -> None:
    async def test(catalog: Catalog) -> None:
        memory.error = error
        await until(lambda: not catalog.ready)
        assert not catalog.alive
        with pytest.raises(NotReadyError, match="The GPU does not answer"):
            catalog["line"]
        memory.error = None
        await until(lambda: catalog.ready)
        assert catalog.alive
        assert catalog["line"]

    with_gpu(tmp_path, test)
    told = [record.getMessage() for record in logged() if "GPU" in record.getMessage()]
    assert len(told) == 2
    assert told[0].startswith(f"a GPU is lost, and this process not ready: cuda:0: {reason}")
    assert told[1] == "the GPU answers again, and this process is ready"


def test_a_gpu_that_hangs_holds_one_thread_that_nobody_waits_for(
    tmp_path: Path, memory: Memory, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    async def test(catalog: Catalog) -> None:
        memory.gate.clear()
        await until(lambda: not catalog.ready)
        held = [thread for thread in threading.enumerate() if thread.name == "watch cuda:0"]
        assert [thread.daemon for thread in held] == [True]
        memory.gate.set()
        await until(lambda: catalog.ready)

    with_gpu(tmp_path, test)
    (lost,) = [record for record in logged() if record.levelname == "CRITICAL"]
    assert lost.getMessage().endswith("cuda:0: it has not answered for 0.2 s")


# A module stands in for torch, whose import takes seconds.
GPU_PROGRAM = """
    import asyncio, sys, time, types
    from pathlib import Path
    from faulty_networks import write_sound
    from service import gpu_watch, pulse
    from service.catalog import Catalog
    from service.placement import Placement
    from service.predictor import Predictor
    from service.settings import Settings

    torch = sys.modules["torch"] = types.ModuleType("torch")
    torch.cuda = sys.modules["torch.cuda"] = types.ModuleType("torch.cuda")
    gpu_watch.ASK_SECONDS, gpu_watch.ANSWER_SECONDS, pulse.LOST_SECONDS = 0.1, 0.5, 0.5
    {fault}

    async def run():
        settings = Settings(max_compute_seconds=1)
        gpu = types.SimpleNamespace(name="onnx", device="cuda:0", steady=True)
        catalog = Catalog(settings)
        package = write_sound(Path(sys.argv[1]), "line")
        catalog._predictors["line"] = Predictor(package, Placement(gpu, {{}}), settings)
        watched = pulse.Pulse(catalog, settings)
        watched.start()
        {then}
        print("ends", flush=True)

    asyncio.run(run())
"""
HANG = "torch.cuda.mem_get_info = lambda device: time.sleep(600)"
FAIL = "torch.cuda.mem_get_info = lambda device: 1 / 0"
NO_TORCH = "sys.modules['torch'] = sys.modules['torch.cuda'] = None; pulse._STILL_SECONDS = 2"


@pytest.mark.parametrize(
    ("fault", "then", "status", "said"),
    [
        (FAIL, "await asyncio.sleep(60)", 70, "stays away: cuda:0: division by zero"),
        (HANG, "await asyncio.sleep(60)", 70, "stays away: cuda:0: it has not answered for 0.5 s"),
        (HANG, "await asyncio.sleep(0.5); watched.stop()", 0, ""),
        (
            NO_TORCH,
            "await asyncio.sleep(5); assert catalog.alive",
            0,
            "is not watched, which needs torch",
        ),
    ],
    ids=["fails", "hangs", "hangs at the end", "no torch"],
)
def test_a_process_whose_gpu_stays_away_ends_and_no_other_does(
    fault: str, then: str, status: int, said: str, root: Path, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GPU_PROGRAM).format(fault=fault, then=then),
         str(tmp_path)],
        cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("" if status else "ends\n", status), ended.stderr
    assert said in ended.stderr
