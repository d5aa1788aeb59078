"""A runtime that the package has and the device does not use: it is said, and may be required."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import fake_onnx_cuda
from tiny import write_tiny

from service.catalog import Catalog
from service.settings import Settings
from service.telemetry.metrics import exposition

WHY = "torch cannot compute on cuda:0: this machine has no NVIDIA driver"


def serving(root: Path, test: Callable[[Catalog], Awaitable[None]], **settings: Any) -> None:
    """Open the catalog of a folder on a GPU that torch cannot use, and run the test on it."""

    async def run() -> None:
        catalog = Catalog(Settings(**{"model_repository": root, "device": "cuda:0"} | settings))
        await catalog.open()
        try:
            await test(catalog)
        finally:
            await catalog.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one package with both files, where ONNX Runtime alone can use the GPU."""
    fake_onnx_cuda(monkeypatch)
    monkeypatch.setattr("models.devices.driver_cuda", lambda: None)
    write_tiny(tmp_path, "line")
    return tmp_path


def test_it_is_a_warning_a_metric_and_a_line_of_the_model(
    both: Path, logged: Callable[[], list[Any]]
) -> None:
    async def test(catalog: Catalog) -> None:
        serving = json.loads(catalog.description("line").full)["serving"]
        assert (serving["runtime"], serving["device"]) == ("onnx", "cuda:0")
        assert serving["unused"]["torchscript"].startswith(WHY)
        assert 'fitserve_model_unused_runtimes{model="line"} 1.0' in exposition().decode()
        warnings = [record.getMessage() for record in logged() if record.levelname == "WARNING"]
        assert [text for text in warnings if text.startswith("line/1 is served without torch")]
        assert catalog.ready

    serving(both, test)


def test_where_a_gpu_is_required_it_is_not_ready(
    both: Path, logged: Callable[[], list[Any]]
) -> None:
    async def test(catalog: Catalog) -> None:
        assert list(catalog)
        assert not catalog.ready
        (error,) = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert error.startswith("not ready, as FITSERVE_REQUIRE_DEVICE is set")
        assert error.endswith(" line")

    serving(both, test, require_device=True)


def test_where_a_gpu_is_required_a_package_that_cannot_use_it_keeps_it_from_being_ready(
    both: Path,
) -> None:
    write_tiny(both, "script", runtimes=("torchscript",))
    write_tiny(both, "line", version="2", runtimes=("onnx",))

    async def test(catalog: Catalog) -> None:
        assert [predictor.card.name for predictor in catalog] == ["line"]
        assert WHY in catalog.refused["script"]
        assert not catalog.ready

    serving(both, test, require_device=True)


def test_what_is_required_and_there_is_ready(both: Path) -> None:
    """And what was not asked for is not missed: the other runtime, and a broken package."""
    (write_tiny(both, "broken").path / "model.onnx").unlink()

    async def test(catalog: Catalog) -> None:
        assert catalog.refused.keys() == {"broken"}
        assert "unused" not in json.loads(catalog.description("line").full)["serving"]
        assert 'fitserve_model_unused_runtimes{model="line"} 0.0' in exposition().decode()
        assert catalog.ready

    serving(both, test, runtime="onnx", require_device=True)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_the_cpu_is_no_gpu(device: str, both: Path) -> None:
    async def test(catalog: Catalog) -> None:
        assert list(catalog)
        assert not catalog.ready

    serving(both, test, device=device, require_device=True)


def test_a_batch_that_the_memory_of_a_gpu_does_not_hold_is_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest that was tried and fits is the largest that is served."""

    def fault(rows: int) -> Exception | None:
        full = "Available memory of 128 is smaller than requested bytes of 256"
        return RuntimeError(full) if rows > 100 else None

    fake_onnx_cuda(monkeypatch, fault)
    write_tiny(tmp_path, "line", runtimes=("onnx",))

    async def test(catalog: Catalog) -> None:
        assert catalog["line"].max_batch_rows == 64
        assert catalog.ready

    serving(tmp_path, test, max_wait_seconds=100, require_device=True)
