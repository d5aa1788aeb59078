"""The cpu image, built and run by deploy/container/test.sh; and its lock."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from service.settings import VERSION, Settings
from service.transport.supervisor import KILL_SECONDS

SKIPPED = 77  # the exit status of test.sh if it cannot run here


def lock(path: Path) -> dict[str, set[SpecifierSet]]:
    """Return the versions of each library in a lock."""
    versions: dict[str, set[SpecifierSet]] = {}
    for line in path.read_text().splitlines():
        if line[:1].isalpha():  # otherwise a comment or a digest
            expected = Requirement(line.removesuffix("\\"))
            versions.setdefault(expected.name, set()).add(expected.specifier)
    return versions


def test_the_cpu_image_installs_what_serve_installs_but_torch_and_cuda(root: Path) -> None:
    cpu, serve = (lock(root / f"requirements/{name}.txt") for name in ("cpu", "serve"))
    assert cpu["onnxruntime"] == serve["onnxruntime-gpu"]
    assert {name: serve[name] for name in cpu} == cpu
    left_out = serve.keys() - cpu.keys()
    assert {"torch", "onnxruntime-gpu", "nvidia-cudnn-cu13"} <= left_out
    assert {"bentoml", "orjson", "pillow"} <= cpu.keys()


def test_every_library_of_an_image_has_a_digest(root: Path) -> None:
    lines = (root / "deploy/container/Dockerfile").read_text().replace("\\\n", "").splitlines()
    installing = [part for line in lines for part in line.split("&&") if "pip install" in part]
    assert len(installing) == 2
    assert all("--require-hashes" in part for part in installing)


@pytest.mark.parametrize("name", ["cpu", "serve"])
def test_an_image_has_the_optional_libraries_of_its_settings(root: Path, name: str) -> None:
    """Nothing can be installed into an image, and signatures and traces need these."""
    requested = {"model-signing", "pyopenssl", "opentelemetry-exporter-otlp-proto-http"}
    assert requested <= lock(root / f"requirements/{name}.txt").keys()


def test_the_list_of_libraries_names_the_version_and_each_library(
    root: Path, tmp_path: Path
) -> None:
    small, file = tmp_path / "lock.txt", tmp_path / "new" / "list.json"
    small.write_text("numpy==2.3.0\norjson==3.11.3\n")
    subprocess.run(
        [root / "deploy/container/sbom.sh", small, file],
        env={**os.environ, "VENV": sys.prefix}, check=True,
    )  # fmt: skip
    content = json.loads(file.read_bytes())
    component = content["metadata"]["component"]
    assert (component["name"], component["version"]) == ("fitserve", VERSION)
    assert [library["name"] for library in content["components"]] == ["numpy", "orjson"]


def test_the_stop_timeout_of_the_image_exceeds_the_shutdown(root: Path) -> None:
    command = (root / "deploy/container/Dockerfile").read_text().splitlines()[-1]
    (drain,) = re.findall(r'"--timeout-graceful-shutdown", "(\d+)"', command)
    page = (root / "deploy/container/README.md").read_text()
    stated_seconds = {
        *re.findall(r"--stop-timeout (\d+)", page),
        *re.findall(r"Give it (\d+) s", page),
    }
    assert stated_seconds
    assert min(map(int, stated_seconds)) > int(drain) + KILL_SECONDS
    assert float(drain) == Settings().graceful_shutdown_seconds


@pytest.mark.timeout(900)
def test_the_cpu_image_is_small_runs_read_only_responds_and_drains(root: Path) -> None:
    with subprocess.Popen(
        [root / "deploy/container/test.sh"],
        env={**os.environ, "VENV": sys.prefix},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as script:
        try:
            output, _ = script.communicate(timeout=840)
        except BaseException:
            os.killpg(script.pid, signal.SIGTERM)  # it removes its containers
            raise
    if script.returncode == SKIPPED:
        pytest.skip(output.strip().splitlines()[-1])
    assert script.returncode == 0, output[-8000:]
