"""Which models serve: those that were proved, under their names; the others say why not."""

import asyncio
import errno
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Takes, answer, write_tiny

from models.card import RuntimeName, TensorSpec
from models.package import ModelPackage, PackageError
from models.repository import ModelRepository
from models.runtimes import open_runtime
from service import catalog as catalog_module
from service.catalog import Catalog
from service.errors import BadInputError, NotReadyError, UnknownModelError
from service.service import IMAGE, POINT, X
from service.settings import Settings

X_ROWS = np.array([[1], [2.5], [-3]], np.float32)


def serving(root: Path, test: Callable[[Catalog], Awaitable[None]], **settings: Any) -> None:
    """Open the catalog of a folder, run the test on it, and close it."""

    async def run() -> None:
        catalog = Catalog(Settings(**{"model_repository": root, "device": "cpu"} | settings))
        await catalog.open()
        try:
            await test(catalog)
        finally:
            await catalog.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def names(catalog: Catalog) -> list[str]:
    return [predictor.card.name for predictor in catalog]


async def answers_right(catalog: Catalog, name: str) -> None:
    outputs = (await catalog[name].predict({"x": X_ROWS})).outputs
    np.testing.assert_allclose(outputs["y"], answer("x", X_ROWS), atol=1e-5)


def test_every_package_serves_under_its_name_and_answers_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows: dict[Takes, Any] = {
        "x": rng.normal(size=(5, 1)).astype(np.float32),
        "point": rng.normal(size=(5, 2)).astype(np.float32),
        "image": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
    }
    for takes in rows:
        write_tiny(tmp_path, f"takes-{takes}", takes)

    async def test(catalog: Catalog) -> None:
        assert catalog.ready
        assert names(catalog) == ["takes-image", "takes-point", "takes-x"]
        assert catalog.refused == {}
        for takes, sent in rows.items():
            outputs = (await catalog[f"takes-{takes}"].predict({takes: sent})).outputs
            (found,) = outputs.values()
            np.testing.assert_allclose(found, answer(takes, sent), atol=1e-5)

    serving(tmp_path, test)


def test_the_newest_version_serves(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        write_tiny(tmp_path, "line", version=version, runtimes=("onnx",))

    async def test(catalog: Catalog) -> None:
        assert catalog["line"].card.version == "10"

    serving(tmp_path, test)


# Refused packages.


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
def test_a_broken_package_is_refused_with_the_reason_and_the_others_serve(
    damage: Callable[[Path], object], reason: str, tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    write_tiny(tmp_path, "a-line")
    damage(write_tiny(tmp_path, "broken").path)
    write_tiny(tmp_path, "z-line")

    async def test(catalog: Catalog) -> None:
        assert catalog.ready
        assert names(catalog) == ["a-line", "z-line"]
        assert list(catalog.refused) == ["broken"]
        assert catalog.refused["broken"].startswith("package broken")
        assert reason in catalog.refused["broken"]
        (told,) = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert catalog.refused["broken"] in told
        await answers_right(catalog, "a-line")
        await answers_right(catalog, "z-line")
        with pytest.raises(NotReadyError, match="Model 'broken' was refused"):
            catalog["broken"]
        with pytest.raises(NotReadyError):
            catalog.taking("broken", X)

    serving(tmp_path, test)


def test_a_package_that_fails_only_while_it_warms_up_is_refused_too(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "few-rows", runtimes=("onnx",), most_rows=5)

    async def test(catalog: Catalog) -> None:
        assert names(catalog) == ["line"]
        assert catalog.refused["few-rows"].startswith("package few-rows: it cannot be served (")
        await answers_right(catalog, "line")

    serving(tmp_path, test)


def test_a_package_that_does_not_come_to_an_end_of_loading_is_refused_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path, "a-line", runtimes=("onnx",))
    write_tiny(tmp_path, "hangs", runtimes=("onnx",))
    write_tiny(tmp_path, "z-line", runtimes=("onnx",))
    never, read = threading.Event(), ModelPackage.read

    def hangs(path: Path) -> ModelPackage:
        if path.parent.name == "hangs":
            never.wait()  # as on a disk that hangs
        return read(path)

    monkeypatch.setattr(ModelPackage, "read", hangs)

    async def test(catalog: Catalog) -> None:
        assert catalog.ready
        assert names(catalog) == ["a-line", "z-line"]
        assert catalog.refused == {"hangs": "package hangs: it was not loaded within 5 s"}
        with pytest.raises(NotReadyError):
            catalog["hangs"]

    serving(tmp_path, test, max_load_seconds=5)
    never.set()


def test_a_driver_that_hangs_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(catalog_module, "pick_device", lambda *_: never.wait())

    async def run() -> None:
        catalog = Catalog(Settings(model_repository=tmp_path, max_load_seconds=0.2))
        with pytest.raises(TimeoutError, match=r"was found in 0\.2 s"):
            await catalog.open()
        assert not catalog.ready

    asyncio.run(asyncio.wait_for(run(), 10))
    never.set()


def test_a_package_without_the_runtime_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path, "both")
    write_tiny(tmp_path, "onnx-only", runtimes=("onnx",))

    async def test(catalog: Catalog) -> None:
        assert names(catalog) == ["both"]
        assert "runtime=torchscript" in catalog.refused["onnx-only"]

    serving(tmp_path, test, runtime="torchscript")


@pytest.mark.parametrize("content", ["nothing", "no folder", "other things", "only broken"])
def test_without_a_model_the_service_is_never_ready(
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

    async def test(catalog: Catalog) -> None:
        assert not catalog.ready
        assert names(catalog) == []
        assert any(f"no model to serve in {root}" in record.getMessage() for record in logged())
        with pytest.raises(UnknownModelError, match=r"unknown model: 'line' is not found"):
            catalog["line"]

    serving(root, test)


def test_a_folder_that_cannot_be_read_is_refused_and_the_others_serve(
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

    async def test(catalog: Catalog) -> None:
        assert names(catalog) == ["a-line", "z-line"]
        assert catalog.refused == {
            "half": "package half/3: card.json: the file is missing",
            "secret": "package secret: its folder: it cannot be read (Permission denied)",
        }

    serving(tmp_path, test)


def test_a_repository_that_cannot_be_read_is_one_line_in_the_log(
    tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    (tmp_path / "models").touch()

    async def test(catalog: Catalog) -> None:
        assert not catalog.ready
        lines = [record.getMessage() for record in logged() if record.levelname == "ERROR"]
        assert lines == [
            f"the repository {tmp_path}/models: it cannot be read (Not a directory)",
            f"there is no model to serve in {tmp_path}/models",
        ]

    serving(tmp_path / "models", test)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("/srv/secret/x.bin broke"), "it cannot be served (RuntimeError; see the"),
        (OSError(5, "I/O error", "/srv/secret/x"), "it cannot be served (OSError; see the service"),
        (PackageError("line/1", "model.pt", "no /srv/secret/libx.so here"), "no libx.so here"),
        (PackageError("line/1", "model.pt", "no {root}/a b/libx.so"), "no a b/libx.so"),
    ],
)
def test_why_a_package_was_refused_holds_no_path_of_this_machine_and_the_log_does(
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

    monkeypatch.setattr(catalog_module, "place", fail)

    async def test(catalog: Catalog) -> None:
        assert reason in catalog.refused["line"]
        assert "/srv" not in catalog.refused["line"]
        assert str(tmp_path) not in catalog.refused["line"]
        (record, _) = [record for record in logged() if record.levelname == "ERROR"]
        assert f"in {root}/line" in record.getMessage()
        told = record.getMessage() + str(record.exc_info)
        assert str(error.args[-1]) in told

    serving(root, test)


# Which model a request means.


def test_an_unknown_model_is_told_which_there_are(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "sides", "point")

    async def test(catalog: Catalog) -> None:
        with pytest.raises(UnknownModelError) as unknown:
            catalog["lines"]
        assert str(unknown.value) == (
            "Request for unknown model: 'lines' is not found; GET /models has the others."
        )
        for name in ("", "line/1", "../line", "LINE", "line\n", "x" * 10_000):
            with pytest.raises(UnknownModelError) as unknown:
                catalog.taking(name, X)
            assert len(str(unknown.value)) < 200

    serving(tmp_path, test)


def test_a_model_of_the_wrong_kind_is_told_which_fit(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "line-2")
    write_tiny(tmp_path, "sides", "point")

    async def test(catalog: Catalog) -> None:
        assert catalog.taking("line", X).card.name == "line"
        assert catalog.taking("sides", POINT).card.name == "sides"
        with pytest.raises(BadInputError) as wrong:
            catalog.taking("sides", X)
        assert str(wrong.value) == (
            "Model 'sides' does not take x (FP32 [-1, 1]); these do: line, line-2."
        )
        with pytest.raises(BadInputError, match=r"take image \(UINT8 .*\); these do: none\."):
            catalog.taking("line", IMAGE)

    serving(tmp_path, test)


@pytest.mark.parametrize(
    "change", [{"name": "z"}, {"datatype": "FP64"}, {"shape": (-1,)}, {"shape": (-1, 2)}]
)
def test_a_model_fits_by_name_datatype_and_shape(change: dict[str, Any], tmp_path: Path) -> None:
    write_tiny(tmp_path, "line", runtimes=("onnx",))
    wanted = TensorSpec(**(asdict(X) | change))

    async def test(catalog: Catalog) -> None:
        with pytest.raises(BadInputError):
            catalog.taking("line", wanted)

    serving(tmp_path, test)


# Opening and closing.


def test_it_is_not_ready_until_the_last_model_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path, "a-line", runtimes=("onnx",))
    write_tiny(tmp_path, "z-line", runtimes=("onnx",))
    reached, go_on = threading.Event(), threading.Event()
    place = catalog_module.place

    def slow_place(package: Any, *arguments: Any, **options: Any) -> Any:
        if package.card.name == "z-line":
            reached.set()
            assert go_on.wait(30)
        return place(package, *arguments, **options)

    monkeypatch.setattr(catalog_module, "place", slow_place)

    async def run() -> None:
        catalog = Catalog(Settings(model_repository=tmp_path, device="cpu"))
        assert not catalog.ready
        with pytest.raises(NotReadyError, match="being loaded; try again"):
            catalog["a-line"]
        opening = asyncio.create_task(catalog.open())
        await asyncio.to_thread(reached.wait)  # the event loop is free while a model is loaded
        assert not catalog.ready
        with pytest.raises(NotReadyError, match="being loaded; try again"):
            catalog["z-line"]
        go_on.set()
        await opening
        assert catalog.ready
        await answers_right(catalog, "z-line")
        await catalog.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_closing_answers_what_is_queued_and_takes_no_more(tmp_path: Path) -> None:
    write_tiny(tmp_path, "line")
    write_tiny(tmp_path, "sides", "point")

    async def test(catalog: Catalog) -> None:
        line, sides = catalog["line"], catalog["sides"]
        pending = [asyncio.create_task(line.predict({"x": X_ROWS + n})) for n in range(50)]
        points = np.array([[1, 2]], np.float32)
        pending += [asyncio.create_task(sides.predict({"point": points})) for _ in range(50)]
        await asyncio.sleep(0)
        await catalog.close()
        assert not catalog.ready
        for n, done in enumerate(pending):
            assert done.done()
            right = answer("x", X_ROWS + n) if n < 50 else answer("point", points)
            (found,) = done.result().outputs.values()
            np.testing.assert_allclose(found, right, atol=1e-5)
        for predictor, inputs in ((line, {"x": X_ROWS}), (sides, {"point": points})):
            with pytest.raises(NotReadyError, match="shutting down"):
                await predictor.predict(inputs)

    serving(tmp_path, test, max_batch_rows=2)


def test_closing_a_catalog_without_models_is_no_fault(tmp_path: Path) -> None:
    async def run() -> None:
        catalog = Catalog(Settings(model_repository=tmp_path))
        await catalog.close()

    asyncio.run(run())


def test_a_description_is_the_card_with_how_it_is_served(tmp_path: Path) -> None:
    package = write_tiny(tmp_path, "line")

    async def test(catalog: Catalog) -> None:
        described = json.loads(catalog.description("line").full)
        served = described.pop("serving")
        assert described == package.card.model_dump(mode="json")
        assert served["runtime"] in ("onnx", "torchscript")
        assert served["device"] == "cpu"
        assert set(served["seconds_by_batch_rows"]) == {"onnx", "torchscript"}
        for timings in served["seconds_by_batch_rows"].values():
            assert list(timings) == ["1", "16", "64"]
            assert all(seconds > 0 for seconds in timings.values())

    serving(tmp_path, test, max_batch_rows=64)


# The shipped packages, and a GPU.


def test_every_shipped_package_serves(shipped: Path, tmp_path: Path) -> None:
    async def test(catalog: Catalog) -> None:
        assert catalog.refused == {}
        assert len(names(catalog)) >= 7

    shutil.copytree(shipped, tmp_path / "models")
    serving(tmp_path / "models", test, max_batch_rows=16)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_on_a_gpu_every_shipped_package_answers_as_on_the_cpu(
    runtime: RuntimeName, shipped: Path
) -> None:
    rng = np.random.default_rng(2)

    async def test(catalog: Catalog) -> None:
        assert catalog.refused == {}
        for predictor in catalog:
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
                found = (await predictor.predict({spec.name: sent})).outputs
                for name, wanted in on_cpu({spec.name: sent}).items():
                    np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-3)

    serving(shipped, test, device="auto", runtime=runtime)


@pytest.mark.gpu
def test_on_a_gpu_auto_takes_a_runtime_for_each_package(shipped: Path) -> None:
    async def test(catalog: Catalog) -> None:
        assert catalog.refused == {}
        for predictor in catalog:
            assert set(predictor.placement.seconds) == {"onnx", "torchscript"}
            assert predictor.placement.runtime.device == "cuda:0"

    serving(shipped, test, device="auto")
