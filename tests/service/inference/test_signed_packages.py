"""Signed packages: only what the owner of the key signed is served."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing.hashing import Config as Hashing
from model_signing.signing import Config as Signing
from tiny import write_tiny

from models.package.model_package import ModelPackage, PackageError
from models.package.signature import require_signing, verify_signature
from service.api.v2.metadata import repository_index
from service.inference.registry import ModelRegistry
from service.settings import Settings


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Create a private key and its public key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def sign(package: Path, private: Path) -> None:
    """Sign a package as the documentation describes."""
    command = Path(sys.executable).with_name("model_signing")
    signature = package.with_name(f"{package.name}.sig")
    options = ["--private_key", private, "--signature", signature]
    subprocess.run([command, "sign", "key", package, *options], check=True, capture_output=True)


async def registry_of(root: Path, public: Path) -> ModelRegistry:
    settings = Settings(
        model_repository=root,
        package_public_key=public,
        versions_file=root.parent / "versions.json",
        device="cpu",
        intra_op_threads=1,
        max_batch_rows=4,
    )
    registry = ModelRegistry(settings)
    await registry.open()
    await registry.close()
    return registry


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


async def test_a_signed_package_serves_and_an_unsigned_one_is_unavailable(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    root = tmp_path / "packages"
    sign(write_tiny(root, "signed", runtimes=("onnx",)).path, keys[0])
    write_tiny(root, "unsigned", runtimes=("onnx",))
    registry = await registry_of(root, keys[1])
    assert [predictor.card.name for predictor in registry] == ["signed"]
    assert list(registry.unavailable) == ["unsigned"]
    assert registry.unavailable["unsigned"].endswith("1.sig: the signature is missing")


def add_a_file(package: Path) -> None:
    (package / "report").mkdir()
    (package / "report" / "extra.png").write_bytes(b"no picture")


def reword_the_card(package: Path) -> None:
    card = json.loads((package / "card.json").read_text())
    card["summary"] = "another network altogether"
    (package / "card.json").write_text(json.dumps(card))


def alter_the_signature(package: Path) -> None:
    file = package.with_name("1.sig")
    content = json.loads(file.read_text())
    signature = content["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:-8] + "AAAAAA=="
    file.write_text(json.dumps(content))


def empty_the_signature(package: Path) -> None:
    package.with_name("1.sig").write_bytes(b"")


def take_another_s_signature(package: Path) -> None:
    other = make_keys(package.parent)[0]
    sign(package, other)


@pytest.mark.parametrize(
    "spoil",
    [
        add_a_file,
        reword_the_card,
        alter_the_signature,
        empty_the_signature,
        take_another_s_signature,
        lambda package: (package / "README.md").unlink(),
    ],
)
async def test_a_package_changed_after_its_signature_is_unavailable(
    tmp_path: Path, keys: tuple[Path, Path], spoil: Callable[[Path], object]
) -> None:
    root = tmp_path / "packages"
    package = write_tiny(root, "line", runtimes=("onnx",)).path
    sign(package, keys[0])
    spoil(package)
    registry = await registry_of(root, keys[1])
    assert not registry.ready
    assert "1.sig: the signature is not good for this package" in registry.unavailable["line"]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelPackage, Path]:
    """A signed package with a file that its card does not list, and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = make_keys(folder)
    package = write_tiny(folder / "packages", "line", runtimes=("onnx",))
    (package.path / "notes.txt").write_text("signed, and never served")
    sign(package.path, private)
    verify_signature(ModelPackage.read(package.path), public)
    return package, public


@pytest.fixture
def copied(signed: tuple[ModelPackage, Path], tmp_path: Path) -> tuple[ModelPackage, Path]:
    """A copy of the signed package for one test."""
    root = shutil.copytree(signed[0].path.parents[1], tmp_path / "packages", symlinks=True)
    return ModelPackage.read(root / "line" / "1"), signed[1]


def not_good(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(
        PackageError,
        match=rf"^package line/1: 1\.sig: the signature is not good for this package \({reason}\)$",
    )


def test_the_signature_is_compared_with_the_card_that_was_read(
    copied: tuple[ModelPackage, Path],
) -> None:
    """The unsigned card is read; the signed card is on disk while the signature is verified."""
    package, public = copied
    good = (package.path / "card.json").read_bytes()
    reword_the_card(package.path)
    read = ModelPackage.read(package.path)
    (package.path / "card.json").write_bytes(good)
    with not_good("'card.json' was changed"):
        verify_signature(read, public)


def test_a_card_swapped_after_its_check_is_not_served(
    copied: tuple[ModelPackage, Path],
) -> None:
    package, public = copied
    verify_signature(package, public)
    reword_the_card(package.path)
    (package.path / "model.onnx").write_bytes(b"x" * package.card.files["model.onnx"].bytes)
    with pytest.raises(PackageError, match=r"model\.onnx: its SHA-256 is not the card's"):
        package.load("model.onnx")
    assert package.card.summary != "another network altogether"


def test_a_signed_package_may_be_a_link(copied: tuple[ModelPackage, Path]) -> None:
    package, public = copied
    package.path.rename(package.path.with_name("release"))
    package.path.symlink_to("release")
    verify_signature(ModelPackage.read(package.path), public)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: (path / "notes.txt").write_text("other"), r"'notes\.txt' was changed"),
        (lambda path: (path / "notes.txt").unlink(), r"'notes\.txt' was removed"),
        (lambda path: (path / "more.txt").write_text("more"), r"'more\.txt' was added"),
        (lambda path: (path / "more").symlink_to("/etc"), "'more' is a link: put the file.*"),
        (lambda path: os.mkfifo(path / "more"), "'more' is a pipe: put the file itself there"),
    ],
)
def test_exactly_the_signed_files_must_exist(
    spoil: Callable[[Path], object], reason: str, copied: tuple[ModelPackage, Path]
) -> None:
    package, public = copied
    spoil(package.path)
    with not_good(reason):
        verify_signature(package, public)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.symlink_to("other"), "it is a link: put the file itself there"),
        (os.mkfifo, "it is a pipe: put the file itself there"),
        (lambda file: file.mkdir(), "it is a folder: put the file itself there"),
        (lambda file: (file.touch(), os.truncate(file, 2**40)), "it holds .* bytes, more than .*"),
    ],
)
def test_an_invalid_or_too_large_signature_file_is_refused_unread(
    spoil: Callable[[Path], object], reason: str, copied: tuple[ModelPackage, Path]
) -> None:
    package, public = copied
    file = package.path.with_name("1.sig")
    file.rename(file.with_name("other"))
    spoil(file)
    with pytest.raises(PackageError, match=rf"^package line/1: 1\.sig: {reason}$"):
        verify_signature(package, public)


def test_a_signature_over_parts_of_files_is_refused(
    copied: tuple[ModelPackage, Path], tmp_path: Path
) -> None:
    package, _ = copied
    private, public = make_keys(tmp_path)
    hashing = Hashing().use_file_serialization(hashing_algorithm="blake2")
    signing = Signing().use_elliptic_key_signer(private_key=private).set_hashing_config(hashing)
    signing.sign(package.path, package.path.with_name("1.sig"))
    with not_good("it is not over the SHA-256 of whole files: sign with the defaults"):
        verify_signature(package, public)


@pytest.mark.parametrize("name", [".git/HEAD", ".git", ".gitignore", ".gitattributes", ".github/x"])
def test_files_that_the_signing_tool_ignores_may_not_be_added(
    name: str, copied: tuple[ModelPackage, Path]
) -> None:
    package, public = copied
    verify_signature(package, public)
    (package.path / name).parent.mkdir(exist_ok=True)
    (package.path / name).touch()
    with not_good(f"'{name}' was added"):
        verify_signature(package, public)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            None,
            r"FITSERVE_PACKAGE_PUBLIC_KEY says: it cannot be read \(No such file or directory\)",
        ),
        (b"", "FITSERVE_PACKAGE_PUBLIC_KEY names no public key on an elliptic curve, as PEM"),
    ],
)
def test_an_invalid_public_key_makes_every_package_unavailable(
    content: bytes | None, reason: str, copied: tuple[ModelPackage, Path], tmp_path: Path
) -> None:
    key = tmp_path / "missing.pub"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(PackageError, match=reason) as refused:
        verify_signature(copied[0], key)
    assert str(tmp_path) not in str(refused.value)


async def test_an_older_version_serves_with_a_warning(
    tmp_path: Path, keys: tuple[Path, Path], logged: Callable[[], list[logging.LogRecord]]
) -> None:
    root = tmp_path / "packages"
    for version in ("2", "3"):
        sign(write_tiny(root, "line", version=version, runtimes=("onnx",)).path, keys[0])
    sign(write_tiny(root, "other", runtimes=("onnx",)).path, keys[0])
    assert [entry["reason"] for entry in repository_index(await registry_of(root, keys[1]))] == [
        "",
        "",
    ]
    shutil.rmtree(root / "line" / "3")
    registry = await registry_of(root, keys[1])
    notice = "version 3 was served before and is not there any more; the older version 2 serves"
    assert repository_index(registry) == [
        {"name": "line", "version": "2", "state": "READY", "reason": notice},
        {"name": "other", "version": "1", "state": "READY", "reason": ""},
    ]
    for line, other in zip(
        registry.description("line"), registry.description("other"), strict=True
    ):
        assert json.loads(line)["serving"]["notice"] == notice
        assert "notice" not in json.loads(other)["serving"]
    assert f"package line: {notice}" in [record.getMessage() for record in logged()]


def test_a_key_without_the_library_prevents_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_signing()
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    with pytest.raises(SystemExit, match="pip install"):
        require_signing()
