"""The metrics folder of a server: private, and removed with the server or by the next one."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.telemetry.multiprocess_folder import (
    FOLDER,
    METRICS,
    ServerFolder,
    ensure_temporary_folder,
    place_of_folder,
)

HOLDER = """
import sys
from pathlib import Path
from service.telemetry.multiprocess_folder import ServerFolder

print(ServerFolder(Path(sys.argv[1])).path, flush=True)
sys.stdin.read()
"""


def test_a_folder_is_private_and_removed_with_its_content(tmp_path: Path) -> None:
    folder = ServerFolder(tmp_path / "missing")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "counter_1.db").write_bytes(b"1")
    folder.remove()
    assert list((tmp_path / "missing").iterdir()) == []


def test_two_servers_have_two_folders(tmp_path: Path) -> None:
    first, second = ServerFolder(tmp_path), ServerFolder(tmp_path)
    assert first.path != second.path
    assert first.path.exists()
    second.remove()
    assert first.path.exists()
    first.remove()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_the_folder_of_a_server_is_removed_only_after_the_server_was_killed(
    tmp_path: Path, root: Path
) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert held.stdout is not None
    path = Path(held.stdout.readline().strip())
    (path / "counter_1.db").write_bytes(b"1")
    ServerFolder(tmp_path).remove()
    assert path.exists(), "a living server lost its folder"
    held.kill()
    held.communicate()
    ServerFolder(tmp_path).remove()
    assert not path.exists(), "the folder of a dead server stays"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_only_metrics_folders_are_leftovers(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"1")
    (tmp_path / f"{METRICS}link").symlink_to(elsewhere)
    (tmp_path / f"{METRICS}file").write_bytes(b"1")
    (tmp_path / "counter_1.db").write_bytes(b"1")
    before = set(tmp_path.iterdir())
    ServerFolder(tmp_path).remove()
    assert set(tmp_path.iterdir()) == before
    assert (elsewhere / "file").exists()


def test_the_operator_can_set_the_parent_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert place_of_folder() == Path(tempfile.gettempdir())
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert place_of_folder() == tmp_path


def test_without_a_folder_for_temporary_files_another_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    ensure_temporary_folder(tmp_path / "missing", tmp_path)
    assert os.environ["TMPDIR"] == str(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match="set TMPDIR to one that is"):
        ensure_temporary_folder(tmp_path)
