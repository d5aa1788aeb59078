"""The devices that CUDA lists: slices of GPUs (MIG), UUIDs, none, or fewer than requested."""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from fake_cuda import fake_torch_cuda
from stub_driver import write_stub_driver

from models.package.card import MODEL_FILES
from models.package.model_package import ModelPackage
from models.runtimes import devices, onnx_library
from models.runtimes.devices import DeviceError, driver_devices, torch_devices, torch_problem
from models.runtimes.loading import open_runtime
from models.runtimes.runtime import CUDA_OPTIONS, OnnxRuntime

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
SLICE = "MIG-3eb87630-93d5-b2b6-b8ff-9b359caf4ee2"
CARD = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"

needs_cuda_wheels = pytest.mark.skipif(
    not PROVIDER.is_file(), reason="the ONNX Runtime that is installed here has no CUDA"
)


def set_visible(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("visible", "listed", "named"),
    [
        (None, 2, None),
        ("0,1", 2, None),
        (" 1, 0 ", 2, None),
        (CARD, 1, None),
        (SLICE, 1, None),
        ("0,-1,1", 1, None),  # -1 ends the list
        (f"{SLICE},{SLICE[:-1]}0", 1, 2),
        (f"{CARD},GPU-gone,0", 1, 3),
        ("0,9", 1, 2),
    ],
)
def test_named_devices_that_cuda_does_not_list_are_reported(
    visible: str | None, listed: int, named: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_cuda(monkeypatch, [(9, 0)] * listed)
    set_visible(monkeypatch, visible)
    usable, reason = torch_devices()
    assert usable == [f"cuda:{index}" for index in range(listed)]
    if named is None:
        assert reason == ""
    else:
        assert reason.startswith(f"CUDA lists {listed} of the {named} devices that CUDA_VISIBLE_")
    for device in usable:
        assert torch_problem(device) == ""


@pytest.mark.parametrize("visible", ["", "-1", "MIG-gone", "GPU-gone", "none", None])
def test_if_cuda_lists_no_device_the_reason_names_the_environment_variable(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_cuda(monkeypatch, [])
    set_visible(monkeypatch, visible)
    message = f"torch {torch.__version__} finds no CUDA device"
    named = "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible!r}"
    assert torch_devices() == ([], f"{message} (the driver lists none{named})")
    assert torch_problem("cuda:0").startswith(message)


def test_slices_are_counted_by_cuda_and_not_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its initialisation, torch counts GPUs. If these are sliced, a process gets one slice.

    Requests for the other devices failed and ended the start of the service.
    """
    fake_torch_cuda(monkeypatch, [(9, 0)], cards=2)
    assert torch_devices() == (["cuda:0"], "")


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("CUDA error: uncorrectable ECC error\nencountered"), AssertionError("bad id")],
)
def test_a_failing_gpu_leaves_the_others_usable(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch_cuda(monkeypatch, [failure, (9, 0)])
    message = f"cuda:0 fails ({' '.join(str(failure).split())})"
    assert torch_devices() == (["cuda:1"], message)
    assert (torch_problem("cuda:0"), torch_problem("cuda:1")) == (message, "")


def test_an_error_of_cuda_s_initialisation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torch_cuda(monkeypatch, [(9, 0)])
    set_visible(monkeypatch, None)

    def fail() -> None:
        raise RuntimeError("CUDA error: system not yet initialized")

    monkeypatch.setattr(torch.cuda, "init", fail)
    message = "finds no CUDA device (CUDA error: system not yet initialized)"
    assert torch_devices() == ([], f"torch {torch.__version__} {message}")


@pytest.mark.parametrize(
    ("listed", "visible", "said"),
    [
        (1, SLICE, f"CUDA lists cuda:0 alone, with CUDA_VISIBLE_DEVICES='{SLICE}'"),
        (1, None, "CUDA lists cuda:0 alone"),
        (3, "0,1,2", "CUDA lists cuda:0 to cuda:2, with CUDA_VISIBLE_DEVICES='0,1,2'"),
        (0, "", "CUDA lists no device, with CUDA_VISIBLE_DEVICES=''"),
    ],
)
def test_each_runtime_reports_a_missing_device_in_one_sentence(
    listed: int,
    visible: str | None,
    said: str,
    bend: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_visible(monkeypatch, visible)
    monkeypatch.setattr(onnx_library, "driver_problem", lambda library, cuda: "")
    monkeypatch.setattr(onnx_library, "driver_devices", lambda: listed)
    with pytest.raises(DeviceError) as caught:
        OnnxRuntime(bend.load(MODEL_FILES["onnx"]), "cuda:4")
    assert str(caught.value) == f"ONNX Runtime cannot compute on cuda:4: there is no cuda:4: {said}"
    if listed:
        fake_torch_cuda(monkeypatch, [(9, 0)] * listed)
        with pytest.raises(DeviceError) as caught:
            open_runtime(bend, "torchscript", "cuda:4")
        assert str(caught.value) == f"torch cannot compute on cuda:4: there is no cuda:4: {said}"


@pytest.mark.parametrize("count", [0, 3])
def test_the_driver_reports_the_number_of_devices(count: int, root: Path, tmp_path: Path) -> None:
    """The test uses a separate process, since a stub stays loaded."""
    program = "from models.runtimes.devices import driver_devices; print(driver_devices())"
    stub = write_stub_driver(tmp_path, devices=count)
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=root,
        env={**os.environ, "LD_LIBRARY_PATH": str(stub)},
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert printed == f"{count}\n"


def test_another_library_of_the_driver_s_name_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("libc.so.6", "none.so"):
        monkeypatch.setattr(devices, "_DRIVER_LIBRARY", library)
        assert driver_devices() is None


# Options of ONNX Runtime.

OPTIONS = """
import json, sys
from pathlib import Path
from models.package.card import MODEL_FILES
from models.runtimes.onnx_library import _preload, load_onnxruntime
from models.package.repository import ModelRepository
from models.runtimes.runtime import CUDA_OPTIONS

content = ModelRepository(Path(sys.argv[1])).get("bend").load(MODEL_FILES["onnx"])
onnxruntime = load_onnxruntime()
_preload()
errors = []
for more in ({}, {"arena_extend_strategy": "kNone"}, {"nonsense": "1"}):
    providers = [("CUDAExecutionProvider", {**CUDA_OPTIONS, **more})]
    try:
        onnxruntime.InferenceSession(content, providers=providers, enable_fallback=0)
    except Exception as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


@pytest.mark.slow
@needs_cuda_wheels
def test_onnx_runtime_knows_every_option(root: Path, written: Path, tmp_path: Path) -> None:
    """An unknown option is an error. Known options lead to the error of the missing device."""
    driver = write_stub_driver(tmp_path, PROVIDER)
    completed = subprocess.run(
        [sys.executable, "-c", OPTIONS, str(written)],
        cwd=root, env={**os.environ, "LD_LIBRARY_PATH": str(driver)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    known, bad_value, bad_name = json.loads(completed.stdout)
    assert "no CUDA-capable device" in known
    assert "Parse" not in known
    assert "Parse" in bad_value
    assert "Parse" in bad_name


def test_the_memory_of_a_session_grows_only_as_requested() -> None:
    """By default, the memory doubles for each model of each worker on the GPU."""
    assert CUDA_OPTIONS["arena_extend_strategy"] == "kSameAsRequested"
    assert "gpu_mem_limit" not in CUDA_OPTIONS  # a model may use all free memory


@needs_cuda_wheels
def test_onnx_runtime_disables_reduced_precision_in_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = "ORT_CUDA_GEMM_OPTIONS"
    monkeypatch.setenv(variable, "")
    monkeypatch.delenv(variable)
    monkeypatch.setattr(onnx_library, "driver_problem", lambda library, cuda: "")
    monkeypatch.setattr(onnx_library, "driver_devices", lambda: 1)
    monkeypatch.setattr(onnx_library, "_preload", lambda: None)
    onnx_library.load_cuda("cuda:0")
    assert os.environ[variable] == "2"
    os.environ[variable] = "0"  # set by the operator
    onnx_library.load_cuda("cuda:0")
    assert os.environ[variable] == "0"
    with PROVIDER.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        assert text.find(b"disallow_reduced_precision_reduction") > 0  # it still reads the option
