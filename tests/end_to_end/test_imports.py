"""The import contracts of the layers."""

import subprocess
from pathlib import Path

from live_server import BIN


def test_the_import_contracts_hold(root: Path) -> None:
    done = subprocess.run(
        [BIN / "lint-imports", "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
