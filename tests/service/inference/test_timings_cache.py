"""The timings of earlier starts: what a second start does with them, and what it does not trust."""

import json
import logging
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slow_runtime import SlowRuntime
from tiny import write_tiny

from models.package.card import RuntimeName
from models.package.model_package import ModelPackage
from models.runtimes.devices import DeviceError
from service.inference import placement
from service.inference.placement import Placement, place
from service.inference.registry import ModelRegistry
from service.inference.timings_cache import TimingsCache
from service.settings import Settings

SIZES = (1, 2, 8, 32, 64)


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return write_tiny(tmp_path / "models", "line")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "timings"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[SlowRuntime]:
    """The runtimes that were opened; onnx takes 2 ms per batch and torchscript 10 ms."""
    opened: list[SlowRuntime] = []

    def open_slow(package: Any, name: RuntimeName, device: str, threads: int) -> SlowRuntime:
        opened.append(SlowRuntime(name, device, 0.002 if name == "onnx" else 0.01))
        return opened[-1]

    monkeypatch.setattr(placement, "open_runtime", open_slow)
    return opened


def json_files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.json"))


def start(package: ModelPackage, folder: Path | Any, **options: Any) -> Placement:
    """Place the package as a worker does when it starts."""
    options = {"runtime": "auto", "device": "cpu", "threads": 1, "max_batch_rows": 64} | options
    return place(package, cache=TimingsCache(folder), **options)


@pytest.fixture
def first(package: ModelPackage, folder: Path, opened: list[SlowRuntime]) -> Placement:
    """The placement of an earlier start, whose timings are in the folder."""
    placement = start(package, folder)
    assert [runtime.name for runtime in opened] == ["onnx", "torchscript"]
    opened.clear()
    return placement


def with_fields(**fields: Any) -> Callable[[str], str]:
    """Return a function that changes these fields of a JSON object."""
    return lambda text: json.dumps(json.loads(text) | fields)


def edit(folder: Path, change: Callable[[str], str]) -> Path:
    """Change the only file of the folder, and return its path."""
    (file,) = folder.iterdir()
    file.write_text(change(file.read_text()))
    return file


def test_a_second_start_opens_the_fastest_runtime_and_computes_two_batches(
    first: Placement, package: ModelPackage, folder: Path, opened: list[SlowRuntime]
) -> None:
    second = start(package, folder)
    assert [runtime.name for runtime in opened] == ["onnx"]
    assert opened[0].batches == [1, 64]
    assert second.runtime is opened[0]
    assert second.seconds == first.seconds
    assert second.most_rows == first.most_rows == 64
    assert (second.limit, second.inline_timings) == (first.limit, first.inline_timings)


def test_a_second_start_computes_no_batch_that_takes_too_long(
    package: ModelPackage, folder: Path, opened: list[SlowRuntime]
) -> None:
    start(package, folder, batch_seconds=0.0015)  # one row takes 2 ms
    opened.clear()
    start(package, folder, batch_seconds=0.0015)
    assert [runtime.batches for runtime in opened] == [[1]]


def test_batches_on_the_event_loop_are_not_timed_again(
    package: ModelPackage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_SMALL_BYTES", 10)  # otherwise one runtime computes all batches
    options: dict[str, Any] = {"runtime": "onnx", "threads": 2, "inline_seconds": 0.01}
    first, second = (start(package, folder, **options) for _ in range(2))
    assert first.inline_timings
    assert second.inline_timings == first.inline_timings
    assert second.inline_runtime is not None
    assert second.rows_within(0.01) == first.rows_within(0.01)


@pytest.mark.parametrize(
    "changed",
    [
        {"threads": 2},
        {"max_batch_rows": 32},
        {"batch_seconds": 0.1},
        {"inline_seconds": 0.001},
        {"runtime": "onnx"},
        {"device": "cuda:0"},
    ],
)
@pytest.mark.usefixtures("first")
def test_timings_under_other_settings_are_not_used(
    changed: dict[str, Any], package: ModelPackage, folder: Path, opened: list[SlowRuntime]
) -> None:
    start(package, folder, **changed)
    assert len(opened[0].batches) > 2


@pytest.mark.parametrize("part", ["_processor", "usable_cores", "_version"])
@pytest.mark.usefixtures("first")
def test_timings_of_another_machine_are_not_used(
    part: str,
    package: ModelPackage,
    folder: Path,
    opened: list[SlowRuntime],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"service.inference.timings_cache.{part}", lambda *_: "another")
    start(package, folder)
    assert [runtime.name for runtime in opened] == ["onnx", "torchscript"]


@pytest.mark.usefixtures("first")
def test_timings_of_another_network_are_not_used(
    folder: Path, tmp_path: Path, opened: list[SlowRuntime]
) -> None:
    start(write_tiny(tmp_path / "others", "line", version="2"), folder)
    assert [runtime.name for runtime in opened] == ["onnx", "torchscript"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-2],
        lambda text: "[]",
        lambda text: "[" * 10_000,
        lambda text: text + " " * 2**20,
        with_fields(runtime="tensorrt"),
        with_fields(seconds={}),
        with_fields(seconds={"onnx": {}}),
        with_fields(seconds={"torchscript": {"1": 0.01}}),
        with_fields(seconds={"onnx": {"0": 0.01}}),
        with_fields(seconds={"onnx": {"1": -1}}),
        with_fields(seconds={"onnx": {"1": float("nan")}}),
        with_fields(seconds={"onnx": {"1": "0.01"}}),
        with_fields(memory_bytes=-1),
        with_fields(memory_bytes=2**60),
        with_fields(limit="none"),
        with_fields(inline_seconds={}),
        with_fields(more=1),
    ],
)
@pytest.mark.usefixtures("first")
def test_a_damaged_file_is_replaced(
    damage: Callable[[str], str], package: ModelPackage, folder: Path, opened: list[SlowRuntime]
) -> None:
    (sound,) = (json.loads(file.read_text()) for file in folder.iterdir())
    file = edit(folder, damage)
    assert start(package, folder).runtime.name == "onnx"
    assert [runtime.name for runtime in opened][-2:] == ["onnx", "torchscript"]
    assert json.loads(file.read_text()).keys() == sound.keys()
    assert list(folder.iterdir()) == [file]


@pytest.mark.usefixtures("first")
def test_a_network_that_is_much_faster_than_recorded_is_timed_again(
    package: ModelPackage, folder: Path
) -> None:
    """The machine was busy when it was timed."""
    edit(folder, with_fields(seconds={"onnx": {"1": 0.1, "64": 0.2}}))
    assert start(package, folder).seconds["onnx"][1] < 0.1


def test_a_runtime_that_fails_is_timed_again_with_the_others(
    package: ModelPackage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = False

    def open_or_fail(package: Any, name: RuntimeName, device: str, threads: int) -> SlowRuntime:
        if fails and name == "onnx":
            raise DeviceError("it is gone")
        return SlowRuntime(name, device, 0.0 if name == "onnx" else 0.01)

    monkeypatch.setattr(placement, "open_runtime", open_or_fail)
    start(package, folder, device="cuda:0")
    fails = True
    placed = start(package, folder, device="cuda:0")
    assert placed.runtime.name == "torchscript"
    assert placed.unused == {"onnx": "it is gone"}
    fails = False
    assert start(package, folder, device="cuda:0").runtime.name == "onnx"


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("kept", [False, True])
def test_larger_batches_are_tried_with_much_more_memory(
    kept: bool,
    package: ModelPackage,
    folder: Path,
    opened: list[SlowRuntime],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = edit(folder, with_fields(limit="memory", memory_bytes=2**20))
    budget = json.loads(file.read_text())["budget_bytes"]
    monkeypatch.setattr(placement, "available_bytes", lambda: budget * (8 if kept else 32))
    start(package, folder)
    assert (len(opened) == 1) == kept


@pytest.mark.parametrize("place_of", ["file", "read-only"])
def test_a_folder_that_cannot_be_written_is_logged_once_and_the_models_serve(
    place_of: str,
    tmp_path: Path,
    logged: Callable[[], list[logging.LogRecord]],
    opened: list[SlowRuntime],
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    folder = {"file": file / "timings", "read-only": Path("/proc/timings")}[place_of]
    cache = TimingsCache(folder)
    for name in ("a", "b"):
        package = write_tiny(tmp_path, name)
        placed = place(package, "auto", "cpu", threads=1, max_batch_rows=1, cache=cache)
        assert placed.runtime.name == "onnx"
    (record,) = logged()
    assert record.levelno == logging.INFO
    assert str(folder) in record.getMessage()


def test_without_a_folder_nothing_is_kept(
    package: ModelPackage, opened: list[SlowRuntime], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    for _ in range(2):
        opened.clear()
        start(package, "off")
        assert len(opened) == 2
    assert not folder.exists()


def test_by_default_the_folder_is_in_the_cache_of_the_user(
    package: ModelPackage, folder: Path, opened: list[SlowRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    start(package, None)
    (file,) = (folder / "fitserve" / "timings").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(folder))
    start(package, None)
    assert len(list((folder / ".cache" / "fitserve" / "timings").iterdir())) == 1


@pytest.mark.parametrize(("options", "files"), [({}, 1), ({"timings_folder": "off"}, 0)])
async def test_a_registry_keeps_timings_unless_the_setting_is_off(
    options: dict[str, Any],
    files: int,
    package: ModelPackage,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    registry = ModelRegistry(Settings(model_repository=package.path.parent.parent, **options))
    await registry.open()
    await registry.close()
    assert len(json_files(folder)) == files
