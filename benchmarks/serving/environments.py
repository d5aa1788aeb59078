"""Virtual environments of the peers, created on demand from their locks."""

import hashlib
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.serving.servers import PEERS, Server, ServerError
from service.settings import ROOT

ENVIRONMENTS = Path(sys.prefix).resolve() / "peers"
MARKER = ".installed"
"""A file in a complete environment: the digest of its lock."""
ONNX_ONLY = "serve-onnx"
"""The environment of fitserve without torch."""


def environment_of(server: Server) -> Path:
    """Return the environment of `server`; create it if it is missing or of another lock.

    Raises:
        ServerError: the environment cannot be installed on this machine.
    """
    if not server.peer:
        return Path(sys.prefix)
    lock = _lock(server)
    return _environment(server.name, ["-r", str(lock)], [lock])


def installed(server: Server) -> bool:
    """Return whether `environment_of` installs nothing."""
    marker = ENVIRONMENTS / server.name / MARKER
    return not server.peer or (marker.is_file() and marker.read_text() == _digest([_lock(server)]))


def environment_without_torch() -> Path:
    """Return the environment of fitserve without torch: the project's extra, as locked."""
    project, lock = ROOT / "pyproject.toml", ROOT / "requirements" / "serve.txt"
    requirements = ["-r", str(project), "--extra", ONNX_ONLY, "-c", str(lock)]
    return _environment(ONNX_ONLY, requirements, [project, lock])


def versions(environment: Path, libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of `libraries`."""
    folders = [str(folder) for folder in environment.glob("lib/python*/site-packages")]
    installed = {d.metadata["Name"].lower(): d.version for d in distributions(path=folders)}
    return {name: installed[name] for name in libraries if name in installed}


def _environment(name: str, requirements: list[str], sources: list[Path]) -> Path:
    path = ENVIRONMENTS / name
    marker = path / MARKER
    digest = _digest(sources)
    if marker.is_file() and marker.read_text() == digest:
        return path
    print(f"installing {name} in {path}")
    uv = str(Path(sys.prefix) / "bin" / "uv")
    python = str(path / "bin" / "python")
    for command in (
        ["venv", "-q", "--clear", "--python", sys.executable, str(path)],
        ["pip", "install", "-q", "--compile-bytecode", "--python", python, *requirements],
    ):
        completed = subprocess.run(
            [uv, "--color", "never", *command], capture_output=True, text=True, check=False
        )
        if completed.returncode:
            reason = " ".join(completed.stderr.replace("╰─▶", "").split())
            raise ServerError(f"{name} cannot be installed on this machine: {reason}")
    marker.write_text(digest)
    return path


def _lock(server: Server) -> Path:
    return PEERS / server.name / "requirements.txt"


def _digest(sources: list[Path]) -> str:
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
