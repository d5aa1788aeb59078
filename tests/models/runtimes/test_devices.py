"""The handling of CUDA devices, drivers and full memories, tested without a CUDA device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from fake_cuda import fake_onnx_cuda, fake_torch_cuda
from onnxruntime.capi import onnxruntime_pybind11_state
from stub_driver import write_stub_driver

from models.package.card import MODEL_FILES, RuntimeName
from models.package.model_package import ModelPackage, PackageError
from models.runtimes import onnx_library, torch_runtimes
from models.runtimes.devices import (
    DeviceError,
    driver_problem,
    free_memory,
    is_out_of_memory,
    torch_devices,
)
from models.runtimes.differences import relative_difference, tolerated
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import OnnxRuntime

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
ROWS = {"x": np.zeros((4, 1), np.float32)}

needs_cuda_wheels = pytest.mark.skipif(
    not PROVIDER.is_file(), reason="the ONNX Runtime that is installed here has no CUDA"
)


def fail_with(runtime: Any, error: Exception) -> None:
    """Make every computation of an opened runtime raise this error."""

    def fail(*_: Any) -> None:
        raise error

    class Failing:
        run = fail

        def __init__(self, session: Any) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    if runtime.name == "onnx":  # below the Python code of ONNX Runtime, which has a fallback
        runtime._session._sess = Failing(runtime._session._sess)
    else:
        runtime._module = fail


# Memory.

MESSAGES = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.39 GiB",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size);",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "GET was unable to find an engine to execute this computation",
    "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4096",
    "Available memory of 128 is smaller than requested bytes of 4096",
    "std::bad_alloc",
    "bad allocation",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory: you tried to "
    "allocate 4096 bytes.",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.",
    "mmap failed: Cannot allocate memory",
]


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
@pytest.mark.parametrize("message", MESSAGES)
def test_every_out_of_memory_message_becomes_a_memory_error(
    message: str, runtime: RuntimeName, bend: ModelPackage
) -> None:
    opened = open_runtime(bend, runtime)
    cause = RuntimeError(message)
    fail_with(opened, cause)
    with pytest.raises(MemoryError, match=r"^cpu has too little memory") as caught:
        opened(ROWS)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(
    "message", ["CUDA error: device-side assert triggered", "index 50 is out of bounds", ""]
)
def test_other_errors_are_not_memory_errors(message: str, bend: ModelPackage) -> None:
    assert not is_out_of_memory(RuntimeError(message))
    for runtime in bend.card.runtimes:
        opened = open_runtime(bend, runtime)
        fail_with(opened, RuntimeError(message))
        with pytest.raises(RuntimeError) as caught:
            opened(ROWS)
        assert not isinstance(caught.value, MemoryError)


def test_a_file_that_does_not_fit_into_the_memory_of_a_gpu_is_a_device_error(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the package's other runtime is tried."""

    def lack(device: str) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=secret ; ")

    monkeypatch.setattr("models.runtimes.runtime.load_cuda", lack)
    said = r"^cuda:0 fails .*: it cannot be loaded \(CUDA failure 2: out of memory\)$"
    with pytest.raises(DeviceError, match=said):
        open_runtime(bend, "onnx", "cuda:0")


@pytest.mark.parametrize("is_used", [True, False])
def test_the_memory_that_torch_keeps_for_deleted_networks_is_released(
    is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose torch has not used CUDA must not initialise it: this takes memory."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    free_memory()
    assert calls == (["empty_cache"] if is_used else [])


# No silent fallback.


def test_a_computation_that_fails_on_the_gpu_is_not_repeated_on_the_cpu(
    bend: ModelPackage,
) -> None:
    opened = open_runtime(bend, "onnx")
    fail_with(opened, onnxruntime_pybind11_state.EPFail("CUDA failure 700: an illegal access"))
    with pytest.raises(onnxruntime_pybind11_state.EPFail):
        opened(ROWS)


@pytest.mark.parametrize(("provider", "device"), [("CUDA", "cuda:0"), ("CPU", "cpu")])
def test_a_graph_without_gpu_operators_reports_the_cpu_as_its_device(
    provider: str, device: str, bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_onnx_cuda(monkeypatch, computes_on=f"{provider}ExecutionProvider")
    assert open_runtime(bend, "onnx", "cuda:0").device == device


def test_cuda_options_disable_tf32_and_the_algorithm_search(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (session,) = _opened_sessions(bend, monkeypatch, "cuda:1")
    options = session.cuda["CUDAExecutionProvider"]
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def _opened_sessions(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch, device: str
) -> list[Any]:
    opened = fake_onnx_cuda(monkeypatch)
    open_runtime(package, "onnx", device)
    return opened


def test_torch_disables_reduced_precision_on_a_gpu(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    precise = (
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    )
    before = [getattr(owner, name) for owner, name in precise]
    monkeypatch.setattr(torch_runtimes, "torch_problem", lambda device: "")
    monkeypatch.setattr(torch.jit, "load", lambda content, map_location: torch.nn.Identity())
    try:
        for owner, name in precise:
            setattr(owner, name, True)
        with pytest.raises(RuntimeError):  # an Identity is not a scripted module
            torch_runtimes.TorchScriptRuntime(b"", "cuda:0", outputs=["y"])
        assert [getattr(where, name) for where, name in precise] == [False] * 4
    finally:
        for (owner, name), value in zip(precise, before, strict=True):
            setattr(owner, name, value)


def sums(x: Any, weights: Any, kind: str) -> Any:
    """Return FP16 x @ weights as the sum of eight blocks, added in single or half precision."""
    partial = [
        x[:, block::8].astype(np.float32) @ weights[block::8].astype(np.float32)
        for block in range(8)
    ]
    total = partial[0] if kind == "single" else partial[0].astype(np.float16)
    for more in partial[1:]:
        total = (total + more).astype(total.dtype)
    return total.astype(np.float16)


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("depth", [1, 4, 12])
def test_fp16_is_within_tolerance_for_any_order_of_single_precision_sums(
    width: int, depth: int
) -> None:
    """Sums of blocks in half precision, torch's default, differ by more."""
    random = np.random.default_rng(0)
    expected = single = half = random.normal(size=(16, width)).astype(np.float16)
    for layer in range(depth):
        weights = (random.normal(size=(width, width)) * 1.4 / width**0.5).astype(np.float16)
        exact = (expected.astype(np.float32) @ weights.astype(np.float32)).astype(np.float16)
        results = (exact, sums(single, weights, "single"), sums(half, weights, "half"))
        least = 0 if layer < depth - 1 else -np.inf  # the last layer has no ReLU
        expected, single, half = (np.maximum(rows, np.float16(least)) for rows in results)
    difference = relative_difference(single, expected).max()
    assert difference < tolerated(1e-3, expected.dtype)
    assert relative_difference(half, expected).max() > difference


# Device errors and package errors.


def test_a_failure_on_the_gpu_alone_is_a_device_error(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "[ONNXRuntimeError] : 6 : CUDA failure 209: no kernel image ; GPU=0 ; hostname=secret ; "
    fake_onnx_cuda(monkeypatch, lambda rows: RuntimeError(lost))
    with pytest.raises(DeviceError) as caught:
        open_runtime(bend, "onnx", "cuda:0")
    message = "the recorded prediction fails on cuda:0 (CUDA failure 209: no kernel image)"
    assert str(caught.value) == f"cuda:0 fails where the CPU does not: {message}"
    assert isinstance(caught.value.__cause__, PackageError)


def test_a_failure_on_gpu_and_cpu_is_a_package_error(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_onnx_cuda(monkeypatch)
    (bend.path / MODEL_FILES["onnx"]).unlink()
    with pytest.raises(PackageError, match="No such file"):
        open_runtime(bend, "onnx", "cuda:0")


# Drivers and GPUs.


@pytest.mark.parametrize(
    ("driver", "cuda", "problem"),
    [
        ((13, 0), "13.2", ""),  # minor versions of CUDA need no newer driver
        ((14, 1), "13.2", ""),
        ((0, 0), "13.2", ""),  # the driver reports no version: an error would follow on computing
        ((12, 8), "13.2", "the NVIDIA driver supports CUDA 12.8, and net 1.0 needs CUDA 13.0"),
        (None, "13.2", "this machine has no NVIDIA driver"),
        ((13, 0), None, "net 1.0 is built without CUDA"),
    ],
)
def test_a_driver_is_too_old_if_a_library_needs_a_newer_cuda(
    driver: tuple[int, int] | None,
    cuda: str | None,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_torch_cuda(monkeypatch, [], driver=driver)
    message = driver_problem("net 1.0", cuda)
    assert message.startswith(problem)
    assert bool(message) == bool(problem)


@pytest.mark.parametrize(
    ("capability", "fits"),
    [
        ((7, 0), False),
        ((7, 5), True),
        ((8, 9), False),  # machine code for 7.5 does not run on 8.x
        ((9, 0), True),
        ((9, 1), False),  # 9.0a runs on 9.0 only
        ((10, 0), True),
        ((12, 1), True),  # with the PTX of 10.0
    ],
)
def test_a_gpu_is_usable_if_torch_has_kernels_for_it(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_cuda(monkeypatch, [(9, 0), capability])
    usable, reason = torch_devices()
    assert usable == (["cuda:0", "cuda:1"] if fits else ["cuda:0"])
    major, minor = capability
    message = (
        f"cuda:1 (Card 1) has compute capability {major}.{minor}, and torch {torch.__version__}"
    )
    assert reason == ("" if fits else f"{message} has kernels for sm_75, sm_90a, compute_100 alone")


@pytest.mark.parametrize(
    ("capabilities", "driver", "reason"),
    [
        ([(9, 0)], None, "this machine has no NVIDIA driver"),
        ([(9, 0)], (12, 2), "the NVIDIA driver supports CUDA 12.2, and torch .* needs CUDA 13.0"),
        ([(5, 2)], (13, 2), r"\(Card 0\) has compute capability 5.2, and torch .* has kernels for"),
    ],
)
def test_an_unusable_device_is_a_device_error_with_both_versions(
    capabilities: list[tuple[int, int]],
    driver: tuple[int, int] | None,
    reason: str,
    bend: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_torch_cuda(monkeypatch, capabilities, driver=driver)
    with pytest.raises(DeviceError, match=f"^torch cannot compute on cuda:0: .*{reason}"):
        open_runtime(bend, "torchscript", "cuda:0")


@pytest.mark.skipif(not torch.version.cuda, reason="the torch that is installed here has no CUDA")
def test_the_documented_requirements_are_those_of_the_installed_torch(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = " ".join((root / "docs" / "gpu.md").read_text().split())
    version = ".".join(torch.__version__.split(".")[:2])
    assert (
        f"torch {version} has them for compute capability 7.5 (Turing), 8.0 and 8.6 and later 8.x "
        "(Ampere, Ada), 9.0 (Hopper), 10.x and 12.x (Blackwell). Not Pascal or Volta."
    ) in page
    assert "A driver for CUDA 13: version 580 or later." in page
    assert torch.version.cuda.startswith("13.")
    usable = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)]
    unusable = [(6, 0), (6, 1), (7, 0), (7, 2)]
    kernels = torch.cuda.get_arch_list()
    fake_torch_cuda(monkeypatch, usable + unusable)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    assert torch_devices()[0] == [f"cuda:{index}" for index in range(len(usable))]


# Errors of CUDA's own libraries, with a stub in place of the driver.

OPEN = """
import json, sys
from pathlib import Path
from models.runtimes.devices import DeviceError, torch_devices
from models.package.repository import ModelRepository
from models.runtimes.loading import open_runtime

package = ModelRepository(Path(sys.argv[1])).get("bend")
errors = {}
for name in ("onnx", "torchscript"):
    try:
        open_runtime(package, name, "cuda:0")
    except DeviceError as error:
        errors[name] = str(error)
print(json.dumps({**errors, "auto": torch_devices()}))
"""


@pytest.mark.slow
@needs_cuda_wheels
@pytest.mark.parametrize(
    ("version", "onnx", "torchscript"),
    [
        (13_020, "there is no cuda:0: CUDA lists no device", "finds no CUDA device"),
        (12_020, "driver supports CUDA 12.2, and ONNX Runtime", "driver supports CUDA 12.2, and"),
    ],
    ids=["no device", "an old driver"],
)
def test_the_reason_of_cuda_is_reported_and_nothing_else_is_printed(
    version: int, onnx: str, torchscript: str, root: Path, written: Path, tmp_path: Path
) -> None:
    torch_libraries = (Path(torch.__file__).parent / "lib").glob("*.so")
    driver = write_stub_driver(tmp_path, PROVIDER, *torch_libraries, version=version)
    completed = subprocess.run(
        [sys.executable, "-c", OPEN, str(written)],
        cwd=root, env={**os.environ, "LD_LIBRARY_PATH": str(driver)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert completed.stderr == ""
    errors = json.loads(completed.stdout)
    assert onnx in errors["onnx"]
    assert "hostname" not in errors["onnx"]
    assert torchscript in errors["torchscript"]
    assert errors["auto"][0] == []
    assert torchscript in errors["auto"][1]


@needs_cuda_wheels
@pytest.mark.skipif(torch.cuda.is_available(), reason="here its CUDA loads")
def test_the_load_error_of_onnx_runtime_s_cuda_is_reported_and_chained(
    bend: ModelPackage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_library, "driver_problem", lambda library, cuda: "")
    with pytest.raises(DeviceError, match=r"did not load .*libcuda\.so\.1: cannot open") as caught:
        OnnxRuntime(bend.load(MODEL_FILES["onnx"]), "cuda:0")
    assert isinstance(caught.value.__cause__, OSError)
    assert capfd.readouterr() == ("", "")
