"""Every library that a GPU needs, except the driver's, is installed and in the image's lock.

`ldd` resolves the libraries as the loader would, so the tests need no GPU and detect a missing
wheel before a machine with a GPU does.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from packaging.requirements import Requirement
from stub_driver import write_stub_driver

SITE = Path(numpy.__file__).resolve().parents[1]
CAPI = SITE / "onnxruntime" / "capi"
PROVIDER = CAPI / "libonnxruntime_providers_cuda.so"
FOLDERS = [*sorted(SITE.glob("nvidia/*/lib")), SITE / "torch" / "lib", CAPI]

DRIVER = {"libcuda.so.1", "libnvidia-ml.so.1"}
"""Libraries of the driver, which the host provides to a container."""

SYSTEM = re.compile(r"(ld-linux-x86-64|lib(c|m|dl|rt|pthread|util|gcc_s|stdc\+\+|z))\.so\.\d+")
"""Libraries of every Debian, slim images included."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() != "x86_64"
    or not PROVIDER.is_file()
    or not any(SITE.glob("nvidia/*/lib/libcudart.so*")),
    reason="the wheels with CUDA (onnxruntime-gpu, torch) are not installed here",
)


@pytest.fixture(scope="module")
def resolved() -> dict[str, Path | None]:
    """The libraries that ONNX Runtime's CUDA, cuDNN and torch need, with their files."""
    roots = [PROVIDER, *SITE.glob("nvidia/cudnn/lib/*.so*"), *SITE.glob("torch/lib/*.so")]
    assert len(roots) > 10
    listed = subprocess.run(
        ["ldd", *map(str, roots)],
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, FOLDERS))},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    matches = re.findall(r"^\t(\S+) => (not found|\S+)", listed, re.MULTILINE)
    return {name: None if path == "not found" else Path(path) for name, path in matches}


def test_every_library_that_cuda_needs_is_installed(resolved: dict[str, Path | None]) -> None:
    assert {"libcurand.so.10", "libcublas.so.13", "libcudart.so.13"} <= resolved.keys()
    assert [name for name, path in resolved.items() if path is None and name not in DRIVER] == []


def test_libraries_outside_the_environment_are_on_every_debian(
    resolved: dict[str, Path | None],
) -> None:
    """Libraries outside the environment must be on every Debian, as an image would lack them."""
    elsewhere = {
        name
        for name, path in resolved.items()
        if name not in DRIVER and path and not path.resolve().is_relative_to(SITE)
    }
    assert [name for name in elsewhere if not SYSTEM.fullmatch(name)] == []


def test_the_lock_of_the_gpu_image_has_every_library_that_cuda_needs(
    root: Path, resolved: dict[str, Path | None]
) -> None:
    on = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    locked = set()
    for line in (root / "requirements/serve.txt").read_text().splitlines():
        if line[:1].isalpha():
            expected = Requirement(line.removesuffix("\\"))
            if expected.marker is None or expected.marker.evaluate(on):
                locked.add(expected.name)
    needed = {path.resolve() for path in resolved.values() if path is not None} | {PROVIDER}
    owners = {
        owner.metadata["Name"].lower().replace("_", "-")
        for owner in importlib.metadata.distributions(path=[str(SITE)])
        if any(
            Path(str(owner.locate_file(file))).resolve() in needed
            for file in owner.files or ()
            if ".so" in file.name
        )
    }
    assert {"torch", "onnxruntime-gpu", "nvidia-curand", "nvidia-cudnn-cu13"} <= owners
    assert owners - locked == set()


LOAD = """
import ctypes, os, sys
from pathlib import Path
import onnxruntime

onnxruntime.preload_dlls()
capi = Path(onnxruntime.__file__).parent / "capi"
ctypes.CDLL(str(capi / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
ctypes.CDLL(str(capi / "libonnxruntime_providers_cuda.so"), os.RTLD_LAZY)
print("loaded")
"""


def test_onnx_runtime_s_cuda_loads_as_the_service_loads_it(tmp_path: Path) -> None:
    """With a stub of the driver, and no path to the wheels except ONNX Runtime's own."""
    driver = write_stub_driver(tmp_path, PROVIDER)
    completed = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert completed.stdout == "loaded\n", completed.stdout + completed.stderr[-2000:]
