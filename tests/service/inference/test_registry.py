"""The registry: verified packages serve by name, and the others have a reason."""

import asyncio
import errno
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Takes, answer, write_tiny

from models.kinds.tensor_spec import TensorSpec
from models.package.card import RuntimeName
from models.package.interfaces import IMAGE, POINT, X
from models.package.model_package import ModelPackage, PackageError
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime
from service.errors import BadInputError, NotReadyError, UnknownModelError
from service.inference import loader, placement
from service.inference import registry as registry_module
from service.inference.placement import place
from service.inference.registry import ModelRegistry
from service.settings import Settings

pytestmark = pytest.mark.timeout(60)  # a longer test hangs

X_ROWS = np.array([[1], [2.5], [-3]], np.float32)


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[ModelRegistry]:
    """Open the registry of a folder; close it at the end of the block."""
    registry = ModelRegistry(Settings(**{"model_repository": root, "device": "cpu"} | settings))
    await registry.open()
    try:
        yield registry
    finally:
        await registry.close()


def names(registry: ModelRegistry) -> list[str]:
    return [predictor.card.name for predictor in registry]


async def predicts_correctly(registry: ModelRegistry, name: str) -> None:
    outputs = (await registry[name].predict({"x": X_ROWS})).outputs
    np.testing.assert_allclose(outputs["y"], answer("x", X_ROWS), atol=1e-5)


async def test_every_package_serves_by_its_name_and_predicts_correctly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows: dict[Takes, Any] = {
        "x": rng.normal(size=(5, 1)).astype(np.float32),
        "point": rng.normal(size=(5, 2)).astype(np.float32),
        "image": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
    }
    for takes in rows:
        write_tiny(tmp_path, f"takes-{takes}", takes)

    async with serving(tmp_path) as registry:
        assert registry.ready
        assert names(registry) == ["takes-image", "takes-point", "takes-x"]
        assert registry.unavailable == {}
        for takes, sent in rows.items():
            outputs = (await registry[f"takes-{takes}"].predict({takes: sent})).outputs
            (found,) = outputs.values()
            np.testing.assert_allclose(found, answer(takes, sent), atol=1e-5)


async def test_the_newest_version_serves(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        write_tiny(tmp_path, "line", version=version, runtimes=("onnx",))

    async with serving(tmp_path) as registry:
        assert registry["line"].card.version == "10"


# Unavailable packages.


def edit_card(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((path / "card.json").read_text())
    change(card)
    (path / "card.json").write_text(json.dumps(card))


def flip_byte(path: Path, file: str) -> None:
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)


def truncate(path: Path, file: str, lost: int = 1) -> None:
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[:-lost])


def _other_answer(card: dict[str, Any]) -> None:
    card["example"]["outputs"]["y"]["data"] = [7.1]


def _no_output(card: dict[str, Any]) -> None:
    card["example"]["outputs"] = {}


def _other_shape(card: dict[str, Any]) -> None:
    card["inputs"][0]["shape"] = [-1, 2]


def _other_schema(card: dict[str, Any]) -> None:
    card["schema_version"] = 2


def _no_files(card: dict[str, Any]) -> None:
    card["files"] = {}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (lambda path: flip_byte(path, "model.onnx"), "model.onnx: its SHA-256"),
    "a truncated file": (lambda path: truncate(path, "model.pt"), "model.pt: it holds"),
    "a missing file": (lambda path: (path / "model.pt").unlink(), "model.pt: it cannot be read"),
    "a changed page": (lambda path: flip_byte(path, "README.md"), "README.md: its SHA-256"),
    "no card": (lambda path: (path / "card.json").unlink(), "card.json: the file is missing"),
    "no JSON": (lambda path: truncate(path, "card.json", 2), "card.json: it is not"),
    "an unknown schema": (lambda path: edit_card(path, _other_schema), "schema version 2"),
    "another graph": (lambda path: edit_card(path, _other_shape), "the card says FP32 [-1, 2]"),
    "another answer": (lambda path: edit_card(path, _other_answer), "y differs from the recorded"),
    "half an example": (lambda path: edit_card(path, _no_output), "y"),
    "no model": (lambda path: edit_card(path, _no_files), "neither model.onnx nor model.pt"),
    "another name": (lambda path: path.rename(path.parent / "2"), "it belongs to broken/1"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=list(DAMAGES))
async def test_a_broken_package_is_unavailable_with_the_reason_and_the_others_serve(
    damage: Callable[[Path], object], reason: str, tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    write_tiny(tmp_path, "a-line")
    damage(write_tiny(tmp_path, "broken").path)
    write_tiny(tmp_path, "z-line")

    async with serving(tmp_path) as registry:
        assert registry.ready
        assert names(registry) == ["a-line", "z-line"]
        assert list(registry.unavailable) == ["broken"]
        assert registry.unavailable["broken"].startswith("package broken")
        assert reason in registry.unavailable["broken"]
        (message,) = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert registry.unavailable["broken"] in message
        await predicts_correctly(registry, "a-line")
        await predicts_correctly(registry, "z-line")
        with pytest.raises(NotReadyError, match="Model 'broken' is unavailable"):
            registry["broken"]
        with pytest.raises(NotReadyError):
            registry.accepting("broken", X)


async def test_a_package_that_fails_during_warm_up_is_unavailable(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "few-rows", runtimes=("onnx",), most_rows=5)

    async with serving(tmp_path) as registry:
        assert names(registry) == ["line"]
        assert registry.unavailable["few-rows"].startswith(
            "package few-rows: it cannot be served ("
        )
        await predicts_correctly(registry, "line")


@pytest.mark.slow
async def test_a_package_whose_load_hangs_is_unavailable_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path, "a-line", runtimes=("onnx",))
    write_tiny(tmp_path, "hangs", runtimes=("onnx",))
    write_tiny(tmp_path, "z-line", runtimes=("onnx",))
    never, read = threading.Event(), ModelPackage.read

    def hangs(path: Path) -> ModelPackage:
        if path.parent.name == "hangs":
            never.wait()  # as on a hung disk
        return read(path)

    monkeypatch.setattr(ModelPackage, "read", hangs)

    async with serving(tmp_path, max_load_seconds=5) as registry:
        assert registry.ready
        assert names(registry) == ["a-line", "z-line"]
        assert registry.unavailable == {"hangs": "package hangs: it was not loaded within 5 s"}
        with pytest.raises(NotReadyError):
            registry["hangs"]
    never.set()


@pytest.mark.timeout(10)
async def test_a_hung_driver_fails_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(registry_module, "pick_device", lambda *_: never.wait())

    registry = ModelRegistry(Settings(model_repository=tmp_path, max_load_seconds=0.2))
    with pytest.raises(TimeoutError, match=r"could not be listed within 0\.2 s"):
        await registry.open()
    assert not registry.ready
    never.set()


async def test_a_package_without_the_configured_runtime_is_unavailable(tmp_path: Path) -> None:
    write_tiny(tmp_path, "both")
    write_tiny(tmp_path, "onnx-only", runtimes=("onnx",))

    async with serving(tmp_path, runtime="torchscript") as registry:
        assert names(registry) == ["both"]
        assert "runtime=torchscript" in registry.unavailable["onnx-only"]


@pytest.mark.parametrize("content", ["nothing", "no folder", "other things", "only broken"])
async def test_without_a_model_the_service_is_never_ready(
    content: str, tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    root = tmp_path / "models"
    if content != "no folder":
        root.mkdir()
    if content == "other things":
        (root / "__pycache__").mkdir()
        (root / "notes.txt").write_text("x")
        (root / "line" / "draft").mkdir(parents=True)
    if content == "only broken":
        flip_byte(write_tiny(root, "broken").path, "model.onnx")

    async with serving(root) as registry:
        assert not registry.ready
        assert names(registry) == []
        assert any(f"no model to serve in {root}" in record.getMessage() for record in logged())
        with pytest.raises(UnknownModelError, match=r"unknown model: 'line' is not found"):
            registry["line"]


async def test_an_unreadable_folder_is_unavailable_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-line", "secret", "z-line"):
        write_tiny(tmp_path, name, runtimes=("onnx",))
    write_tiny(tmp_path, "half", version="2", runtimes=("onnx",))
    iterdir, is_dir = Path.iterdir, Path.is_dir

    def closed(path: Path, real: Callable[[Path], Any]) -> Any:
        if path in (tmp_path / "secret", tmp_path / "half" / "3"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    (tmp_path / "half" / "3").mkdir()
    monkeypatch.setattr(Path, "iterdir", lambda path: closed(path, iterdir))
    monkeypatch.setattr(Path, "is_dir", lambda path: closed(path, is_dir))

    async with serving(tmp_path) as registry:
        assert names(registry) == ["a-line", "z-line"]
        assert registry.unavailable == {
            "half": "package half/3: card.json: the file is missing",
            "secret": "package secret: its folder: it cannot be read (Permission denied)",
        }


async def test_an_unreadable_repository_is_one_line_in_the_log(
    tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    (tmp_path / "models").touch()

    async with serving(tmp_path / "models") as registry:
        assert not registry.ready
        lines = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert lines == [
            f"the repository {tmp_path}/models: it cannot be read (Not a directory)",
            f"there is no model to serve in {tmp_path}/models",
        ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("/srv/secret/x.bin broke"), "it cannot be served (RuntimeError; see the"),
        (OSError(5, "I/O error", "/srv/secret/x"), "it cannot be served (OSError; see the service"),
        (PackageError("line/1", "model.pt", "no /srv/secret/libx.so here"), "no libx.so here"),
        (PackageError("line/1", "model.pt", "no {root}/a b/libx.so"), "no a b/libx.so"),
    ],
)
async def test_the_reason_has_no_path_of_this_machine_but_the_log_does(
    error: Exception,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[Any]],
) -> None:
    root = tmp_path / "my models"
    write_tiny(root, "line", runtimes=("onnx",))
    if isinstance(error, PackageError):
        error = PackageError("line/1", "model.pt", error.reason.replace("{root}", str(root)))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loader, "place", fail)

    async with serving(root) as registry:
        assert reason in registry.unavailable["line"]
        assert "/srv" not in registry.unavailable["line"]
        assert str(tmp_path) not in registry.unavailable["line"]
        (record, _) = [record for record in logged() if record.levelname == "ERROR"]
        assert f"in {root}/line" in record.getMessage()
        message = record.getMessage() + str(record.exc_info)
        assert str(error.args[-1]) in message


# Models by name.


async def test_an_unknown_model_is_an_error_that_says_where_the_others_are(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "sides", "point")

    async with serving(tmp_path) as registry:
        with pytest.raises(UnknownModelError) as unknown:
            registry["lines"]
        assert str(unknown.value) == (
            "Request for unknown model: 'lines' is not found; GET /models has the others."
        )
        for name in ("", "line/1", "../line", "LINE", "line\n", "x" * 10_000):
            with pytest.raises(UnknownModelError) as unknown:
                registry.accepting(name, X)
            assert len(str(unknown.value)) < 200


async def test_a_model_with_other_inputs_is_an_error_that_names_the_suitable_ones(
    tmp_path: Path,
) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "line-2")
    write_tiny(tmp_path, "sides", "point")

    async with serving(tmp_path) as registry:
        assert registry.accepting("line", X).card.name == "line"
        assert registry.accepting("sides", POINT).card.name == "sides"
        with pytest.raises(BadInputError) as wrong:
            registry.accepting("sides", X)
        assert str(wrong.value) == (
            "Model 'sides' does not take x (FP32 [-1, 1]); these do: line, line-2."
        )
        with pytest.raises(BadInputError, match=r"take image \(UINT8 .*\); these do: none\."):
            registry.accepting("line", IMAGE)


@pytest.mark.parametrize(
    "change", [{"name": "z"}, {"datatype": "FP64"}, {"shape": (-1,)}, {"shape": (-1, 2)}]
)
async def test_a_model_fits_by_name_datatype_and_shape(
    change: dict[str, Any], tmp_path: Path
) -> None:
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    expected = TensorSpec(**(asdict(X) | change))

    async with serving(tmp_path) as registry:
        with pytest.raises(BadInputError):
            registry.accepting("line", expected)


# Opening and closing.


async def test_the_registry_is_not_ready_until_the_last_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path, "a-line", runtimes=("onnx",))
    write_tiny(tmp_path, "z-line", runtimes=("onnx",))
    reached, go_on = threading.Event(), threading.Event()
    place = loader.place

    def slow_place(package: Any, *arguments: Any, **options: Any) -> Any:
        if package.card.name == "z-line":
            reached.set()
            assert go_on.wait(30)
        return place(package, *arguments, **options)

    monkeypatch.setattr(loader, "place", slow_place)

    registry = ModelRegistry(Settings(model_repository=tmp_path, device="cpu"))
    assert not registry.ready
    with pytest.raises(NotReadyError, match="being loaded; try again"):
        registry["a-line"]
    opening = asyncio.create_task(registry.open())
    await asyncio.to_thread(reached.wait)  # the event loop is free while a model loads
    assert not registry.ready
    with pytest.raises(NotReadyError, match="being loaded; try again"):
        registry["z-line"]
    go_on.set()
    await opening
    assert registry.ready
    await predicts_correctly(registry, "z-line")
    await registry.close()


async def test_a_model_serves_while_another_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-line", "z-line"):
        write_tiny(tmp_path, name, runtimes=("onnx",))
    async with serving(tmp_path):
        pass  # the networks are timed
    go_on = threading.Event()
    place = loader.place

    def slow_place(package: Any, *arguments: Any, **options: Any) -> Any:
        assert package.card.name == "a-line" or go_on.wait(30)
        return place(package, *arguments, **options)

    monkeypatch.setattr(loader, "place", slow_place)
    registry = ModelRegistry(Settings(model_repository=tmp_path, device="cpu"))
    opening = asyncio.create_task(registry.open())
    while not names(registry):  # noqa: ASYNC110 - the condition changes on another thread
        await asyncio.sleep(0.01)
    await predicts_correctly(registry, "a-line")
    assert (names(registry), registry.loading, registry.ready) == (["a-line"], ["z-line"], False)
    with pytest.raises(NotReadyError, match="Model 'z-line' is being loaded; try again"):
        registry["z-line"]
    with pytest.raises(UnknownModelError):
        registry["other"]
    go_on.set()
    await opening
    assert (names(registry), registry.loading, registry.ready) == (["a-line", "z-line"], [], True)
    await registry.close()


async def test_networks_that_were_timed_before_are_loaded_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-line", "z-line"):
        write_tiny(tmp_path, name, runtimes=("onnx",))
    async with serving(tmp_path, intra_op_threads=2):
        pass
    barrier = threading.Barrier(2)

    def open_together(*arguments: Any) -> Any:
        barrier.wait(30)  # the other one is being opened, too
        return open_runtime(*arguments)

    monkeypatch.setattr(placement, "open_runtime", open_together)
    async with serving(tmp_path, intra_op_threads=2) as registry:
        assert names(registry) == ["a-line", "z-line"]
        assert registry.unavailable == {}


async def test_networks_are_timed_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timings of one would be those of a busy machine otherwise."""
    for number in range(4):
        write_tiny(tmp_path, f"line-{number}", runtimes=("onnx",))
    warm_up, timed, peak = placement.warm_up, 0, 0

    def counted(*arguments: Any) -> Any:
        nonlocal timed, peak
        timed += 1
        peak = max(peak, timed)
        time.sleep(0.01)
        timings = warm_up(*arguments)
        timed -= 1
        return timings

    monkeypatch.setattr(placement, "warm_up", counted)
    async with serving(tmp_path, intra_op_threads=4) as registry:
        assert len(names(registry)) == 4
    assert peak == 1


async def test_closing_completes_the_queues_and_refuses_new_requests(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "sides", "point")

    async with serving(tmp_path, max_batch_rows=2) as registry:
        line, sides = registry["line"], registry["sides"]
        pending = [asyncio.create_task(line.predict({"x": X_ROWS + n})) for n in range(50)]
        points = np.array([[1, 2]], np.float32)
        pending += [asyncio.create_task(sides.predict({"point": points})) for _ in range(50)]
        await asyncio.sleep(0)
        await registry.close()
        assert not registry.ready
        for n, done in enumerate(pending):
            assert done.done()
            right = answer("x", X_ROWS + n) if n < 50 else answer("point", points)
            (found,) = done.result().outputs.values()
            np.testing.assert_allclose(found, right, atol=1e-5)
        for predictor, inputs in ((line, {"x": X_ROWS}), (sides, {"point": points})):
            with pytest.raises(NotReadyError, match="shutting down"):
                await predictor.predict(inputs)


async def test_closing_a_registry_without_models_works(tmp_path: Path) -> None:
    registry = ModelRegistry(Settings(model_repository=tmp_path))
    await registry.close()


async def test_a_description_is_the_card_with_its_placement(tmp_path: Path) -> None:
    package = write_tiny(tmp_path, "line")

    async with serving(tmp_path, max_batch_rows=64, inline_seconds=0) as registry:
        described = json.loads(registry.description("line").full)
        served = described.pop("serving")
        assert described == package.card.model_dump(mode="json")
        assert served["runtime"] in ("onnx", "torchscript")
        assert served["device"] == "cpu"
        assert set(served["seconds_by_batch_rows"]) == {"onnx", "torchscript"}
        for timings in served["seconds_by_batch_rows"].values():
            assert list(timings)[:2] == ["1", "2"]
            assert all(seconds > 0 for seconds in timings.values())


@pytest.mark.parametrize(("queue_seconds", "batch_seconds"), [(1.0, 0.125), (4.0, 0.5), (80, 1.0)])
async def test_the_warm_up_runs_no_batches_that_take_longer_than_those_that_serve(
    queue_seconds: float, batch_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        delays.append(options["batch_seconds"])
        return place(*arguments, **options)

    monkeypatch.setattr("service.inference.loader.place", noted)
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    async with serving(tmp_path, max_queue_seconds=queue_seconds):
        assert set(delays) == {batch_seconds}


# The shipped packages, and a GPU.


@pytest.mark.slow
async def test_every_shipped_package_serves(shipped: Path, tmp_path: Path) -> None:
    shutil.copytree(shipped, tmp_path / "models")
    async with serving(tmp_path / "models", max_batch_rows=16) as registry:
        assert registry.unavailable == {}
        assert len(names(registry)) >= 7


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
async def test_on_a_gpu_every_shipped_package_predicts_as_on_the_cpu(
    runtime: RuntimeName, shipped: Path
) -> None:
    rng = np.random.default_rng(2)

    async with serving(shipped, device="auto", runtime=runtime) as registry:
        assert registry.unavailable == {}
        for predictor in registry:
            assert predictor.placement.runtime.name == runtime
            assert predictor.placement.runtime.device == "cuda:0"
            (spec,) = predictor.card.inputs
            on_cpu = open_runtime(ModelRepository(shipped).get(predictor.card.name), runtime)
            for rows in (1, 7, 256):
                shape = (rows, *spec.shape[1:])
                sent = (
                    rng.integers(0, 256, shape, dtype=np.uint8)
                    if spec.name == "image"
                    else rng.uniform(-1, 20, shape).astype(np.float32)
                )
                outputs = (await predictor.predict({spec.name: sent})).outputs
                for name, expected in on_cpu({spec.name: sent}).items():
                    np.testing.assert_allclose(outputs[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
async def test_on_a_gpu_auto_finds_a_runtime_for_each_package(shipped: Path) -> None:
    async with serving(shipped, device="auto") as registry:
        assert registry.unavailable == {}
        for predictor in registry:
            assert set(predictor.placement.seconds) == {"onnx", "torchscript"}
            assert predictor.placement.runtime.device == "cuda:0"
