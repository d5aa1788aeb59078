"""Placement: the device of this worker, and the fastest of the available runtimes."""

import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import fake_torch_cuda
from slow_runtime import SlowRuntime
from tiny import answer, write_tiny

from models.package.card import RuntimeName
from models.package.model_package import PackageError
from models.runtimes.devices import DeviceError
from service.inference import placement, warm_up
from service.inference.placement import Placement, pick_device, place
from service.inference.timings_cache import TimingsCache


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Hide libraries, as if they were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        placement, "find_spec", lambda name: None if name in missing else find_spec(name)
    )


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    fake_torch_cuda(monkeypatch, [(9, 0)] * count)


# Devices.


def test_without_a_driver_auto_is_the_cpu_and_torch_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its import takes seconds, and 300 MB."""
    monkeypatch.setattr(placement.devices, "driver_cuda", lambda: None)
    monkeypatch.setattr(placement.devices, "torch_devices", lambda: pytest.fail("it was asked"))
    assert pick_device("auto", 1) == "cpu"


@pytest.mark.parametrize("setting", ["cpu", "cuda:0", "cuda:5"])
def test_an_explicit_device_is_used_as_it_is(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    assert pick_device(setting, 1) == setting
    assert pick_device(setting, 2) == setting


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        (0, ["cpu"] * 5),
        (1, ["cuda:0"] * 5),
        (2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        (4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
    ],
)
def test_workers_from_1_take_the_gpus_in_rotation(
    gpus: int, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, gpus)
    assert [pick_device("auto", worker) for worker in range(1, 6)] == devices


def test_without_torch_the_device_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    without(monkeypatch, "torch")
    assert pick_device("auto", 1) == "cpu"


@pytest.mark.parametrize(
    ("capabilities", "driver", "device", "shown"),
    [
        ([(9, 0)], (12, 2), "cpu", r"on the CPU: .* supports CUDA 12\.2, and torch .* 13\.0"),
        ([(5, 2)], (13, 2), "cpu", r"on the CPU: .* compute capability 5\.2, and torch .* has"),
        ([], (13, 2), "cpu", "on the CPU: torch .* finds no CUDA device"),
        ([(5, 2), (9, 0)], (13, 2), "cuda:1", r"on cuda:1: cuda:0 \(Card 0\) has .* 5\.2"),
        ([], None, "cpu", None),
        ([(9, 0)], (13, 2), "cuda:0", None),
    ],
)
def test_auto_logs_why_a_gpu_with_a_driver_is_not_used(
    capabilities: list[tuple[int, int]],
    driver: tuple[int, int] | None,
    device: str,
    shown: str | None,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[logging.LogRecord]],
) -> None:
    fake_torch_cuda(monkeypatch, capabilities, driver=driver)
    assert pick_device("auto", 1) == device
    warnings = [record.getMessage() for record in logged()]
    assert len(warnings) == (shown is not None)
    if shown is not None:
        assert re.search(f"models compute {shown}", warnings[0])


def test_auto_logs_that_a_gpu_needs_torch(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[logging.LogRecord]]
) -> None:
    with_gpus(monkeypatch, 1)
    without(monkeypatch, "torch")
    assert pick_device("auto", 1) == "cpu"
    (warning,) = logged()
    assert "torch is not installed" in warning.getMessage()


# Runtimes.


@pytest.mark.parametrize("slow", ["onnx", "torchscript"])
def test_auto_times_both_runtimes_and_uses_the_faster(
    slow: RuntimeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, SlowRuntime] = {}

    def open_slow(package: Any, name: RuntimeName, device: str, threads: int) -> SlowRuntime:
        opened[name] = SlowRuntime(name, device, 0.01 if name == slow else 0)
        return opened[name]

    monkeypatch.setattr(placement, "open_runtime", open_slow)
    package = write_tiny(tmp_path, "line")
    placed = place(package, "auto", "cpu", threads=1, max_batch_rows=64)
    assert set(opened) == {"onnx", "torchscript"}
    assert placed.runtime.name != slow
    assert placed.runtime is opened[placed.runtime.name]
    assert all(seconds >= 0.01 for seconds in placed.seconds[slow].values())
    for runtime in opened.values():
        assert set(runtime.batches) >= {1, 2, 8}


def test_a_slow_network_is_timed_with_few_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowRuntime("onnx", "cpu", 0.6)
    monkeypatch.setattr(placement, "open_runtime", lambda *arguments: slow)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "onnx", "cpu", threads=1, max_batch_rows=1)
    assert slow.batches == [1, 1]
    assert placed.seconds["onnx"][1] >= 0.6


@pytest.mark.parametrize("slow_runs", [1, 2])
def test_runs_that_compile_are_not_timed(
    slow_runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fake clock: the first run takes 2 s, the second possibly 5 s, the others 1 ms."""
    now = [0.0]

    class Compiling(SlowRuntime):
        def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
            runs = self.batches.count(len(inputs["x"]))
            now[0] += (2.0, 5.0)[runs] if runs < slow_runs else 0.001
            return super().__call__(inputs)

    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(warm_up, "time", clock)
    runtime = Compiling("onnx", "cpu", 0)
    monkeypatch.setattr(placement, "open_runtime", lambda *arguments: runtime)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "onnx", "cpu", threads=1, max_batch_rows=64)
    assert placed.seconds["onnx"] == pytest.approx(dict.fromkeys((1, 2, 8, 32, 64), 0.001))


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_only_an_explicit_runtime_is_opened(
    runtime: RuntimeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    open_runtime = placement.open_runtime

    def open_noted(package: Any, name: RuntimeName, device: str, threads: int) -> Any:
        opened.append((name, device, threads))
        return open_runtime(package, name, device, threads)

    monkeypatch.setattr(placement, "open_runtime", open_noted)
    package = write_tiny(tmp_path, "line")
    placed = place(package, runtime, "cpu", threads=1, max_batch_rows=64)
    assert opened == [(runtime, "cpu", 1)]
    assert placed.runtime.name == runtime
    assert list(placed.seconds) == [runtime]
    rows = np.array([[1], [2]], np.float32)
    np.testing.assert_allclose(placed.runtime({"x": rows})["y"], answer("x", rows))


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (10, [1, 2, 8, 10]), (100, [1, 2, 8, 32, 100])]
)
def test_a_model_is_warmed_up_with_batches_of_one_row_up_to_a_full_one(
    most: int, sizes: list[int], tmp_path: Path
) -> None:
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "auto", "cpu", threads=1, max_batch_rows=most)
    assert list(placed.seconds["onnx"]) == sizes


@pytest.mark.parametrize("runtime", ["auto", "onnx"])
def test_a_package_with_one_file_is_served_by_its_runtime(runtime: Any, tmp_path: Path) -> None:
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    assert place(package, runtime, "cpu", threads=1, max_batch_rows=1).runtime.name == "onnx"


def test_a_runtime_that_the_package_lacks_is_a_clear_error(tmp_path: Path) -> None:
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    with pytest.raises(PackageError, match=r"^package line/1: .*onnx.*runtime=torchscript"):
        place(package, "torchscript", "cpu", threads=1, max_batch_rows=1)


@pytest.mark.parametrize(
    ("installed", "missing"), [("onnx", ("torch",)), ("torchscript", ("onnxruntime",))]
)
def test_auto_uses_the_runtime_that_is_installed(
    installed: RuntimeName, missing: tuple[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *missing)
    placed = place(write_tiny(tmp_path, "line"), "auto", "cpu", threads=1, max_batch_rows=1)
    assert placed.runtime.name == installed
    assert list(placed.seconds) == [installed]


@pytest.mark.parametrize(
    ("runtime", "missing"),
    [("onnx", ["onnxruntime"]), ("torchscript", ["torch"]), ("auto", ["onnxruntime", "torch"])],
)
def test_a_runtime_that_is_not_installed_is_a_clear_error(
    runtime: Any, missing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, *missing)
    package = write_tiny(tmp_path, "line")
    with pytest.raises(PackageError, match=f"runtime={runtime} leaves none that is installed"):
        place(package, runtime, "cpu", threads=1, max_batch_rows=1)


@pytest.mark.parametrize("unfit", ["onnx", "torchscript"])
def test_the_other_runtime_is_used_if_one_cannot_use_the_device(
    unfit: RuntimeName,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[logging.LogRecord]],
) -> None:
    def open_if_fit(package: Any, name: RuntimeName, device: str, threads: int) -> SlowRuntime:
        if name == unfit:
            raise DeviceError("its CUDA did not load")
        return SlowRuntime(name, device, 0)

    monkeypatch.setattr(placement, "open_runtime", open_if_fit)
    package = write_tiny(tmp_path, "line")
    placed = place(package, "auto", "cuda:0", threads=1, max_batch_rows=1)
    assert placed.runtime.name != unfit
    assert list(placed.seconds) == [placed.runtime.name]
    assert placed.unused == {unfit: "its CUDA did not load"}
    (warning,) = logged()
    assert warning.levelno == logging.WARNING
    assert warning.getMessage() == f"line/1 is served without {unfit}: its CUDA did not load"
    with pytest.raises(PackageError, match=r"^package line/1: model\.\w+: its CUDA did not load"):
        place(package, unfit, "cuda:0", threads=1, max_batch_rows=1)


def test_a_device_that_no_runtime_can_use_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DeviceError("its CUDA did not load")

    monkeypatch.setattr(placement, "open_runtime", refuse)
    with pytest.raises(PackageError, match=r"^package line/1: .*its CUDA did not load"):
        place(write_tiny(tmp_path, "line"), "auto", "cuda:0", threads=1, max_batch_rows=1)


@pytest.mark.parametrize("runtime", ["onnx", "torchscript"])
def test_a_missing_gpu_is_a_clear_error(runtime: RuntimeName, tmp_path: Path) -> None:
    package = write_tiny(tmp_path, "line", runtimes=(runtime,))
    with pytest.raises(PackageError, match=r"^package line/1: model\.(onnx|pt): .*cuda"):
        place(package, runtime, "cuda:99", threads=1, max_batch_rows=1)


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [(0.0, 0), (0.0009, 0), (0.001, 1), (0.002, 11), (0.0031, 19), (0.02, 128), (1, 256)],
)
def test_the_rows_of_a_duration_are_interpolated_between_timed_batches(
    seconds: float, rows: int, tmp_path: Path
) -> None:
    runtime = place(write_tiny(tmp_path, "line"), "onnx", "cpu", threads=1, max_batch_rows=1)[0]
    timed = {1: 0.001, 16: 0.0025, 256: 0.04}
    assert Placement(runtime, {"onnx": timed}).rows_within(seconds) == rows
    assert Placement(runtime, {"onnx": timed}).rows_in(seconds, otherwise=7) == rows
    assert Placement(runtime, {}).rows_within(seconds) == 0
    assert Placement(runtime, {}).rows_in(seconds, otherwise=7) == 7


def test_the_duration_of_a_batch_is_interpolated_between_timed_batches(tmp_path: Path) -> None:
    runtime = place(write_tiny(tmp_path, "line"), "onnx", "cpu", threads=1, max_batch_rows=1)[0]
    placement = Placement(runtime, {"onnx": {1: 0.001, 16: 0.0025, 256: 0.04}})
    assert [placement.seconds_of(rows) for rows in (1, 16, 256)] == [0.001, 0.0025, 0.04]
    assert 0.0025 < placement.seconds_of(100) < 0.04
    assert Placement(runtime, {}).seconds_of(1) == 0


@pytest.mark.parametrize(
    ("runtime", "threads", "seconds", "has_its_own"),
    [
        ("onnx", 2, 1.0, True),
        ("onnx", 1, 1.0, False),
        ("onnx", 2, 0.0, False),
        ("torchscript", 2, 1.0, False),
    ],
)
def test_batches_on_the_event_loop_have_a_runtime_of_one_thread_if_needed(
    runtime: RuntimeName,
    threads: int,
    seconds: float,
    has_its_own: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "_SMALL_BYTES", 10)  # so that not all batches are short
    package = write_tiny(tmp_path, "line")
    placed = place(
        package, runtime, "cpu", threads=threads, max_batch_rows=4, inline_seconds=seconds
    )
    assert (placed.inline_runtime is not None) == has_its_own
    if placed.inline_runtime is not None:
        x = {"x": np.array([[3.0], [0.5]], np.float32)}
        np.testing.assert_array_equal(placed.inline_runtime(x)["y"], placed.runtime(x)["y"])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RuntimeName, int]]:
    """The names and the threads of the runtimes that are opened."""
    opened: list[tuple[RuntimeName, int]] = []
    open_runtime = placement.open_runtime

    def note(package: Any, name: RuntimeName, device: str, threads: int) -> Any:
        opened.append((name, threads))
        return open_runtime(package, name, device, threads)

    monkeypatch.setattr(placement, "open_runtime", note)
    return opened


@pytest.mark.parametrize("runtimes", [("onnx",), ("onnx", "torchscript")])
def test_a_network_whose_batches_are_all_short_has_one_runtime_of_one_thread(
    runtimes: tuple[RuntimeName, ...],
    opened: list[tuple[RuntimeName, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placement, "_SHORT_SECONDS", 1.0)  # also on a busy machine
    package = write_tiny(tmp_path, "line", runtimes=runtimes)
    for _ in range(2):  # the second time, with the timings of the first
        placed = place(
            package,
            "auto",
            "cpu",
            threads=2,
            max_batch_rows=16,
            inline_seconds=1.0,
            cache=TimingsCache(tmp_path / "timings"),
        )
        assert opened == [("onnx", 1)]
        assert placed.inline_runtime is None
        assert placed.rows_within(1.0) == 16
        opened.clear()


def test_a_network_with_long_batches_has_a_runtime_of_all_threads(
    opened: list[tuple[RuntimeName, int]], tmp_path: Path
) -> None:
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    placed = place(package, "auto", "cpu", threads=2, max_batch_rows=16, inline_seconds=1e-9)
    assert opened == [("onnx", 1), ("onnx", 2)]
    assert placed.rows_within(1e-9) == 0


def test_a_large_network_is_not_tried_on_one_thread_first(
    opened: list[tuple[RuntimeName, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_SMALL_BYTES", 10)
    package = write_tiny(tmp_path, "line", runtimes=("onnx",))
    place(package, "auto", "cpu", threads=2, max_batch_rows=16, inline_seconds=1e-9)
    assert opened == [("onnx", 2)]


def test_the_inline_rows_are_those_that_the_inline_runtime_computes_in_time() -> None:
    fast, slow = {1: 0.001, 100: 0.002}, {1: 0.001, 100: 0.01}
    runtime = SlowRuntime("onnx", "cpu", 0.0)
    placed = Placement(runtime, {"onnx": fast}, runtime, slow)
    assert placed.rows_within(0.002) == 11
    assert placed.rows_in(0.002, otherwise=0) == 100


def test_a_batch_on_a_gpu_never_runs_on_the_event_loop() -> None:
    class Gpu:
        name: RuntimeName = "onnx"
        device = "cuda:0"

        def __call__(self, inputs: Any) -> Any:
            raise AssertionError

    assert Placement(Gpu(), {"onnx": {1: 0.0}}).rows_within(1) == 0


# The service without optional libraries.

HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "seaborn", "onnx", "onnxscript", "typer")
WITHOUT_THEM = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # every import of it fails
from starlette.testclient import TestClient
from service.service import FitServe

MODELS = ("/models/mnist-cnn", "/models/curve-tanh", "/models/moons-tanh")
QUESTIONS = {
    "/classify_digits": {"images": [[0] * 784]},
    "/predict_curve": {"x": [1, 2]},
    "/classify_points": {"points": [[0, 1]]},
    "/v2/models/curve-tanh/infer": {
        "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3]}]
    },
}

def ask():
    with TestClient(FitServe.to_asgi(), base_url="http://localhost") as client:
        answers = {path: client.post(path, json=q) for path, q in QUESTIONS.items()}
        answers |= {path: client.get(path) for path in ("/readyz", "/models", *MODELS)}
    return {path: [answer.status_code, answer.text] for path, answer in answers.items()}

print("\\n" + json.dumps(ask()))
"""


def test_onnx_runtime_alone_serves_without_torch_or_any_training_library(
    root: Path, tmp_path: Path
) -> None:
    write_tiny(tmp_path, "mnist-cnn", "image")
    write_tiny(tmp_path, "curve-tanh", "x")
    write_tiny(tmp_path, "moons-tanh", "point")
    completed = subprocess.run(
        [sys.executable, "-c", WITHOUT_THEM, ",".join(HEAVY)],
        cwd=root,
        env={**os.environ, "FITSERVE_MODEL_REPOSITORY": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    responses = json.loads(completed.stdout.splitlines()[-1])
    assert {path: status for path, (status, _) in responses.items()} == dict.fromkeys(
        responses, 200
    )
    assert json.loads(responses["/predict_curve"][1])["y"] == [3, 5]
    assert json.loads(responses["/classify_points"][1])["predictions"][0]["label"] == "right"
    assert json.loads(responses["/v2/models/curve-tanh/infer"][1])["outputs"][0]["data"] == [7]
    models = json.loads(responses["/models"][1])
    assert models["refused"] == {}
    for model in models["models"]:
        assert model["serving"] == {"runtime": "onnx", "device": "cpu"}
        model = json.loads(responses[f"/models/{model['name']}"][1])
        assert model["serving"]["runtime"] == "onnx"
        assert list(model["serving"]["seconds_by_batch_rows"]) == ["onnx"]
