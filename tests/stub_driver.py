"""A stand-in for the NVIDIA driver's library: it lets CUDA's libraries load where there is no GPU.

It says what a machine without a device says, or one whose driver is older than the CUDA of the
wheels. It computes nothing.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE, what every other call of it returns


def write_stub_driver(folder: Path, *linked: Path, version: int = 13_020) -> Path:
    """Compile `libcuda.so.1`, with every function of the driver that some libraries link.

    Args:
        folder: where it is written; to be named in `LD_LIBRARY_PATH`.
        linked: the libraries.
        version: the CUDA that it says it supports, as 12020 for 12.2.

    Returns:
        `folder`. The test skips where there is no C compiler.
    """
    compiler, symbols = shutil.which("cc"), shutil.which("nm")
    if compiler is None or symbols is None:
        pytest.skip("a stub of the driver needs a C compiler and nm")
    listed = subprocess.run(
        [symbols, "-D", "--undefined-only", *map(str, linked)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = set(re.findall(r" U (cu[A-Z]\w*)", listed)) - {"cuInit", "cuDriverGetVersion"}
    code = [f"int {name}(void) {{ return {NO_DEVICE}; }}" for name in sorted(names)]
    code.append(f"int cuInit(unsigned flags) {{ return {NO_DEVICE}; }}")
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
