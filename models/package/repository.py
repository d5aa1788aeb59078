"""The model repository: the packages under one folder, by name and version.

A package is a folder `<root>/<name>/<version>/`; the version is a whole number. Other folders are
ignored, so the repository's folder may hold other files. A removed version is the folder
`<root>/<name>/<version>.removed`, and its signature is renamed in the same way. The repository and
its packages may be links. A package whose folder cannot be read is reported as an error, without
effect on the other packages.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.package.card import (
    PACKAGE_NAME_RULE,
    PackageName,
    PackageVersion,
    is_package_name,
    is_package_version,
)
from models.package.files import unreadable
from models.package.model_package import ModelPackage, PackageError

REMOVED = ".removed"
SHIPPED = Path(__file__).resolve().parents[1]
"""The folder of the packages that fitserve ships."""


def default_repository() -> Path:
    """Return the repository of `FITSERVE_MODEL_REPOSITORY`; by default, the shipped one."""
    return Path(os.environ.get("FITSERVE_MODEL_REPOSITORY") or SHIPPED)


class RepositoryError(Exception):
    """A repository whose folder cannot be read. The message names the folder and the reason."""


@dataclass(frozen=True)
class ModelRepository:
    """The packages under `root`. Every call reads the folder; nothing is cached."""

    root: Path

    def names(self) -> list[PackageName]:
        """Return the sorted names that have at least one version, or a folder that cannot be read.

        Returns:
            An empty list if the repository does not exist.

        Raises:
            RepositoryError: the repository cannot be read.
        """
        try:
            names = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RepositoryError(f"the repository {self.root}: {unreadable(error)}") from error
        return sorted(name for name in names if is_package_name(name) and self._is_there(name))

    def versions(self, name: str) -> list[PackageVersion]:
        """Return the versions of `name`, oldest first; an empty list if the package does not exist.

        Raises:
            PackageError: the name is not valid, or the package's folder cannot be read.
        """
        versions = [
            entry.name
            for entry in self._entries(name)
            if is_package_version(entry.name) and _may_be_folder(entry)
        ]
        return sorted(versions, key=int)

    def next_version(self, name: str) -> PackageVersion:
        """Return the version of a new package: above all versions, removed versions included."""
        used = [*self.versions(name), *self.removed(name)]
        return str(max(map(int, used), default=0) + 1)

    def removed(self, name: str) -> list[PackageVersion]:
        """Return the removed versions of `name`, oldest first.

        Raises:
            PackageError: the name is not valid, or the package's folder cannot be read.
        """
        entries = (entry.name for entry in self._entries(name))
        versions = [entry.removesuffix(REMOVED) for entry in entries if entry.endswith(REMOVED)]
        return sorted(filter(is_package_version, versions), key=int)

    def remove(self, name: str, version: str) -> None:
        """Rename a version, so that the previous version serves after the next start.

        Raises:
            PackageError: the version does not exist, a version of this number was removed already,
                or the folder cannot be written.
        """
        self._require(name, version, self.versions(name), "there is no such package")
        self._move(name, version, "", REMOVED)

    def restore(self, name: str, version: str) -> None:
        """Rename a removed version back.

        Raises:
            PackageError: no such version was removed, a version of this number exists, or the
                folder cannot be written.
        """
        self._require(name, version, self.removed(name), "no such version was removed")
        self._move(name, version, REMOVED, "")

    def get(self, name: str, version: str | None = None) -> ModelPackage:
        """Read the package `name`, by default in its newest version.

        Raises:
            PackageError: the package does not exist, or its card cannot be read.
            RepositoryError: the repository cannot be read.
        """
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            label = name if version is None else f"{name}/{version}"
            served = ", ".join(versions if versions else self.names()) or "none"
            raise PackageError(label, None, f"there is no such package; there are: {served}")
        return ModelPackage.read(self._folder(name) / (version or versions[-1]))

    def __iter__(self) -> Iterator[tuple[str, ModelPackage | PackageError]]:
        """Yield every `<name>/<version>` with its package, or with the error of reading its card.

        A name whose folder cannot be read is yielded without a version.

        Raises:
            RepositoryError: the repository cannot be read.
        """
        for name in self.names():
            try:
                versions = self.versions(name)
            except PackageError as error:
                yield name, error
                continue
            for version in versions:
                try:
                    yield f"{name}/{version}", self.get(name, version)
                except PackageError as error:
                    yield f"{name}/{version}", error

    def _is_there(self, name: str) -> bool:
        try:
            return bool(self.versions(name))
        except PackageError:
            return True

    def _entries(self, name: str) -> list[Path]:
        try:
            return list(self._folder(name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise PackageError(name, None, f"its folder: {unreadable(error)}") from error

    def _require(self, name: str, version: str, existing: list[str], otherwise: str) -> None:
        if version not in existing:
            listed = ", ".join(existing) or "none"
            raise PackageError(f"{name}/{version}", None, f"{otherwise}; there are: {listed}")

    def _move(self, name: str, version: str, suffix: str, new_suffix: str) -> None:
        """Change the suffix of a version and of its signature.

        The version is renamed last, since its name decides whether it serves. Both stay in their
        folder: links remain valid, and the file system stays the same.
        """
        folder, label = self._folder(name), f"{name}/{version}"
        if os.path.lexists(folder / f"{version}{new_suffix}"):
            raise PackageError(label, None, f"{version}{new_suffix} exists already: move it away")
        signature, moved = folder / f"{version}{suffix}.sig", folder / f"{version}{new_suffix}.sig"
        signed = os.path.lexists(signature)
        try:
            if signed:
                signature.rename(moved)
            try:
                (folder / f"{version}{suffix}").rename(folder / f"{version}{new_suffix}")
            except OSError:
                if signed:
                    moved.rename(signature)
                raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise PackageError(label, None, f"it cannot be moved ({reason})") from error

    def _folder(self, name: str) -> Path:
        if not is_package_name(name):
            raise PackageError(name, None, f"its name {PACKAGE_NAME_RULE}")
        return self.root / name


def _may_be_folder(path: Path) -> bool:
    """Return whether the path is a folder; True if its type cannot be read.

    Reading the package then reports the reason.
    """
    try:
        return path.is_dir()
    except OSError:
        return True
