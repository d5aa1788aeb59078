"""Runtimes of a package that cannot use the device are reported, and can be required."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import fake_onnx_cuda
from tiny import write_tiny

from service.inference.registry import ModelRegistry
from service.settings import Settings
from service.telemetry.metrics import exposition

pytestmark = pytest.mark.timeout(60)  # a longer test hangs

WHY = "torch cannot compute on cuda:0: this machine has no NVIDIA driver"


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[ModelRegistry]:
    """Open the registry of a folder on a GPU that torch cannot use; close it after the block."""
    registry = ModelRegistry(Settings(**{"model_repository": root, "device": "cuda:0"} | settings))
    await registry.open()
    try:
        yield registry
    finally:
        await registry.close()


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one package with both files; only ONNX Runtime can use the GPU."""
    fake_onnx_cuda(monkeypatch)
    monkeypatch.setattr("models.runtimes.devices.driver_cuda", lambda: None)
    write_tiny(tmp_path, "line")
    return tmp_path


async def test_an_unused_runtime_is_logged_counted_and_in_the_description(
    both: Path, logged: Callable[[], list[Any]]
) -> None:
    async with serving(both) as registry:
        described = json.loads(registry.description("line").full)["serving"]
        assert (described["runtime"], described["device"]) == ("onnx", "cuda:0")
        assert described["unused"]["torchscript"].startswith(WHY)
        assert 'fitserve_model_unused_runtimes{model="line"} 1.0' in exposition().decode()
        warnings = [record.getMessage() for record in logged() if record.levelname == "WARNING"]
        assert [text for text in warnings if text.startswith("line/1 is served without torch")]
        assert registry.ready


async def test_with_a_required_gpu_an_unused_runtime_makes_the_service_not_ready(
    both: Path, logged: Callable[[], list[Any]]
) -> None:
    async with serving(both, require_device=True) as registry:
        assert list(registry)
        assert not registry.ready
        (error,) = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert error.startswith("not ready, as FITSERVE_REQUIRE_DEVICE is set")
        assert error.endswith(" line")


async def test_with_a_required_gpu_a_package_that_cannot_use_it_makes_the_service_not_ready(
    both: Path,
) -> None:
    write_tiny(both, "script", runtimes=("torchscript",))
    write_tiny(both, "line", version="2", runtimes=("onnx",))

    async with serving(both, require_device=True) as registry:
        assert [predictor.card.name for predictor in registry] == ["line"]
        assert WHY in registry.unavailable["script"]
        assert not registry.ready


async def test_the_service_is_ready_if_the_configured_runtime_uses_the_gpu(both: Path) -> None:
    """Neither the other runtime nor a broken package is required."""
    (write_tiny(both, "broken").path / "model.onnx").unlink()

    async with serving(both, runtime="onnx", require_device=True) as registry:
        assert registry.unavailable.keys() == {"broken"}
        assert "unused" not in json.loads(registry.description("line").full)["serving"]
        assert 'fitserve_model_unused_runtimes{model="line"} 0.0' in exposition().decode()
        assert registry.ready


@pytest.mark.parametrize("device", ["auto", "cpu"])
async def test_the_cpu_is_not_a_gpu(device: str, both: Path) -> None:
    async with serving(both, device=device, require_device=True) as registry:
        assert list(registry)
        assert not registry.ready


async def test_a_batch_is_never_larger_than_the_memory_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest batch that fits during warm-up is the largest that serves."""

    def fault(rows: int) -> Exception | None:
        full = "Available memory of 128 is smaller than requested bytes of 256"
        return RuntimeError(full) if rows > 100 else None

    fake_onnx_cuda(monkeypatch, fault)
    write_tiny(tmp_path, "line", runtimes=("onnx",))

    async with serving(tmp_path, max_queue_seconds=100, require_device=True) as registry:
        assert registry["line"].max_batch_rows == 64
        assert registry.ready
