"""An older version that serves again is noticed, while the record of served versions is kept."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.inference.served_versions import default_file, keep, older_versions, read

Logged = Callable[[], list[logging.LogRecord]]


def warnings(logged: Logged) -> list[str]:
    return [record.getMessage() for record in logged() if record.levelname == "WARNING"]


def test_only_a_lower_version_is_noticed_at_each_start(tmp_path: Path, logged: Logged) -> None:
    file = tmp_path / "state" / "versions.json"
    assert older_versions({"a": 3, "b": 10}, file, tmp_path) == {}
    assert older_versions({"a": 3, "b": 11, "c": 1}, file, tmp_path) == {}
    assert warnings(logged) == []
    notice = "version 3 was served before and is not there any more; the older version 2 serves"
    for _ in range(2):
        assert older_versions({"a": 2, "b": 11}, file, tmp_path) == {"a": notice}
    assert warnings(logged) == [f"package a: {notice}"] * 2
    assert older_versions({"a": 4}, file, tmp_path) == {}
    assert read(file) == {"a": 4, "b": 11, "c": 1}
    assert [path.name for path in file.parent.iterdir()] == ["versions.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"a": "3"}', b'{"a": true}', b'{"a": 0}', b'{"../a": 3}', b"\xff",
        b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}', b" " * 2**21,
    ],
)  # fmt: skip
def test_a_damaged_record_is_started_again_with_a_warning(
    content: bytes, tmp_path: Path, logged: Logged
) -> None:
    file = tmp_path / "versions.json"
    file.write_bytes(content)
    assert older_versions({"a": 2}, file, tmp_path) == {}
    (warning,) = warnings(logged)
    assert warning.startswith(f"the record of the versions served is started again: {file}: it ")
    assert json.loads(file.read_bytes()) == {"a": 2}


def test_a_record_that_is_a_pipe_does_not_block(tmp_path: Path, logged: Logged) -> None:
    file = tmp_path / "versions.json"
    os.mkfifo(file)
    assert older_versions({"a": 2}, file, tmp_path) == {}
    assert "it is a pipe" in warnings(logged)[0]
    assert "name another with FITSERVE_VERSIONS_FILE" in warnings(logged)[1]
    assert file.is_fifo(), "a record was put in its place"


def test_a_record_behind_a_link_is_written_to_its_target(tmp_path: Path, logged: Logged) -> None:
    record, link = tmp_path / "volume" / "versions.json", tmp_path / "versions.json"
    record.parent.mkdir()
    link.symlink_to(record)
    older_versions({"a": 2}, link, tmp_path)
    assert link.is_symlink()
    assert (read(record), warnings(logged)) == ({"a": 2}, [])


def test_a_record_that_cannot_be_written_is_a_warning_only(tmp_path: Path, logged: Logged) -> None:
    keep(tmp_path / "versions.json", {"a": 3})
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "versions.json"
    assert older_versions({"a": 2}, file, tmp_path) == {}
    assert warnings(logged)[-1] == (
        "an older version that is put back later may not be noticed: "
        f"{file}: it cannot be written (File exists)"
    )


def test_a_full_disk_leaves_the_record_unchanged_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    file = tmp_path / "versions.json"
    keep(file, {"a": 3})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert list(older_versions({"a": 2, "b": 1}, file, tmp_path)) == ["a"]
    assert "No space left on device" in warnings(logged)[0]
    assert read(file) == {"a": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["versions.json"]


def test_each_repository_has_its_own_record_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: Logged
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = default_file(Path("/a")), default_file(Path("/b"))
    assert first.parent == second.parent == tmp_path / "fitserve"
    assert first != second
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_file(Path("/a")).is_relative_to(tmp_path / "home" / ".local" / "state")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert older_versions({"a": 2}, None, Path("/a")) == {}
    assert "this user has no home" in warnings(logged)[0]
