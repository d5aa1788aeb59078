"""The model repository: the packages under one folder, by name and version.

A package is `<root>/<name>/<version>/`, with a whole number as version. Other folders are not
looked at, so the repository may share its folder with other things. A version that was removed is
`<root>/<name>/<version>.removed`, with its signature beside it. The repository and its packages may
be links. A package whose folder cannot be read is one that gives an error, and the others are
as they are.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.card import PackageName, PackageVersion, is_package_name, is_package_version
from models.files import unreadable
from models.package import ModelPackage, PackageError

REMOVED = ".removed"


class RepositoryError(Exception):
    """A repository whose folder cannot be read: says which, and why."""


@dataclass(frozen=True)
class ModelRepository:
    """The packages under `root`. Nothing is cached: every call reads the folder as it is."""

    root: Path

    def names(self) -> list[PackageName]:
        """The names that have at least one version, or a folder that cannot be read; sorted.

        None where there is no repository.

        Raises:
            RepositoryError: the repository cannot be read.
        """
        try:
            found = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RepositoryError(f"the repository {self.root}: {unreadable(error)}") from error
        return sorted(name for name in found if is_package_name(name) and self._is_there(name))

    def versions(self, name: str) -> list[PackageVersion]:
        """The versions of `name`, oldest first; none where there is no such package.

        Raises:
            PackageError: no package may have this name, or its folder cannot be read.
        """
        found = [
            entry.name
            for entry in self._entries(name)
            if is_package_version(entry.name) and _may_be_folder(entry)
        ]
        return sorted(found, key=int)

    def next_version(self, name: str) -> PackageVersion:
        """The version that a new package of this name takes: no removed one's, which may return."""
        taken = [*self.versions(name), *self.removed(name)]
        return str(max(map(int, taken), default=0) + 1)

    def removed(self, name: str) -> list[PackageVersion]:
        """The versions of `name` that were moved aside, oldest first.

        Raises:
            PackageError: no package may have this name, or its folder cannot be read.
        """
        entries = (entry.name for entry in self._entries(name))
        found = [entry.removesuffix(REMOVED) for entry in entries if entry.endswith(REMOVED)]
        return sorted(filter(is_package_version, found), key=int)

    def remove(self, name: str, version: str) -> None:
        """Move a version aside, so that the one before it serves after the next start.

        Raises:
            PackageError: there is no such version, one was removed already, or the folder cannot
                be written.
        """
        self._require(name, version, self.versions(name), "there is no such package")
        self._move(name, version, "", REMOVED)

    def restore(self, name: str, version: str) -> None:
        """Bring a version back that was moved aside.

        Raises:
            PackageError: no such version was removed, one stands in its place, or the folder
                cannot be written.
        """
        self._require(name, version, self.removed(name), "no such version was removed")
        self._move(name, version, REMOVED, "")

    def get(self, name: str, version: str | None = None) -> ModelPackage:
        """Read the package `name`, in the newest version where none is given.

        Raises:
            PackageError: there is no such package, or its card cannot be read.
            RepositoryError: the repository cannot be read.
        """
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            wanted = name if version is None else f"{name}/{version}"
            served = ", ".join(versions if versions else self.names()) or "none"
            raise PackageError(wanted, None, f"there is no such package; there are: {served}")
        return ModelPackage.read(self._folder(name) / (version or versions[-1]))

    def __iter__(self) -> Iterator[tuple[str, ModelPackage | PackageError]]:
        """Every `<name>/<version>` with its package, or with the error that its card gives.

        A name whose folder cannot be read stands without a version.

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

    def _require(self, name: str, version: str, there: list[str], otherwise: str) -> None:
        if version not in there:
            found = ", ".join(there) or "none"
            raise PackageError(f"{name}/{version}", None, f"{otherwise}; there are: {found}")

    def _move(self, name: str, version: str, now: str, then: str) -> None:
        """Give a version and its signature another ending; the version last, as it is what serves.

        Within their folder: a link stays right, and no file system is left.
        """
        folder, label = self._folder(name), f"{name}/{version}"
        if os.path.lexists(folder / f"{version}{then}"):
            raise PackageError(label, None, f"{version}{then} stands in its place: move that away")
        signature, moved = folder / f"{version}{now}.sig", folder / f"{version}{then}.sig"
        signed = os.path.lexists(signature)
        try:
            if signed:
                signature.rename(moved)
            try:
                (folder / f"{version}{now}").rename(folder / f"{version}{then}")
            except OSError:
                if signed:
                    moved.rename(signature)
                raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise PackageError(label, None, f"it cannot be moved ({reason})") from error

    def _folder(self, name: str) -> Path:
        if not is_package_name(name):
            raise PackageError(
                name,
                None,
                "a package's name is letters, digits, '-' and '_', no slash and no dot",
            )
        return self.root / name


def _may_be_folder(path: Path) -> bool:
    """Whether it is a folder, also where only reading it will tell why it cannot be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return True
