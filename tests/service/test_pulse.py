"""The pulse: what hangs is given up, what is lost is noticed, and a loop that stands still ends."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from gated import Gated
from tiny import write_tiny

from service.catalog import Catalog
from service.errors import ModelFaultError
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
    assert pulse.alive
    yield catalog, pulse
    pulse.stop()
    runtime.gate.set()
    await catalog.close()


def test_a_compute_that_hangs_is_given_up_and_after_some_of_them_the_process_is_not_alive(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        settings = Settings(max_compute_seconds=0.2)
        async with beating(tmp_path, Gated(), settings) as (catalog, pulse):
            for number in range(STUCK):
                assert pulse.alive
                with pytest.raises(ModelFaultError):
                    await catalog["line"].predict({"x": np.zeros((1, 1), np.float32)})
                shown = f'fitserve_given_up_computes{{model="line"}} {number + 1}.0'
                assert shown in exposition().decode()
            assert not pulse.alive

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_process_whose_event_loop_stands_still_ends(root: Path) -> None:
    program = """
        import asyncio, time
        from service import pulse
        from service.catalog import Catalog
        from service.settings import Settings

        pulse._GPU_SECONDS = 0.0

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


def test_a_gpu_that_does_not_answer_makes_it_not_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def lost(device: str) -> None:
        raise RuntimeError(f"{device} has fallen off the bus")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)

    async def run() -> None:
        runtime = Gated()
        runtime.device = "cuda:0"
        async with beating(tmp_path, runtime, Settings()) as (_, pulse):
            while pulse.alive:  # noqa: ASYNC110 - the pulse has no event to wait for
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(run(), 10))
