"""`models remove` and `restore`: the return to the previous version, and its reversal."""

import re
import shutil
from pathlib import Path

import pytest

from models.__main__ import main
from models.package.repository import ModelRepository

SHIPPED = Path(__file__).parents[3] / "models"


@pytest.fixture
def two(tmp_path: Path) -> ModelRepository:
    """A repository with versions 1 and 2 of one package. Version 2 is signed."""
    for version in ("1", "2"):
        shutil.copytree(SHIPPED / "curve-tanh" / "1", tmp_path / "curve-tanh" / version)
    (tmp_path / "curve-tanh" / "2.sig").write_text("signed")
    return ModelRepository(tmp_path)


def run(repository: ModelRepository, *arguments: str) -> int:
    return main([*arguments, "--repository", str(repository.root)])


def test_a_removed_version_is_replaced_by_the_previous_and_can_be_restored(
    two: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.relative_to(two.root) for path in two.root.rglob("*"))
    assert run(two, "remove", "curve-tanh", "2") == 0
    assert "curve-tanh/1 serves after the next start" in capsys.readouterr().out
    assert two.versions("curve-tanh") == ["1"]
    assert two.removed("curve-tanh") == ["2"]
    assert two.get("curve-tanh").path.name == "1"
    assert two.next_version("curve-tanh") == "3"  # version 2 may be restored
    assert not (two.root / "curve-tanh" / "2.sig").exists()

    assert run(two, "restore", "curve-tanh", "2") == 0
    assert "curve-tanh/2 serves after the next start" in capsys.readouterr().out
    assert sorted(path.relative_to(two.root) for path in two.root.rglob("*")) == before


def test_the_documented_commands_remove_a_version_and_restore_it(two: ModelRepository) -> None:
    page = (SHIPPED.parent / "docs" / "networks.md").read_text()
    commands = re.findall(r"^\S+/python -m models ((?:remove|restore) .*)$", page, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["remove", "restore"]
    for command, versions in zip(commands, (["1"], ["1", "2"]), strict=True):
        assert run(two, *command.split()) == 0
        assert two.versions("curve-tanh") == versions


def test_the_last_version_can_be_removed_and_restored(
    two: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two, "remove", "curve-tanh", "1") == run(two, "remove", "curve-tanh", "2") == 0
    assert "no version of curve-tanh serves after the next start" in capsys.readouterr().out
    assert two.names() == []
    assert run(two, "restore", "curve-tanh", "1") == 0
    assert two.names() == ["curve-tanh"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("remove", "curve-tanh", "3"), "there is no such package; there are: 1, 2"),
        (("remove", "nothing", "1"), "there is no such package; there are: none"),
        (("remove", "../curve-tanh", "1"), "its name must be 1 to 100 letters"),
        (("remove", "curve-tanh", "../1"), "there is no such package; there are: 1, 2"),
        (("restore", "curve-tanh", "1"), "no such version was removed; there are: none"),
    ],
)
def test_a_version_that_cannot_be_moved_is_reported_in_one_sentence(
    arguments: tuple[str, ...], said: str, two: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(two, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: package ")
    assert said in line


def test_no_existing_version_is_overwritten(
    two: ModelRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    two.remove("curve-tanh", "2")
    shutil.copytree(two.root / "curve-tanh" / "1", two.root / "curve-tanh" / "2")
    for command in ("remove", "restore"):
        assert run(two, command, "curve-tanh", "2") == 1
        assert "exists already: move it away" in capsys.readouterr().err
    assert two.versions("curve-tanh") == ["1", "2"]
    assert two.removed("curve-tanh") == ["2"]


def test_the_signature_stays_if_the_version_cannot_be_moved(
    two: ModelRepository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "2":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert run(two, "remove", "curve-tanh", "2") == 1
    assert "it cannot be moved (Permission denied)" in capsys.readouterr().err
    assert (two.root / "curve-tanh" / "2.sig").is_file()
    assert two.versions("curve-tanh") == ["1", "2"]
