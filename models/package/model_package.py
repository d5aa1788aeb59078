"""A model package: a folder with a network, its card, and the digests of all files.

    models/mnist-cnn/1/
      card.json      the `ModelCard`
      README.md      the card as a page
      model.onnx     the network, including its preprocessing
      model.onnx.data  its weights, if they are too large for the file itself
      model.pt       the same network as TorchScript
      report/*.png   plots of the training and the evaluation

`ModelPackage.read` reads a card once. `load` returns the bytes of a file after comparing these same
bytes with the card's digest. `verify` checks every file. `write_package` writes a package as a
whole or not at all. Errors are `PackageError`s that name the package and the file.

The folder of a package, and the folders above, may be links. Links inside the folder are not
followed.

Loading a TorchScript file runs the code in it. Load only bytes that `ModelPackage.load` returned,
and serve only packages from an origin that you trust.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from models.package.card import (
    MODEL_FILES,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    FileRecord,
    ModelCard,
)
from models.package.files import FileError, open_file, read_all, size_of, unreadable
from models.package.readme import render_page

CARD_FILE = "card.json"
PAGE_FILE = "README.md"
MAX_CARD_BYTES = 64 * 2**20
"""The size limit of a card, and of a signature."""
MAX_OTHER_BYTES = 64 * 2**20
"""The size limit of other files than the networks: the plots, the page."""
_NETWORK_FILES = (*MODEL_FILES.values(), WEIGHTS_FILE)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_REASON = 1000  # characters: a card may hold a name of any length


class PackageError(Exception):
    """A package that cannot be trusted or read. The message names the package, file and reason.

    `file` is relative to the package, and None if no file is at fault. The message has no absolute
    path, since clients of the service read it.
    """

    def __init__(self, package: str, file: str | None, reason: str) -> None:
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]}…"
        parts = (f"package {package}", file, reason)
        super().__init__(": ".join(part for part in parts if part is not None))
        self.package = package
        self.file = file
        self.reason = reason


@dataclass(frozen=True)
class ModelPackage:
    """A package on disk whose card has been read. Its files are checked on reading.

    `card_sha256` is the hexadecimal digest of the card's bytes at the time of reading.
    """

    path: Path
    card: ModelCard
    card_sha256: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The name and version, as `mnist-cnn/1`."""
        return f"{self.card.name}/{self.card.version}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the card of the package at `path`, whose last two parts are name and version.

        Raises:
            PackageError: the card is missing or unreadable, has another schema version, or belongs
                to another folder.
        """
        label = f"{path.parent.name}/{path.name}"
        card_on_disk = _read_card(path, label)
        try:
            content = _parse(card_on_disk)
        except (ValueError, RecursionError) as error:
            raise PackageError(label, CARD_FILE, f"it is not readable JSON ({error})") from error
        schema = content.get("schema_version") if isinstance(content, dict) else None
        if schema != SCHEMA_VERSION:
            raise PackageError(
                label,
                CARD_FILE,
                f"schema version {schema!r:.100} is unknown; this release reads {SCHEMA_VERSION}",
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
        return cls(path, card, hashlib.sha256(card_on_disk).hexdigest())

    def load(self, file: str) -> bytes:
        """Return the content of `file`, checked against the size and SHA-256 in the card.

        The size is compared before the file is read.

        Raises:
            PackageError: the card does not list the file, or the file is missing, altered, or not a
                regular file.
        """
        with self._open(file) as stream:
            content = read_all(stream, self.card.files[file].bytes)
            self._compare(file, hashlib.sha256(content).hexdigest())
        return content

    def check(self, file: str) -> None:
        """Check a file as `load` does, but read it in small chunks.

        Raises:
            PackageError: as for `load`.
        """
        with self._open(file) as stream:
            self._compare(file, hashlib.file_digest(stream, "sha256").hexdigest())

    @contextmanager
    def _open(self, file: str) -> Iterator[BufferedReader]:
        """Open a file of the size that the card states; raise its errors as PackageErrors."""
        record = self.card.files.get(file)
        if record is None:
            raise PackageError(self.label, file, "the card lists no such file")
        try:
            with open_file(self.path / file, inside=self.path) as stream:
                size = size_of(stream)
                if size != record.bytes:
                    raise FileError(f"it holds {size:,} bytes where the card says {record.bytes:,}")
                if size > MAX_OTHER_BYTES and file not in _NETWORK_FILES:
                    raise FileError(
                        f"it holds {size:,} bytes; a file beside the network may have "
                        f"{MAX_OTHER_BYTES:,}"
                    )
                yield stream
        except FileError as error:
            raise PackageError(self.label, file, str(error)) from error
        except OSError as error:
            raise PackageError(self.label, file, unreadable(error)) from error

    def _compare(self, file: str, digest: str) -> None:
        if digest != self.card.files[file].sha256:
            raise PackageError(
                self.label, file, "its SHA-256 is not the card's: the file was changed"
            )

    def verify(self) -> None:
        """Check every file that the card lists.

        Raises:
            PackageError: a file is missing, truncated or altered, or no file holds a network.
        """
        if not self.card.runtimes:
            raise PackageError(self.label, CARD_FILE, "it lists neither model.onnx nor model.pt")
        for file in self.card.files:
            self.check(file)


def write_package(
    root: Path, card: ModelCard, files: Mapping[str, bytes | bytearray]
) -> ModelPackage:
    """Write `card` and `files` as `root/<name>/<version>`, as a whole or not at all.

    The function renders the page and fills in the digests. It writes the files into a hidden folder
    under `root` and renames the folder after all files are on disk. If several processes write the
    same version, one succeeds.

    Raises:
        OSError: the package cannot be written. Files written so far are removed.
        PackageError: the package exists already.
    """
    path, label = root / card.name / card.version, f"{card.name}/{card.version}"
    if path.exists():
        raise PackageError(label, None, "it exists already")
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
        staging.rename(path)  # fails if `path` is a package, since that folder is not empty
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # the folder holds other versions, or does not exist yet
            path.parent.rmdir()
        if isinstance(error, OSError) and path.exists():  # another writer was faster
            raise PackageError(label, None, "it exists already") from error
        raise
    return ModelPackage(path, card, hashlib.sha256(contents[CARD_FILE]).hexdigest())


def require_writable(root: Path) -> None:
    """Check that packages can be written under `root`, before the work that makes one.

    Raises:
        OSError: packages cannot be written.
    """
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".writable-", dir=existing):
        pass


def _read_card(path: Path, label: str) -> bytes:
    try:
        with open_file(path / CARD_FILE, inside=path) as stream:
            return read_all(stream, MAX_CARD_BYTES)
    except FileError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        reason = "the file is missing" if missing else str(error)
        raise PackageError(label, CARD_FILE, reason) from error


def _parse(card: bytes) -> Any:
    """Return the JSON of a card.

    NaN, infinity, repeated names and half surrogate pairs are refused, since JSON parsers treat
    them differently.
    """
    try:
        text = card.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8: save it as UTF-8") from error
    content = json.loads(text, object_pairs_hook=_unambiguous, parse_constant=_refuse_constant)
    if _SURROGATE.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds half a surrogate pair, which is no character") from error
    return content


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r:.100} is repeated in one object")
    return fields


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _records(contents: Mapping[str, bytes | bytearray]) -> dict[str, FileRecord]:
    return {
        name: FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in sorted(contents.items())
    }


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    parts = (str(part) for part in first["loc"])
    place = ".".join(part if part.isprintable() else repr(part) for part in parts) or "the card"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
