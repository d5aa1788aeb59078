"""One model package: a folder that holds a network, its card, and the proof of both.

    models/mnist-cnn/1/
      card.json      the `ModelCard`
      README.md      the same for people
      model.onnx     the network, preprocessing included
      model.pt       the same, as TorchScript
      report/*.png   pictures of how it was fitted and how it does

`ModelPackage.read` reads a card, `verify` checks every file against its digest, `load` hands out
the bytes of a file that was just checked, and `write_package` makes a package, whole or not at
all. What is wrong is a `PackageError` that names package and file.

TorchScript files run code when they are loaded: load only bytes that `ModelPackage.load` gave,
and serve only packages whose origin you trust.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from models.card import SCHEMA_VERSION, FileRecord, ModelCard
from models.page import render_page

CARD_FILE = "card.json"
PAGE_FILE = "README.md"


class PackageError(Exception):
    """A package that cannot be trusted or read: says which, which file, and why."""

    def __init__(self, package: str, file: str, reason: str) -> None:
        super().__init__(f"package {package}: {file}: {reason}")
        self.package = package
        self.file = file
        self.reason = reason


@dataclass(frozen=True)
class ModelPackage:
    """A package on disk whose card has been read. Its files are checked when they are read."""

    path: Path
    card: ModelCard

    @property
    def label(self) -> str:
        """Name and version, as `mnist-cnn/1`."""
        return f"{self.card.name}/{self.card.version}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the card of the package at `path`, whose last two parts are name and version.

        Raises:
            PackageError: the card is missing, unreadable, of another schema, or not of this folder.
        """
        label = f"{path.parent.name}/{path.name}"
        try:
            content = json.loads((path / CARD_FILE).read_bytes())
        except FileNotFoundError as error:
            raise PackageError(label, CARD_FILE, "the file is missing") from error
        except (OSError, ValueError, RecursionError) as error:
            raise PackageError(label, CARD_FILE, f"it is not readable JSON ({error})") from error
        schema = content.get("schema_version") if isinstance(content, dict) else None
        if schema != SCHEMA_VERSION:
            raise PackageError(
                label,
                CARD_FILE,
                f"schema version {schema!r} is unknown; this release reads {SCHEMA_VERSION}",
            )
        try:
            card = ModelCard.model_validate(content)
        except ValidationError as error:
            raise PackageError(label, CARD_FILE, _first_error(error)) from error
        if label != f"{card.name}/{card.version}":
            raise PackageError(
                label,
                CARD_FILE,
                f"it belongs to {card.name}/{card.version}; a package's folder must be "
                "<name>/<version> of its card",
            )
        return cls(path, card)

    def load(self, file: str) -> bytes:
        """The content of `file`, checked against the size and SHA-256 in the card.

        Raises:
            PackageError: the card does not list the file, or it is missing or altered.
        """
        record = self.card.files.get(file)
        if record is None:
            raise PackageError(self.label, file, "the card lists no such file")
        try:
            content = (self.path / file).read_bytes()
        except OSError as error:
            raise PackageError(self.label, file, f"it cannot be read ({error.strerror})") from error
        if len(content) != record.bytes:
            raise PackageError(
                self.label,
                file,
                f"it holds {len(content):,} bytes where the card says {record.bytes:,}",
            )
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise PackageError(
                self.label, file, "its SHA-256 is not the card's: the file was changed"
            )
        return content

    def verify(self) -> None:
        """Check every file that the card lists.

        Raises:
            PackageError: a file is missing, truncated or altered, or no file can be served.
        """
        if not self.card.runtimes:
            raise PackageError(self.label, CARD_FILE, "it lists neither model.onnx nor model.pt")
        for file in self.card.files:
            self.load(file)


def write_package(root: Path, card: ModelCard, files: Mapping[str, bytes]) -> ModelPackage:
    """Write `card` and `files` as `root/<name>/<version>`, whole or not at all.

    The page is rendered and the digests are filled in here. The files are written into a hidden
    folder under `root`, which takes the package's place only when all is on disk. Of several
    writers of one version, one wins.

    Raises:
        PackageError: the package exists already.
    """
    path, label = root / card.name / card.version, f"{card.name}/{card.version}"
    if path.exists():
        raise PackageError(label, str(path), "it exists already")
    contents = dict(files)
    card = card.model_copy(update={"files": _records(contents)})
    contents[PAGE_FILE] = render_page(card).encode()
    card = ModelCard.model_validate(
        card.model_copy(update={"files": _records(contents)}).model_dump()
    )
    contents[CARD_FILE] = (card.model_dump_json(indent=1) + "\n").encode()

    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{card.name}-{card.version}-", dir=root))
    try:
        staging.chmod(0o755)
        for name, content in contents.items():
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        path.parent.mkdir(exist_ok=True)
        staging.rename(path)  # onto a package, which is a folder that is not empty, it fails
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # it holds other versions, or was not made yet
            path.parent.rmdir()
        if isinstance(error, OSError) and path.exists():  # another writer was faster
            raise PackageError(label, str(path), "it exists already") from error
        raise
    return ModelPackage(path, card)


def _records(contents: Mapping[str, bytes]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in sorted(contents.items())
    }


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = (str(part) for part in first["loc"])
    place = ".".join(part if part.isprintable() else repr(part) for part in parts) or "the card"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
