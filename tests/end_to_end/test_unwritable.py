"""`make serve` works if BentoML's home, or every usual folder, is not writable."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from faulty_networks import write_sound
from live_server import serving, temporary_home

READ_ONLY = (
    'for folder in /tmp /var/tmp /usr/tmp "$PWD"; do [ ! -d "$folder" ] || '
    '{ mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder"; } || exit 1; '
    'done; cd "$PWD"; exec "$@"'
)


def serve(root: Path, repository: Path, settings: dict[str, str], under: Sequence[str]) -> str:
    """Return the log of a server with these settings, from its start to its end."""
    write_sound(repository, "sound")
    settings |= {"FITSERVE_DEVICE": "cpu", "FITSERVE_MODEL_REPOSITORY": str(repository)}
    command = (sys.executable, "-m", "service")
    with (
        temporary_home() as home,
        serving(home, root, settings=settings, under=under, command=command) as server,
    ):
        server.end()
        return server.read_log()


def test_a_home_that_cannot_be_created_is_replaced(root: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    settings = {"BENTOML_HOME": "/dev/null/home", "TMPDIR": str(temporary)}
    log = serve(root, tmp_path / "models", settings, ())
    assert log.count("warning: BentoML's home directory cannot be used") == 1
    assert "Traceback" not in log
    assert list(temporary.iterdir()) == []


def test_the_server_runs_on_a_read_only_file_system(root: Path, tmp_path: Path) -> None:
    under = ("unshare", "--mount", "sh", "-c", READ_ONLY, "sh")
    completed = subprocess.run(
        [*under, "true"], cwd=root, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        pytest.skip(f"no read-only folders can be made here: {completed.stderr.strip()}")
    log = serve(root, tmp_path / "models", {}, under)
    assert log.count("the only writable folder for temporary files is /dev/shm") == 1
    assert "Traceback" not in log
