"""Signed packages: what is served is what the owner of the key signed, and nothing else."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tiny import write_tiny

from models.signature import require_signing
from service.catalog import Catalog
from service.settings import Settings


def make_keys(folder: Path) -> tuple[Path, Path]:
    """A private key and its public one, as PEM files."""
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
    """As the documentation says."""
    command = Path(sys.executable).with_name("model_signing")
    signature = package.with_name(f"{package.name}.sig")
    options = ["--private_key", private, "--signature", signature]
    subprocess.run([command, "sign", "key", package, *options], check=True, capture_output=True)


def catalog_of(root: Path, public: Path) -> Catalog:
    settings = Settings(
        model_repository=root, package_key=public, device="cpu", threads=1, max_batch_rows=4
    )

    async def opened() -> Catalog:
        catalog = Catalog(settings)
        await catalog.open()
        await catalog.close()
        return catalog

    return asyncio.run(opened())


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


def test_a_signed_package_is_served_and_an_unsigned_one_is_refused(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    root = tmp_path / "packages"
    sign(write_tiny(root, "signed", runtimes=("onnx",)).path, keys[0])
    write_tiny(root, "unsigned", runtimes=("onnx",))
    catalog = catalog_of(root, keys[1])
    assert [predictor.card.name for predictor in catalog] == ["signed"]
    assert list(catalog.refused) == ["unsigned"]
    assert catalog.refused["unsigned"].endswith("1.sig: the signature is missing")


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
        lambda package: shutil.copy(package / "card.json", package / "model.onnx"),
    ],
)
def test_what_was_changed_after_it_was_signed_is_refused(
    tmp_path: Path, keys: tuple[Path, Path], spoil: Callable[[Path], object]
) -> None:
    root = tmp_path / "packages"
    package = write_tiny(root, "line", runtimes=("onnx",)).path
    sign(package, keys[0])
    spoil(package)
    catalog = catalog_of(root, keys[1])
    assert not catalog.ready
    assert "1.sig: the signature is not good for this package" in catalog.refused["line"]


def test_a_public_key_that_is_not_there_refuses_everything(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    root = tmp_path / "packages"
    sign(write_tiny(root, "line", runtimes=("onnx",)).path, keys[0])
    catalog = catalog_of(root, tmp_path / "missing.pub")
    assert "there is no public key at" in catalog.refused["line"]


def test_a_key_without_the_library_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require_signing()
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    with pytest.raises(SystemExit, match="pip install"):
        require_signing()
