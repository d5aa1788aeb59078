"""Many small models take few threads and little memory."""

from pathlib import Path

import psutil
import pytest
from tiny import write_tiny

from service.inference import placement
from service.inference.registry import ModelRegistry
from service.settings import Settings

pytestmark = pytest.mark.timeout(120)  # a longer test hangs

MODELS = 40
OTHER_THREADS = 4
MOST_BYTES = 400 * 2**20 / 120
"""Of a model: 120 of them may take 400 MB."""


@pytest.mark.parametrize("start", ["first", "second"])
async def test_small_models_have_no_threads_of_their_own(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_SHORT_SECONDS", 1.0)  # also on a busy machine
    for number in range(MODELS):
        write_tiny(tmp_path, f"line-{number}", runtimes=("onnx",))
    settings = Settings(
        model_repository=tmp_path, device="cpu", intra_op_threads=2, inline_seconds=0.01
    )
    process = psutil.Process()
    if start == "second":
        await _opened_and_closed(settings)
    threads, memory = process.num_threads(), process.memory_info().rss
    registry = ModelRegistry(settings)
    await registry.open()
    try:
        assert len(list(registry)) == MODELS
        assert process.num_threads() <= threads + OTHER_THREADS
        assert process.memory_info().rss - memory < MODELS * MOST_BYTES
    finally:
        await registry.close()


async def _opened_and_closed(settings: Settings) -> None:
    """Open the models, so that their timings are kept."""
    registry = ModelRegistry(settings)
    await registry.open()
    await registry.close()
