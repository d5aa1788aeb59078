"""A stub of the NVIDIA driver's library, with which CUDA's libraries load without a GPU.

It reports no device, or a driver older than the CUDA of the wheels. It computes nothing.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE, returned by every other call


def write_stub_driver(folder: Path, *linked: Path, version: int = 13_020, devices: int = 0) -> Path:
    """Compile `libcuda.so.1` with every function of the driver that these libraries link.

    Args:
        folder: the destination, for `LD_LIBRARY_PATH`.
        linked: the libraries.
        version: the CUDA version that it reports, such as 12020 for 12.2.
        devices: the number of devices that it reports.

    Returns:
        `folder`. The test is skipped without a C compiler.
    """
    compiler, symbols = shutil.which("cc"), shutil.which("nm")
    if compiler is None or symbols is None:
        pytest.skip("a stub of the driver needs a C compiler and nm")
    listed = subprocess.run(
        [symbols, "-D", "--undefined-only", *map(str, linked)],
        capture_output=True, text=True, check=True,
    ).stdout if linked else ""  # fmt: skip
    own = {"cuInit", "cuDriverGetVersion", "cuDeviceGetCount"}
    names = set(re.findall(r" U (cu[A-Z]\w*)", listed)) - own
    code = [f"int {name}(void) {{ return {NO_DEVICE}; }}" for name in sorted(names)]
    code.append(f"int cuInit(unsigned flags) {{ return {0 if devices else NO_DEVICE}; }}")
    code.append(f"int cuDeviceGetCount(int *found) {{ *found = {devices}; return 0; }}")
    code.append(f"int cuDriverGetVersion(int *found) {{ *found = {version}; return 0; }}")
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "driver.c"
    source.write_text("\n".join(code))
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1",
         "-o", str(folder / "libcuda.so.1"), str(source)],
        check=True,
    )  # fmt: skip
    return folder
