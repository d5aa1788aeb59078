"""A real Triton: the server of the wheel `nvidia-pytriton`.

`FITSERVE_TEST_TRITON` is the Python of an environment with that wheel and numpy before 2, which its
Python backend needs. It is not the project's environment: the wheel contains its own libraries.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from echo_models import Echo, write_for_triton
from live_server import free_port

START_SECONDS = 120
_LOOK = """
import sys, sysconfig, numpy
assert int(numpy.__version__.split(".")[0]) < 2
print(sysconfig.get_path("platlib"), sysconfig.get_config_var("LIBDIR"), sys.version_info[1])
"""


class Installation(NamedTuple):
    """An installed Triton: its Python, the folder of its wheel, the libraries of its backend."""

    python: Path
    site: Path
    library: Path
    minor: str

    @property
    def server(self) -> Path:
        """Return the folder of the server."""
        return self.site / "pytriton/tritonserver"


def installation() -> Installation | None:
    """Return the installation in `FITSERVE_TEST_TRITON`; None if it has no such wheel."""
    python = os.environ.get("FITSERVE_TEST_TRITON", "")
    if not python or not Path(python).is_file():
        return None
    completed = subprocess.run([python, "-c", _LOOK], capture_output=True, text=True, check=False)
    if completed.returncode:
        return None
    site, library, minor = completed.stdout.split()
    installation = Installation(Path(python), Path(site), Path(library), minor)
    return installation if (installation.server / "bin/tritonserver").is_file() else None


class Triton:
    """A Triton server, restarted after a request that ends it.

    Args:
        home: an empty folder for the server's files and its log.
        models: the served models.
        largest: the rows of the largest batch.
        installed: the installation.
    """

    def __init__(
        self, home: Path, models: Sequence[Echo], largest: int, installed: Installation
    ) -> None:
        self._home, self._installed = home, installed
        backends = home / "backends"
        shutil.copytree(installed.server / "backends", backends)
        stub = f"python_backend_stubs/3.{installed.minor}/triton_python_backend_stub"
        shutil.copy(installed.server / stub, backends / "python")
        for model in models:
            write_for_triton(home / "repository", model, largest)
        self.start()

    def start(self) -> None:
        """Start the server, and wait until every model is ready."""
        site, server = self._installed.site, self._installed.server
        libraries = (
            self._installed.library,
            site / "nvidia_pytriton.libs",
            server / "lib",
            server / "external_libs",
        )
        # The interpreter of the backend finds its libraries by the first `python3` of the path.
        path = f"{self._installed.python.parent}:{os.environ['PATH']}"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    server / "bin/tritonserver",
                    f"--model-repository={self._home / 'repository'}",
                    f"--backend-directory={self._home / 'backends'}",
                    *("--http-address=127.0.0.1", f"--http-port={port}"),
                    *("--allow-grpc=false", "--allow-metrics=false"),
                ],
                env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/v2/health/ready", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        self.end()
        raise AssertionError(f"Triton did not start; its log ends:\n{self._log()}")

    def end(self) -> None:
        """Stop the server, whether it runs or not."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):  # its backends survive its death
            os.killpg(self._process.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Restart the server, which has ended or is about to."""
        self.end()
        self.start()

    def _log(self) -> str:
        return (self._home / "log").read_text(errors="replace")[-4000:]
