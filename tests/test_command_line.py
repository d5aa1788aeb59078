"""The command `fitserve`, run from a folder with modules of the same names."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from live_server import serving, temporary_home

from fitserve.command_line import COMMANDS

SHIPPED = "curve-tanh/1"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's own project, with folders that hide our packages from `python -m`."""
    for name in ("models", "service", "training", "fitserve"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    return tmp_path


def run(
    project: Path, root: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Call `fitserve` as the console script does."""
    return subprocess.run(
        program(*arguments),
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def program(*arguments: str) -> list[str]:
    code = "import sys; from fitserve.command_line import main; sys.argv[0] = 'fitserve'; main()"
    return [sys.executable, "-P", "-c", code, *arguments]


def test_the_packages_are_those_that_are_shipped_or_those_of_the_repository_named(
    project: Path, root: Path, tmp_path: Path
) -> None:
    shipped = run(project, root, "list")
    assert SHIPPED in shipped.stdout
    assert shipped.returncode == 0
    empty = tmp_path / "empty"
    message = f"error: there is no package in {empty}\n"
    assert run(project, root, "list", "--repository", str(empty)).stderr == message
    assert run(project, root, "list", FITSERVE_MODEL_REPOSITORY=str(empty)).stderr == message


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_options(command: str, project: Path, root: Path) -> None:
    completed = run(project, root, command, "--help")
    assert completed.returncode == 0, completed.stderr
    assert "--" in completed.stdout


def test_help_names_every_command_and_an_unknown_one_is_an_error(project: Path, root: Path) -> None:
    shown = run(project, root, "--help").stdout
    assert all(f"  {command} " in shown for command in COMMANDS)
    wrong = run(project, root, "lits")
    assert wrong.returncode == 1
    assert wrong.stderr.endswith("error: there is no command 'lits'\n")


def test_a_server_starts_in_any_folder_on_the_repository_named(project: Path, root: Path) -> None:
    options = ("--repository", str(root / "models"))
    settings = {"PYTHONPATH": str(root), "FITSERVE_DEVICE": "cpu"}
    with (
        temporary_home() as home,
        serving(home, project, *options, command=program("serve"), settings=settings) as server,
    ):
        models = httpx.get(f"{server.url}/v2/models").json()["models"]
    assert SHIPPED.partition("/")[0] in models
