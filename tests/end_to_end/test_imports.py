"""The import contracts of the layers."""

import subprocess
from pathlib import Path

from live_server import BIN


def test_the_import_contracts_hold(root: Path) -> None:
    completed = subprocess.run(
        [BIN / "lint-imports", "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert " 0 broken" in completed.stdout
