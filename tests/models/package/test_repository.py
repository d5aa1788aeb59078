"""The repository finds the packages under its folder, and no others."""

from pathlib import Path
from shutil import copytree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_packages import edit_card, property_test, snapshot

from models.package.model_package import ModelPackage, PackageError
from models.package.repository import ModelRepository

BAD_NAMES = [
    "..", ".", "", "../outside", "/outside", "a/../../outside", "blot/", "blot/1", "..\\outside",
    "blot\\1", ".hidden", "~", "a b", "blot\n", "blot\x00", "x" * 300,
]  # fmt: skip


def add_version(repository: ModelRepository, name: str, version: str) -> None:
    """Write another version of the package, with its own card."""
    copytree(repository.root / name / "1", repository.root / name / version)
    package = ModelPackage(repository.root / name / version, repository.get(name, "1").card)
    edit_card(package, lambda card: card.update(version=version))


@pytest.fixture
def versions(repository: ModelRepository) -> ModelRepository:
    """The repository with `blot` in the versions 1, 2 and 10."""
    add_version(repository, "blot", "10")
    add_version(repository, "blot", "2")
    return repository


def test_names_are_sorted(repository: ModelRepository) -> None:
    assert repository.names() == ["bend", "blot"]


def test_versions_are_sorted_as_numbers(versions: ModelRepository) -> None:
    assert versions.versions("blot") == ["1", "2", "10"]
    assert versions.versions("bend") == ["1"]


def test_the_next_version_follows_the_newest(versions: ModelRepository) -> None:
    assert versions.next_version("blot") == "11"
    assert versions.next_version("bend") == "2"
    assert versions.next_version("new") == "1"


def test_get_reads_the_newest_or_the_requested_version(
    versions: ModelRepository,
) -> None:
    assert versions.get("blot").label == "blot/10"
    assert versions.get("blot", "2").label == "blot/2"
    assert versions.get("blot", "1").path == versions.root / "blot" / "1"


def test_iteration_yields_every_version_of_every_package_in_order(
    versions: ModelRepository,
) -> None:
    entries = list(versions)
    assert [label for label, _ in entries] == ["bend/1", "blot/1", "blot/2", "blot/10"]
    assert [package.label for _, package in entries if isinstance(package, ModelPackage)] == [
        label for label, _ in entries
    ]


@pytest.mark.parametrize(
    ("name", "version", "wanted", "there"),
    [
        ("blob", None, "blob", "bend, blot"),
        ("blob", "1", "blob/1", "bend, blot"),
        ("blot", "3", "blot/3", "1, 2, 10"),
        ("blot", "", "blot/", "1, 2, 10"),
        ("blot", "02", "blot/02", "1, 2, 10"),
        ("blot", "../bend/1", "blot/../bend/1", "1, 2, 10"),
    ],
)
def test_a_missing_package_is_an_error_with_the_known_packages(
    name: str, version: str | None, wanted: str, there: str, versions: ModelRepository
) -> None:
    with pytest.raises(PackageError) as caught:
        versions.get(name, version)
    assert str(caught.value) == (f"package {wanted}: there is no such package; there are: {there}")


@pytest.mark.parametrize("make", [True, False])
def test_an_empty_or_missing_folder_has_no_packages(make: bool, tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "nothing")
    if make:
        repository.root.mkdir()
    assert repository.names() == []
    assert list(repository) == []
    assert repository.next_version("blot") == "1"
    with pytest.raises(PackageError, match="there is no such package; there are: none"):
        repository.get("blot")


@pytest.mark.parametrize(
    "other",
    [
        "__pycache__", "blot/0", "blot/01", "blot/draft", "blot/1.0", "blot/.2-x7f", "blot/-1",
        ".hidden/1", ".blot-2-abc/1", "with space/1", "back\\slash/1", "dotted.name/1", "empty",
        "no-version/draft", "blot/²", "blot/٣",
    ],
)  # fmt: skip
def test_hidden_and_unrelated_folders_are_ignored(other: str, repository: ModelRepository) -> None:
    copytree(repository.root / "blot" / "1", repository.root / other)
    assert repository.names() == ["bend", "blot"]
    assert [label for label, _ in repository] == ["bend/1", "blot/1"]
    assert repository.get("blot").label == "blot/1"
    assert repository.next_version("blot") == "2"


def test_a_file_in_place_of_a_folder_is_ignored(
    repository: ModelRepository,
) -> None:
    (repository.root / "package.py").touch()
    (repository.root / "README").touch()
    (repository.root / "blot" / "2").touch()
    assert [label for label, _ in repository] == ["bend/1", "blot/1"]


def test_iteration_yields_the_error_of_a_broken_card_and_the_other_packages(
    versions: ModelRepository,
) -> None:
    (versions.root / "blot" / "2" / "card.json").write_text("{")
    (versions.root / "bend" / "1" / "card.json").unlink()
    entries = dict(versions)
    broken = {label: e for label, e in entries.items() if isinstance(e, PackageError)}
    assert list(entries) == ["bend/1", "blot/1", "blot/2", "blot/10"]
    assert {label: (e.package, e.file) for label, e in broken.items()} == {
        "bend/1": ("bend/1", "card.json"),
        "blot/2": ("blot/2", "card.json"),
    }
    assert all(isinstance(entries[label], ModelPackage) for label in ("blot/1", "blot/10"))


def test_nothing_is_cached(repository: ModelRepository) -> None:
    add_version(repository, "blot", "2")
    assert repository.get("blot").label == "blot/2"
    (repository.root / "blot" / "2").rename(repository.root / "moved")
    assert repository.get("blot").label == "blot/1"


@pytest.fixture
def surrounded(repository: ModelRepository) -> ModelRepository:
    """The repository in a folder with packages that are not part of it."""
    outside = repository.root.parent / "outside"
    copytree(repository.root / "blot", outside)
    copytree(repository.root / "blot" / "1", repository.root / "1")
    copytree(repository.root / "blot" / "1", repository.root.parent / "1")
    copytree(repository.root / "blot", repository.root / ".hidden")
    return repository


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_outside_the_repository_is_refused_before_a_folder_is_read(
    name: str, surrounded: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(path: Path, *_: object) -> None:
        raise AssertionError(f"{path} was looked at")

    monkeypatch.setattr(Path, "is_dir", untouched)
    monkeypatch.setattr(Path, "iterdir", untouched)
    monkeypatch.setattr(ModelPackage, "read", untouched)
    for use in (
        lambda: surrounded.get(name),
        lambda: surrounded.get(name, "1"),
        lambda: surrounded.versions(name),
        lambda: surrounded.next_version(name),
    ):
        with pytest.raises(PackageError, match="its name must be 1 to 100 letters, digits"):
            use()


def test_no_name_and_version_reads_a_package_outside_the_repository(
    surrounded: ModelRepository,
) -> None:
    inside = set(snapshot(surrounded.root.parent))
    parts = st.sampled_from(["..", ".", "/", "\\", "1", "outside", "blot", ".hidden", "", " "])
    paths = st.lists(parts, max_size=5).map("".join)

    @property_test
    @given(paths, st.none() | paths)
    def check(name: str, version: str | None) -> None:
        try:
            package = surrounded.get(name, version)
        except PackageError:
            return
        assert (name, version) in {("blot", None), ("blot", "1")}
        assert package.path == surrounded.root / "blot" / "1"

    check()
    assert set(snapshot(surrounded.root.parent)) == inside
