"""The watchdog: hung computes are abandoned, a lost GPU is reported, and a stalled process ends."""

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated import Gated
from tiny import write_tiny

from service.errors import ModelFaultError, NotReadyError
from service.inference import gpu_watch
from service.inference import watchdog as watchdog_module
from service.inference.placement import Placement
from service.inference.predictor import MAX_HUNG, Predictor
from service.inference.registry import ModelRegistry
from service.inference.watchdog import Watchdog
from service.settings import Settings
from service.telemetry.metrics import exposition


@asynccontextmanager
async def watched_registry(
    folder: Path, runtime: Gated, settings: Settings
) -> AsyncIterator[tuple[ModelRegistry, Watchdog]]:
    """The registry of a model `line` on this runtime, and its watchdog."""
    package = write_tiny(folder, "line", runtimes=("onnx",))
    registry = ModelRegistry(settings)
    registry._predictors["line"] = Predictor(package, Placement(runtime, {}), settings)
    watchdog = Watchdog(registry, settings)
    watchdog.start()
    watchdog.watch_devices()
    assert registry.alive
    yield registry, watchdog
    watchdog.stop()
    runtime.gate.set()
    await registry.close()


@pytest.mark.timeout(30)
async def test_hung_computes_are_abandoned_and_several_make_the_process_not_alive(
    tmp_path: Path,
) -> None:
    settings = Settings(max_compute_seconds=0.2)
    async with watched_registry(tmp_path, Gated(), settings) as (registry, _):
        for number in range(MAX_HUNG):
            assert registry.alive
            with pytest.raises(ModelFaultError):
                await registry["line"].predict({"x": np.zeros((1, 1), np.float32)})
            shown = f'fitserve_given_up_computes{{model="line"}} {number + 1}.0'
            assert shown in exposition().decode()
        assert not registry.alive


def test_a_process_with_a_stalled_event_loop_ends(root: Path) -> None:
    program = """
        import asyncio, time
        from service.inference import watchdog
        from service.inference.registry import ModelRegistry
        from service.settings import Settings

        watchdog._STALLED_SECONDS = 0.0

        async def run():
            settings = Settings(max_compute_seconds=1)
            watching = watchdog.Watchdog(ModelRegistry(settings), settings)
            watching.start()
            watching.watch_devices()
            await asyncio.sleep(2.5)
            print("moves", flush=True)
            time.sleep(60)

        asyncio.run(run())
    """
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root, env=os.environ, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (completed.stdout, completed.returncode) == ("moves\n", 70)
    assert "the event loop has not run" in completed.stderr


# A GPU.


class Memory:
    """The memory of a GPU as torch reports it; the query can fail or hang."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, device: str) -> tuple[int, int]:
        """Return the free and total bytes, as torch does."""
        assert device == "cuda:0"
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return 250, 1000


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """The memory of a GPU that is queried often, and counts as hung after 0.2 s."""
    memory = Memory()
    monkeypatch.setattr("torch.cuda.mem_get_info", memory)
    monkeypatch.setattr(gpu_watch, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(gpu_watch, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(watchdog_module, "_CHECK_SECONDS", 0.01)
    yield memory
    memory.gate.set()


@asynccontextmanager
async def registry_on_gpu(folder: Path) -> AsyncIterator[ModelRegistry]:
    """A registry whose model computes on this GPU, with its watchdog."""
    runtime = Gated()
    runtime.device = "cuda:0"
    async with watched_registry(folder, runtime, Settings()) as (registry, _):
        registry._open = True
        assert registry.ready
        yield registry


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition changes on another thread
        await asyncio.sleep(0.01)


@pytest.mark.timeout(30)
async def test_the_memory_of_a_gpu_is_shown(tmp_path: Path, memory: Memory) -> None:
    async with registry_on_gpu(tmp_path):
        shown = 'fitserve_gpu_memory_bytes{device="cuda:0",kind="used"} 750.0'
        await until(lambda: shown in exposition().decode())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), "CUDA error: unspecified launch"),
        (OSError(), "OSError"),  # there is always a reason
    ],
)
async def test_a_failing_gpu_makes_the_process_not_ready_until_it_responds(
    error: Exception,
    reason: str,
    tmp_path: Path,
    memory: Memory,
    logged: Callable[[], list[logging.LogRecord]],
) -> None:
    async with registry_on_gpu(tmp_path) as registry:
        memory.error = error
        await until(lambda: not registry.ready)
        assert not registry.alive
        with pytest.raises(NotReadyError, match="The GPU does not respond"):
            registry["line"]
        memory.error = None
        await until(lambda: registry.ready)
        assert registry.alive
        assert registry["line"]
    message = [record.getMessage() for record in logged() if "GPU" in record.getMessage()]
    assert len(message) == 2
    assert message[0].startswith(f"a GPU is lost, and this process not ready: cuda:0: {reason}")
    assert message[1] == "the GPU responds again, and this process is ready"


@pytest.mark.timeout(30)
async def test_without_cuda_in_torch_no_gpu_counts_as_lost(
    tmp_path: Path, memory: Memory, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    """ONNX Runtime may have CUDA if torch has none."""
    memory.error = AssertionError("Torch not compiled with CUDA enabled")

    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    async with registry_on_gpu(tmp_path) as registry:
        await until(lambda: "watch cuda:0" not in names())
        await asyncio.sleep(0.1)  # some checks
        assert registry.ready
        assert registry.alive
    (warning,) = [record for record in logged() if record.levelname == "WARNING"]
    assert warning.getMessage() == (
        "cuda:0 is not monitored, which needs torch: Torch not compiled with CUDA enabled"
    )


@pytest.mark.timeout(30)
async def test_a_hung_gpu_blocks_only_one_daemon_thread(
    tmp_path: Path, memory: Memory, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    async with registry_on_gpu(tmp_path) as registry:
        memory.gate.clear()
        await until(lambda: not registry.ready)
        held = [thread for thread in threading.enumerate() if thread.name == "watch cuda:0"]
        assert [thread.daemon for thread in held] == [True]
        memory.gate.set()
        await until(lambda: registry.ready)
    (lost,) = [record for record in logged() if record.levelname == "CRITICAL"]
    assert lost.getMessage().endswith("cuda:0: no response for 0.2 s")


# A fake torch module, as the import of torch takes seconds.
GPU_PROGRAM = """
    import asyncio, sys, time, types
    from pathlib import Path
    from faulty_networks import write_sound
    from service.inference import gpu_watch, watchdog
    from service.inference.registry import ModelRegistry
    from service.inference.placement import Placement
    from service.inference.predictor import Predictor
    from service.settings import Settings

    torch = sys.modules["torch"] = types.ModuleType("torch")
    torch.cuda = sys.modules["torch.cuda"] = types.ModuleType("torch.cuda")
    gpu_watch.ASK_SECONDS, gpu_watch.ANSWER_SECONDS, watchdog.LOST_SECONDS = 0.1, 0.5, 0.5
    {fault}

    async def run():
        settings = Settings(max_compute_seconds=1)
        gpu = types.SimpleNamespace(name="onnx", device="cuda:0", cost_varies=False)
        registry = ModelRegistry(settings)
        package = write_sound(Path(sys.argv[1]), "line")
        registry._predictors["line"] = Predictor(package, Placement(gpu, {{}}), settings)
        watched = watchdog.Watchdog(registry, settings)
        watched.start()
        watched.watch_devices()
        {then}
        print("ends", flush=True)

    asyncio.run(run())
"""
HANG = "torch.cuda.mem_get_info = lambda device: time.sleep(600)"
FAIL = "torch.cuda.mem_get_info = lambda device: 1 / 0"
NO_TORCH = "sys.modules['torch'] = sys.modules['torch.cuda'] = None; watchdog._STALLED_SECONDS = 2"


@pytest.mark.parametrize(
    ("fault", "then", "status", "said"),
    [
        (FAIL, "await asyncio.sleep(60)", 70, "does not respond: cuda:0: division by zero"),
        (HANG, "await asyncio.sleep(60)", 70, "does not respond: cuda:0: no response for 0.5 s"),
        (HANG, "await asyncio.sleep(0.5); watched.stop()", 0, ""),
        (
            NO_TORCH,
            "await asyncio.sleep(5); assert registry.alive",
            0,
            "is not monitored, which needs torch",
        ),
    ],
    ids=["fails", "hangs", "hangs at the end", "no torch"],
)
def test_only_a_process_with_a_lost_gpu_ends(
    fault: str, then: str, status: int, said: str, root: Path, tmp_path: Path
) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GPU_PROGRAM).format(fault=fault, then=then),
         str(tmp_path)],
        cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'support'}"},
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (completed.stdout, completed.returncode) == ("" if status else "ends\n", status), (
        completed.stderr
    )
    assert said in completed.stderr
