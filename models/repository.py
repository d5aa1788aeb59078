"""The model repository: the packages under one folder, by name and version.

A package is `<root>/<name>/<version>/`, with a whole number as version. Other folders are not
looked at, so the repository may share its folder with other things.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.card import PackageName, PackageVersion, is_package_name, is_package_version
from models.package import ModelPackage, PackageError


@dataclass(frozen=True)
class ModelRepository:
    """The packages under `root`. Nothing is cached: every call reads the folder as it is."""

    root: Path

    def names(self) -> list[PackageName]:
        """The names that have at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name
            for folder in self.root.iterdir()
            if is_package_name(folder.name) and self.versions(folder.name)
        )

    def versions(self, name: str) -> list[PackageVersion]:
        """The versions of `name`, oldest first; none where there is no such package."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        found = (entry.name for entry in folder.iterdir() if entry.is_dir())
        return sorted((entry for entry in found if is_package_version(entry)), key=int)

    def next_version(self, name: str) -> PackageVersion:
        """The version that a new package of this name takes."""
        return str(int((self.versions(name) or ["0"])[-1]) + 1)

    def get(self, name: str, version: str | None = None) -> ModelPackage:
        """Read the package `name`, in the newest version where none is given.

        Raises:
            PackageError: there is no such package, or its card cannot be read.
        """
        versions = self.versions(name)
        if not versions or (version is not None and version not in versions):
            wanted = name if version is None else f"{name}/{version}"
            served = ", ".join(versions if versions else self.names()) or "none"
            raise PackageError(
                wanted, str(self.root), f"there is no such package; there are: {served}"
            )
        return ModelPackage.read(self._folder(name) / (version or versions[-1]))

    def __iter__(self) -> Iterator[tuple[str, ModelPackage | PackageError]]:
        """Every `<name>/<version>` with its package, or with the error that its card gives."""
        for name in self.names():
            for version in self.versions(name):
                try:
                    yield f"{name}/{version}", self.get(name, version)
                except PackageError as error:
                    yield f"{name}/{version}", error

    def _folder(self, name: str) -> Path:
        if not is_package_name(name):
            raise PackageError(
                name,
                str(self.root),
                "a package's name is letters, digits, '-' and '_', no slash and no dot",
            )
        return self.root / name
