"""Packages: invalid ones are refused with the file's name; writing is atomic."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small_packages import CardJson, Kit, edit_card, property_test, snapshot

import models.package.model_package
from models.package.card import ModelCard
from models.package.model_package import ModelPackage, PackageError, write_package
from models.package.readme import render_page
from models.package.repository import ModelRepository

FILES = ["model.onnx", "model.pt", "report/loss-curves.png", "README.md"]


@contextmanager
def refused(label: str, file: str | None, reason: str) -> Iterator[None]:
    """Check that the block raises a PackageError with this package, file and reason."""
    with pytest.raises(PackageError) as caught:
        yield
    assert (caught.value.package, caught.value.file) == (label, file)
    assert reason in caught.value.reason
    location = f"package {label}" if file is None else f"package {label}: {file}"
    assert str(caught.value) == f"{location}: {caught.value.reason}"
    assert "\n" not in str(caught.value)


# Reading.


@pytest.mark.parametrize("name", ["blot", "bend"])
def test_a_written_package_can_be_read_and_verified(
    name: str, kits: Mapping[str, Kit], repository: ModelRepository
) -> None:
    kit = kits[name]
    package = ModelPackage.read(repository.root / name / "1")
    package.verify()
    assert package.label == f"{name}/1"
    assert package.card.model_copy(update={"files": {}}) == kit.card
    assert package.card.files.keys() == kit.files.keys() | {"README.md"}
    for file, content in kit.files.items():
        assert package.load(file) == content
        assert (package.path / file).read_bytes() == content
    page = package.load("README.md").decode()
    assert page == render_page(_without_page(package.card))


def _without_page(card: ModelCard) -> ModelCard:
    files = {file: record for file, record in card.files.items() if file != "README.md"}
    return card.model_copy(update={"files": files})


def test_a_package_can_be_read_by_a_relative_path(
    blot: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(blot.path.parent.parent)
    assert ModelPackage.read(Path("blot/1")).label == "blot/1"


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_one_changed_byte_is_refused(file: str, blot: ModelPackage) -> None:
    path = blot.path / file
    original = path.read_bytes()

    @property_test
    @given(st.integers(0, len(original) - 1), st.integers(1, 255))
    def check(position: int, change: int) -> None:
        changed = bytearray(original)
        changed[position] ^= change
        path.write_bytes(changed)
        with refused("blot/1", file, "its SHA-256 is not the card's"):
            blot.verify()
        with refused("blot/1", file, "its SHA-256 is not the card's"):
            blot.load(file)

    check()
    path.write_bytes(original)
    blot.verify()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes where the card says"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\n"), "bytes where the card says"),
        (lambda path: path.write_bytes(b""), "it holds 0 bytes where the card says"),
        (lambda path: path.write_bytes(path.read_bytes()[::-1]), "SHA-256"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "it is a folder"),
    ],
    ids=["truncated", "longer", "empty", "same size", "missing", "a folder"],
)
def test_a_changed_or_missing_file_is_refused_by_name(
    spoil: Callable[[Path], object], reason: str, file: str, blot: ModelPackage
) -> None:
    spoil(blot.path / file)
    with refused("blot/1", file, reason):
        blot.verify()


@pytest.mark.parametrize("file", ["model.bin", "card.json", "../1/model.onnx", "", "/etc/hostname"])
def test_a_file_that_the_card_does_not_list_is_not_loaded(file: str, blot: ModelPackage) -> None:
    with refused("blot/1", file, "the card lists no such file"):
        blot.load(file)


def _list_file(name: str, record: dict[str, Any], card: CardJson) -> None:
    card["files"][name] = record


@pytest.mark.slow
def test_other_files_have_a_size_limit_and_verifying_needs_little_memory(
    blot: ModelPackage,
) -> None:
    large = 100 * 2**20
    for name, reason in (("model.pt", None), ("report/big.png", "may have 67,108,864")):
        with (blot.path / name).open("wb") as stream:
            stream.truncate(large)
        with (blot.path / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        record = {"sha256": digest, "bytes": large}
        edit_card(blot, partial(_list_file, name, record))
        package = ModelPackage.read(blot.path)
        tracemalloc.start()
        if reason is None:
            package.verify()
        else:
            with pytest.raises(PackageError, match=reason):
                package.verify()
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
        tracemalloc.stop()


def test_a_package_without_a_model_file_is_refused(blot: ModelPackage) -> None:
    def edit(card: CardJson) -> None:
        del card["files"]["model.onnx"], card["files"]["model.pt"]

    package = ModelPackage.read(edit_card(blot, edit))
    with refused("blot/1", "card.json", "neither model.onnx nor model.pt"):
        package.verify()


# The card.


def test_a_missing_card_is_refused(blot: ModelPackage) -> None:
    (blot.path / "card.json").unlink()
    with refused("blot/1", "card.json", "the file is missing"):
        ModelPackage.read(blot.path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not readable JSON"),
        (b"name: blot", "not readable JSON"),
        (b'{"schema_version": 1', "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b'{"a": ' * 100_000, "not readable JSON"),
        ('{"name": "café"}'.encode("latin-1"), "byte 13 is not UTF-8: save it as UTF-8"),
        (b'{"schema_version": 1, "name": "blot", "name": "bend"}', "'name' is repeated"),
        (b'{"schema_version": NaN}', "NaN is no number of JSON"),
        (b'{"schema_version": 1, "limits": [-Infinity]}', "-Infinity is no number of JSON"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b'{"schema_version": "' + b"9" * 5000 + b'"}', "schema version '999"),
        (b"[]", "schema version None is unknown"),
        (b"null", "schema version None is unknown"),
        (b"1", "schema version None is unknown"),
        (b'"card"', "schema version None is unknown"),
        (b"{}", "schema version None is unknown"),
        (b'{"schema_version": 1}', "name: Field required"),
    ],
)
def test_an_invalid_card_is_refused_with_the_reason(
    content: bytes, reason: str, blot: ModelPackage
) -> None:
    (blot.path / "card.json").write_bytes(content)
    with refused("blot/1", "card.json", reason):
        ModelPackage.read(blot.path)


def test_a_folder_in_place_of_the_card_is_refused(blot: ModelPackage) -> None:
    (blot.path / "card.json").unlink()
    (blot.path / "card.json").mkdir()
    with refused("blot/1", "card.json", "it is a folder"):
        ModelPackage.read(blot.path)


def test_reading_a_card_of_arbitrary_bytes_raises_a_package_error(
    blot: ModelPackage,
) -> None:
    path = blot.path / "card.json"
    original = path.read_bytes()
    cuts = st.integers(0, len(original) - 2).map(lambda size: original[:size])

    @property_test
    @given(st.binary(max_size=50) | cuts)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(PackageError, match=r"^package blot/1: card\.json: "):
            ModelPackage.read(blot.path)

    check()


@pytest.mark.parametrize("schema", [2, 0, "1", None, [1], {"major": 1}])
def test_a_card_of_another_schema_version_is_refused_with_both_versions(
    schema: object, blot: ModelPackage
) -> None:
    edit_card(blot, lambda card: card.update(schema_version=schema))
    reason = f"schema version {schema!r} is unknown; this release reads 1"
    with refused("blot/1", "card.json", reason):
        ModelPackage.read(blot.path)


def test_a_card_without_a_schema_version_is_refused(blot: ModelPackage) -> None:
    edit_card(blot, lambda card: card.pop("schema_version"))
    with refused("blot/1", "card.json", "schema version None is unknown"):
        ModelPackage.read(blot.path)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda card: card.update(surprise=1), "surprise: Extra inputs are not permitted"),
        (lambda card: card.update(summary="\ud800"), "it holds half a surrogate pair"),
        (lambda card: card["files"].update({"\ud800": {}}), "it holds half a surrogate pair"),
        (lambda card: card.update(name="x" * 5000), "xxx…"),
        (lambda card: card["inputs"][0].update(shape=[-1, 10**30]), "image is UINT8"),
        (lambda card: card["example"]["inputs"]["image"].update(shape=[10**30]), "example.inputs"),
        (lambda card: card["example"]["outputs"]["probabilities"]["data"].append(10**400), "exam"),
        (lambda card: card["fit"]["data"].update(source=1), "fit.data.source: Extra inputs"),
        (lambda card: card.pop("example"), "example: Field required"),
        (lambda card: card.update(task="translation"), "task: Input should be 'classification'"),
        (lambda card: card.update(inputs=[]), "inputs: Tuple should have at least 1 item"),
        (lambda card: card["inputs"][0].update(datatype="STRING"), "inputs.0.datatype: "),
        (
            lambda card: card["files"]["model.pt"].update(sha256="ABC"),
            "files.model.pt.sha256: ",
        ),
        (
            lambda card: card["example"]["inputs"]["image"]["data"].pop(),
            "example.inputs.image: the values are no UINT8 [2, 4, 4]",
        ),
        (
            lambda card: card["outputs"][0].update(shape=[-1, 10]),
            "probabilities is FP32 [2, 3] in the example; the card says FP32 [-1, 10]",
        ),
    ],
)
def test_an_invalid_field_is_refused_with_its_path_in_the_card(
    edit: Callable[[CardJson], object], reason: str, blot: ModelPackage
) -> None:
    edit_card(blot, edit)
    with refused("blot/1", "card.json", reason):
        ModelPackage.read(blot.path)


def test_a_card_may_hold_a_surrogate_pair(blot: ModelPackage) -> None:
    edit_card(blot, lambda card: card.update(summary="\N{GRINNING FACE}"))
    assert "\\ud83d\\ude00" in (blot.path / "card.json").read_text()
    assert ModelPackage.read(blot.path).card.summary == "\N{GRINNING FACE}"


@pytest.mark.parametrize(("name", "version"), [("blob", "1"), ("blot", "2"), ("Blot", "1")])
def test_a_card_in_the_folder_of_another_package_is_refused(
    name: str, version: str, blot: ModelPackage
) -> None:
    other = blot.path.parent.parent / name / version
    other.parent.mkdir(exist_ok=True)
    blot.path.rename(other)
    with refused(f"{name}/{version}", "card.json", "it belongs to blot/1"):
        ModelPackage.read(other)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../blot", "/blot", "a/b", "a\\b", ".hidden", "a b", "a\n", "é", "a.b"]
)
def test_a_card_with_an_invalid_name_is_refused(
    name: str, kits: Mapping[str, Kit], blot: ModelPackage
) -> None:
    edit_card(blot, lambda card: card.update(name=name))
    with refused("blot/1", "card.json", f"name: the name {name!r} must be"):
        ModelPackage.read(blot.path)


@pytest.mark.parametrize(
    "version", ["", "0", "01", "1.0", "-1", "+1", "v1", "1/..", "1\n", "²", "\u0661"]
)
def test_a_card_with_an_invalid_version_is_refused(version: str, blot: ModelPackage) -> None:
    edit_card(blot, lambda card: card.update(version=version))
    with refused("blot/1", "card.json", f"version: the version {version!r} must be"):
        ModelPackage.read(blot.path)


@pytest.mark.parametrize(
    "name",
    [
        "../secret", "../../secret", "report/../../secret", "report/..", "..", ".", "./model.onnx",
        "/etc/hostname", "//model.onnx", "report//loss.png", "report/", "/", "", "..\\secret",
        "report\\loss.png", "C:\\secret", "C:secret", "a b", "model.onnx\n", "\x00", ".env",
    ],
)  # fmt: skip
def test_a_file_name_outside_the_package_is_refused(name: str, blot: ModelPackage) -> None:
    """Such a name is refused even if the file exists and its digest is right."""
    record = blot.card.files["model.onnx"].model_dump()
    for path in (blot.path.parent / "secret", blot.path.parent.parent / "secret"):
        path.write_bytes(blot.load("model.onnx"))
    edit_card(blot, lambda card: card["files"].update({name: record}))
    with refused("blot/1", "card.json", f"the file name {name!r} must be a plain path"):
        ModelPackage.read(blot.path)


# Writing.


@contextmanager
def nothing_changes(root: Path) -> Iterator[None]:
    """Check that the block changes no file and no folder below `root`."""
    before = snapshot(root)
    yield
    assert snapshot(root) == before


def test_an_existing_package_is_not_overwritten(
    kits: Mapping[str, Kit], repository: ModelRepository
) -> None:
    kit = kits["blot"]
    with nothing_changes(repository.root), refused("blot/1", None, "it exists already"):
        write_package(repository.root, kit.card, {"model.onnx": b"other"})


def test_writing_a_new_version_leaves_the_older_version_unchanged(
    kits: Mapping[str, Kit], repository: ModelRepository
) -> None:
    kit = kits["blot"]
    before = snapshot(repository.root / "blot" / "1")
    second = kit.card.model_copy(update={"version": "2"})
    package = write_package(repository.root, second, kit.files)
    package.verify()
    assert ModelPackage.read(repository.root / "blot" / "2") == package
    assert snapshot(repository.root / "blot" / "1") == before
    assert {path.name for path in (repository.root / "blot").iterdir()} == {"1", "2"}
    assert {path.name for path in repository.root.iterdir()} == {"blot", "bend"}


def test_a_missing_repository_is_created(kits: Mapping[str, Kit], tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    write_package(root, kits["bend"].card, kits["bend"].files)
    assert [path.name for path in root.iterdir()] == ["bend"]
    ModelPackage.read(root / "bend" / "1").verify()


def test_a_package_can_be_read_by_other_users(written: Path) -> None:
    """The service may run as another user, and temporary folders are private by default."""
    assert (written / "blot" / "1").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync 1", "fsync 2", "fsync 4", "fsync 5", "rename 1"])
@pytest.mark.parametrize("version", ["1 of a new name", "2 of a name that exists"])
def test_a_failed_write_leaves_the_repository_unchanged(
    version: str,
    call: str,
    error: BaseException,
    kits: Mapping[str, Kit],
    repository: ModelRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package has five files. The write fails at a file, or at the final rename."""
    kit = kits["blot"]
    name = "fresh" if "new" in version else "blot"
    card = kit.card.model_copy(update={"name": name, "version": version[0]})
    function, fatal = call.split()
    owner: Any = os if function == "fsync" else Path
    real, calls, observed = getattr(owner, function), [], []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        observed.append((repository.names(), repository.versions(name)))
        if len(calls) == int(fatal):
            raise error
        return real(*arguments)

    before = (repository.names(), repository.versions(name))
    monkeypatch.setattr(owner, function, dies)
    with nothing_changes(repository.root), pytest.raises(type(error)) as caught:
        write_package(repository.root, card, kit.files)
    assert caught.value is error
    assert len(calls) == int(fatal)
    assert set(map(str, observed)) == {str(before)}  # a partial package was never visible

    monkeypatch.undo()
    write_package(repository.root, card, kit.files).verify()


@pytest.mark.parametrize("file", ["../escape", "/tmp/escape", "report/../../escape", "a\\b", ""])  # noqa: S108
def test_a_file_outside_the_package_is_not_written(
    file: str, kits: Mapping[str, Kit], tmp_path: Path
) -> None:
    kit = kits["bend"]
    with nothing_changes(tmp_path), pytest.raises(ValidationError, match="plain path"):
        write_package(tmp_path / "root", kit.card, {**kit.files, file: b"x"})


def test_an_invalid_card_is_not_written(kits: Mapping[str, Kit], tmp_path: Path) -> None:
    """`model_copy` does not validate, so the card is validated before the first write."""
    kit = kits["bend"]
    with nothing_changes(tmp_path), pytest.raises(ValidationError):
        write_package(tmp_path, kit.card.model_copy(update={"name": "../bend"}), kit.files)


def test_exactly_one_of_several_threads_writes_a_version(
    kits: Mapping[str, Kit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads have passed the check for an existing package before one writes a file."""
    kit, count = kits["bend"], 4
    barrier = threading.Barrier(count, timeout=30)

    def render_together(card: ModelCard) -> str:
        barrier.wait()
        return render_page(card)

    monkeypatch.setattr(models.package.model_package, "render_page", render_together)

    def write(writer: int) -> ModelPackage | PackageError:
        card = kit.card.model_copy(update={"summary": f"Written by {writer}."})
        try:
            return write_package(tmp_path, card, kit.files)
        except PackageError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(write, range(count)))
    (winner,) = (result for result in results if isinstance(result, ModelPackage))
    losers = [result for result in results if isinstance(result, PackageError)]
    assert [error.reason for error in losers] == ["it exists already"] * (count - 1)
    assert ModelPackage.read(tmp_path / "bend" / "1") == winner
    winner.verify()
    assert {path.name for path in tmp_path.iterdir()} == {"bend"}
    assert {path.name for path in (tmp_path / "bend").iterdir()} == {"1"}


@pytest.mark.slow
def test_exactly_one_of_several_processes_writes_a_version(
    blot: ModelPackage, tmp_path: Path
) -> None:
    """The processes start together, and each writes its number as the summary."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from models.package.model_package import ModelPackage, PackageError, write_package\n"
        "source, here, writer = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "card = ModelPackage.read(source).card.model_copy(update={'summary': writer})\n"
        "files = {name: (source / name).read_bytes() for name in card.files}\n"
        "print('ready', flush=True)\n"
        "while not (here / 'gate').exists(): time.sleep(0.001)\n"
        "try: write_package(here / 'root', card, files)\n"
        "except PackageError as error: print(error.reason)\n"
        "else: print('won')\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(blot.path), str(tmp_path), str(writer)],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for writer in range(3)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    (tmp_path / "gate").touch()
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert sorted(out.strip() for out, _ in outputs) == ["it exists already"] * 2 + ["won"], outputs
    assert [err for _, err in outputs] == ["", "", ""]
    package = ModelPackage.read(tmp_path / "root" / "blot" / "1")
    package.verify()
    assert outputs[int(package.card.summary)][0].strip() == "won"
    assert [path.name for path in (tmp_path / "root").rglob(".*")] == []


def test_the_card_on_disk_is_indented_json(written: Path) -> None:
    text = (written / "blot" / "1" / "card.json").read_text()
    assert text.startswith('{\n "schema_version": 1,\n "name": "blot",\n')
    assert text.endswith("}\n")
    assert json.loads(text)["files"]["model.onnx"]["bytes"] > 0
