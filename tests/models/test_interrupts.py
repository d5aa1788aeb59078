"""Command lines that are interrupted during their imports, or miss a library."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
SWALLOWED = f"""try:
    exec({INTERRUPT!r})
    for _ in range(1000):
        pass
except BaseException:
    pass
raise RuntimeError("the library was imported by half")
"""


def run(program: str, folder: Path, library: str, code: str) -> tuple[int, str, str]:
    """Run `python -m program list` with a library whose import runs this code."""
    (folder / library).mkdir()
    (folder / library / "__init__.py").write_text(code)
    completed = subprocess.run(
        [sys.executable, "-m", program, "list"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(folder), "BENTOML_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # In the background, a test run ignores SIGINT, and its child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return completed.returncode, completed.stdout, completed.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a process")
@pytest.mark.parametrize(
    ("program", "library", "code"),
    [
        ("models", "numpy", INTERRUPT),
        ("models", "numpy", SWALLOWED),  # as a C library may do
        ("models", "pydantic", INTERRUPT),
        ("training", "torch", INTERRUPT),
        ("training", "torch", SWALLOWED),
        ("training", "typer", INTERRUPT),
        ("service", "bentoml_cli", INTERRUPT),
    ],
)
def test_ctrl_c_during_imports_ends_a_command_without_a_traceback(
    program: str, library: str, code: str, tmp_path: Path
) -> None:
    assert run(program, tmp_path, library, code) == (130, "", "")


def test_a_missing_library_of_training_is_reported_with_the_command_to_install_it(
    tmp_path: Path,
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')"
    message = (
        "error: training needs typer, which is not installed here: `make dev` installs what is "
    )
    assert run("training", tmp_path, "typer", missing) == (1, "", message + "missing\n")
    assert (
        "\ndev: $(VENV)/.all $(VENV)/.clients $(VENV)/.networks ##"
        in (CHECKOUT / "Makefile").read_text()
    )
